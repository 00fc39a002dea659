"""The lines of one label file: JSON objects, one per line, in the encodings that `MLTable` files name."""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from clearsight.documents.data.text import marked_encoding
from clearsight.errors import Fault

__all__ = ["Encoding", "Row", "read_rows"]

Encoding = Literal["utf8", "utf8bom", "iso88591", "latin1", "ascii", "windows1252", "utf16", "utf32"]

ENCODINGS: Final = MappingProxyType(
    {
        "utf8": "utf-8",
        "utf8bom": "utf-8",
        "iso88591": "iso-8859-1",
        "latin1": "iso-8859-1",
        "ascii": "ascii",
        "windows1252": "cp1252",
        "utf16": "utf-16",
        "utf32": "utf-32",
    }
)
WIDE: Final = ("utf-16", "utf-32")


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object of a label file."""

    values: Mapping[str, Any]
    file: Path
    line: int

    @property
    def source(self) -> str:
        return f"{self.file}:{self.line}"


def read_rows(
    file: Path,
    encoding: Encoding,
    drops_invalid: bool,
    faults: list[Fault],
    warnings: list[str],
) -> Iterator[Row]:
    """Rows of one label file; blank lines are skipped.

    A line that is no JSON is a fault, or is dropped and counted in a warning when `drops_invalid`. JSON that is no
    object is always a fault.
    """
    num_dropped = 0
    for number, raw in _raw_lines(file, ENCODINGS[encoding]):
        if isinstance(raw, str) and not raw.strip():
            continue
        try:
            if isinstance(raw, UnicodeError):
                raise raw
            values = orjson.loads(raw)
        except (UnicodeError, orjson.JSONDecodeError) as error:
            if drops_invalid:
                num_dropped += 1
                continue
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, orjson.JSONDecodeError) else str(error)
            message = f"each line must be a JSON object in {encoding}, but: {reason}"
            faults.append(Fault("BAD_DATA", f"{file}:{number}", message))
            continue
        if not isinstance(values, dict):
            message = f"each line must be a JSON object, but got {str(values)[:60]!r}"
            faults.append(Fault("BAD_DATA", f"{file}:{number}", message))
            continue
        yield Row(values, file, number)
    if num_dropped:
        warnings.append(f"{file}: {num_dropped} invalid JSON line(s) dropped")


def _raw_lines(file: Path, encoding: str) -> Iterator[tuple[int, str | UnicodeError]]:
    """Numbered lines, split at LF alone: JSON text may hold other line separators. A line may be undecodable.

    A byte order mark counts for more than the encoding that the `MLTable` file names, often by default.
    """
    with file.open("rb") as lines:
        encoding = marked_encoding(lines.read(4)) or encoding
    if encoding in WIDE:
        try:
            text = file.read_bytes().decode(encoding)
        except UnicodeError as error:
            yield 1, error
            return
        yield from enumerate(text.split("\n"), start=1)
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and encoding == "utf-8":
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield number, line.decode(encoding)
            except UnicodeError as error:
                yield number, error
