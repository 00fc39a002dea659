"""How the frames of `csv` and `space` are written: Azure's `parallel_run_step.settings.json`.

The file lies beside a scoring script and holds arguments of pandas' `DataFrame.to_csv`:
`{"append_row": {"pandas.DataFrame.to_csv": {"sep": ",", "header": false, "index": true}}}`.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import orjson

from clearsight.errors import Fault, InvalidDocument, UserError
from clearsight.fields import Integer, Rule, Section, Truth, given_values, read, refused

__all__ = ["FRAME_SETTINGS_FILE", "FrameSettings", "read_frame_settings"]

FRAME_SETTINGS_FILE: Final = "parallel_run_step.settings.json"
_TO_CSV: Final = "pandas.DataFrame.to_csv"


@dataclass(frozen=True, slots=True)
class FrameSettings:
    """Arguments of pandas' `DataFrame.to_csv`, with the defaults of form A."""

    sep: str = ","
    header: bool = False
    index: bool = True
    """The number of the row in its file, before the other columns."""
    quotechar: str = '"'
    quoting: int = csv.QUOTE_MINIMAL
    """0: where it is needed, 1: always, 2: everything but numbers; constants of the module `csv`."""


@dataclass(frozen=True, slots=True)
class _Character(Rule):
    def read(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) != 1 or not (value.isprintable() or value == "\t"):
            raise refused("BAD_VALUE", "must be one printable character or a tab")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": 1}


@dataclass(frozen=True, slots=True)
class _ToCsv(Section):
    sep: Annotated[str, _Character()] | None = None
    header: Annotated[bool, Truth()] | None = None
    index: Annotated[bool, Truth()] | None = None
    quotechar: Annotated[str, _Character()] | None = None
    quoting: Annotated[int, Integer(csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC)] | None = None


def read_frame_settings(file: Path) -> Mapping[str, Any]:
    """The arguments that the file gives, a part of the fields of `FrameSettings`.

    Raises `InvalidDocument` with every fault, `UserError` for a file that is not JSON of that form.
    """
    try:
        document = orjson.loads(file.read_bytes())
        arguments = document["append_row"][_TO_CSV]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        example = f'{{"append_row": {{"{_TO_CSV}": {{"sep": ","}}}}}}'
        raise UserError(f"{file} must hold JSON of the form {example}, but got {what}") from None
    faults: list[Fault] = []
    section = read(_ToCsv, arguments, f"append_row.{_TO_CSV}", faults)
    given = {} if section is None else given_values(section)
    whole = FrameSettings(**given)
    if whole.sep == whole.quotechar:
        faults.append(Fault("BAD_VALUE", f"append_row.{_TO_CSV}.sep", f"must differ from quotechar, {whole.sep!r}"))
    if faults:
        raise InvalidDocument(str(file), faults)
    return given
