"""Tables with an image in each row: CSV, JSON lines and Parquet.

The column is `image`, which holds base64 text (bytes in Parquet) or the path of a file, or else `image_url`. What a
value is, is decided by its content, when the table is listed. Rows are counted from 0 without blank lines, as
pandas counts them.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import accumulate, islice, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Protocol

from clearsight.documents.data.locations import BadLocation, resolve_location
from clearsight.documents.data.text import marked_encoding
from clearsight.errors import UserError
from clearsight.fields import shown
from clearsight.images.decode import DecodeLimits
from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.source import container_entry, file_entry, suffix_of

__all__ = ["BadTable", "NoImageColumn", "Table", "open_table", "table_entries"]

COLUMNS: Final = ("image", "image_url")
"""In the order of precedence."""

_MAX_LINE_BYTES: Final = 2 * DecodeLimits().max_bytes
"""Base64 text takes 4/3 of the bytes of the image file; a line that is longer is no row of a table of images."""
_MAX_PATH: Final = 4096
_ROWS_PER_BATCH: Final = 16


class BadTable(UserError):
    """A file is no table, or a damaged one."""


class NoImageColumn(BadTable):
    """A table has no column of images."""

    def __init__(self, path: Path, found: list[str]) -> None:
        names = ", ".join(found[:10]) or "no columns"
        super().__init__(f"{path} must have a column {' or '.join(COLUMNS)}, but it has {names[:200]}")


class Table(Protocol):
    """An open table."""

    column: str
    """The column of the images."""

    def values(self) -> Iterator[tuple[int, Any]]:
        """Offset (`Entry.offset`) and value of each row; any bytes stand for the value of a column of bytes."""

    def value(self, row: int, offset: int) -> Any:
        """The value of a row."""

    def close(self) -> None:
        """Close the file."""


def table_entries(path: Path, name: str, datastores: Mapping[str, Path]) -> Iterator[Entry]:
    """The entries of a table. Raises `BadTable`, `BadLocation` with the row, `OSError`."""
    status = path.stat()
    with closing(open_table(path)) as table:
        for row, (offset, value) in enumerate(table.values()):
            try:
                location = _location(value, table.column, path.parent, datastores)
            except BadLocation as error:
                raise BadLocation(error.code, f"{path}, row {row}: {error}") from None
            if location is None:
                yield container_entry(path, status, name, table.column, row, offset)
            else:
                yield file_entry(location, name, row)


def _location(value: Any, column: str, folder: Path, datastores: Mapping[str, Path]) -> Path | None:
    """The file that a value names; None for a value that holds the image itself, or is no value at all."""
    if not isinstance(value, str) or not value or len(value) > _MAX_PATH or value.startswith("data:"):
        return None
    is_location = (
        column == "image_url"
        or "://" in value
        or suffix_of(value) in IMAGE_SUFFIXES  # base64 text has no dots
        or os.path.isfile(folder / value)  # noqa: PTH113 (False for text that cannot be a path)
    )
    return resolve_location(value, folder, datastores) if is_location else None


def open_table(path: Path) -> Table:
    """Open a table by the suffix of its name. Raises `BadTable`, `OSError`."""
    return _KINDS[suffix_of(path.name)](path)


def _image_column(path: Path, names: list[str]) -> str:
    column = next((column for column in COLUMNS if column in names), None)
    if column is None:
        raise NoImageColumn(path, names)
    return column


class _Lines:
    """The lines of a text file from an offset on; `offset` is where the next one begins."""

    def __init__(self, path: Path, file: BinaryIO, offset: int) -> None:
        self._path, self._file, self.offset = path, file, offset
        file.seek(offset)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        if len(line) == _MAX_LINE_BYTES:
            raise BadTable(f"{self._path}: a line must have less than {_MAX_LINE_BYTES} bytes, but one has more")
        self.offset += len(line)
        return line.decode("utf-8", "surrogateescape")  # other columns may hold what they want


def _open_text(path: Path) -> tuple[BinaryIO, int]:
    """A file of text in UTF-8, and the length of its byte order mark."""
    file = path.open("rb")
    encoding = marked_encoding(file.read(4))
    if encoding not in (None, "utf-8"):
        file.close()
        raise BadTable(f"{path} must be text in UTF-8, but it begins like {encoding}; save it as UTF-8")
    return file, 0 if encoding is None else 3


class _CsvTable:
    """Comma-separated values, also with semicolons or tabs, with a header; cells may be quoted and hold line ends."""

    def __init__(self, path: Path) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), _MAX_LINE_BYTES))
        self._path = path
        self._file, self._start = _open_text(path)
        try:
            headers = {delimiter: self._header(delimiter) for delimiter in ",;\t"}
            self._delimiter = next((one for one in headers if set(COLUMNS) & set(headers[one])), ",")
            header = headers[self._delimiter]
            self.column = _image_column(path, header)
        except BaseException:
            self._file.close()
            raise
        self._index = header.index(self.column)

    def _header(self, delimiter: str) -> list[str]:
        _, header = next(self._records(self._start, delimiter), (0, []))
        return [name.strip() for name in header]

    def values(self) -> Iterator[tuple[int, Any]]:
        records = self._records(self._start, self._delimiter)
        next(records)
        for offset, record in records:
            yield offset, self._cell(record)

    def value(self, row: int, offset: int) -> Any:
        return self._cell(next(self._records(offset, self._delimiter))[1])

    def close(self) -> None:
        self._file.close()

    def _cell(self, record: list[str]) -> str | None:
        return record[self._index] if self._index < len(record) else None

    def _records(self, offset: int, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Offset and cells of the records from an offset on, without blank lines."""
        lines = _Lines(self._path, self._file, offset)
        reader = csv.reader(lines, delimiter=delimiter)
        while True:
            offset = lines.offset
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise BadTable(f"{self._path} must be a CSV file, but the row at byte {offset}: {error}") from None
            if record is None:
                return
            if record:
                yield offset, record


class _JsonLinesTable:
    """A JSON object on each line. A line that is none is a row without a value."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file, self._start = _open_text(path)
        try:
            first = next((row for _, row in self._rows(self._start)), None)
            self.column = _image_column(path, list(first) if isinstance(first, dict) else [])
        except BaseException:
            self._file.close()
            raise

    def values(self) -> Iterator[tuple[int, Any]]:
        for offset, row in self._rows(self._start):
            yield offset, row.get(self.column) if isinstance(row, dict) else None

    def value(self, row: int, offset: int) -> Any:
        found = next(self._rows(offset))[1]
        if not isinstance(found, dict):
            raise BadTable(f"row {row} of {self._path} must be a JSON object, but got {shown(found)}")
        return found.get(self.column)

    def close(self) -> None:
        self._file.close()

    def _rows(self, offset: int) -> Iterator[tuple[int, Any]]:
        """Offset and JSON of the lines from an offset on, without blank ones; the text of one that is no JSON."""
        lines = _Lines(self._path, self._file, offset)
        while True:
            offset = lines.offset
            line = next(lines, None)
            if line is None:
                return
            if line.strip():
                try:
                    yield offset, json.loads(line)
                except ValueError:
                    yield offset, line


class _ParquetTable:
    """A Parquet file; images are bytes, text, or a struct with a field `bytes`, as Hugging Face writes them."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa  # type: ignore[import-untyped]
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise UserError(
                f"reading {path} needs the package {error.name!r}, which is not installed; "
                "install it with: pip install 'clearsight[batch]'"
            ) from error
        self._path = path
        self._errors = (pa.ArrowException, OSError)
        try:
            # Streamed in pieces: a row group may be larger than the memory.
            self._file = parquet.ParquetFile(path, buffer_size=1024 * 1024, pre_buffer=False)
        except self._errors as error:
            raise self._damaged(error) from None
        schema = self._file.schema_arrow
        try:
            self.column = _image_column(path, schema.names)
        except NoImageColumn:
            self._file.close()
            raise
        kind, types = schema.field(self.column).type, pa.types
        of_bytes = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_struct)
        self._is_of_bytes = any(is_type(kind) for is_type in of_bytes)
        metadata = self._file.metadata
        rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._group_ends = list(accumulate(rows))
        self._next_row = -1
        self._rest: Iterator[Any] = iter(())

    def values(self) -> Iterator[tuple[int, Any]]:
        if self._is_of_bytes:
            yield from repeat((0, b""), self._file.metadata.num_rows)
        else:
            yield from ((0, value) for value in self._read_from(0))

    def value(self, row: int, offset: int) -> Any:
        group = next(group for group, end in enumerate(self._group_ends) if row < end)
        start = self._group_ends[group - 1] if group else 0
        if not start <= self._next_row <= row:
            self._rest, self._next_row = self._read_from(group), start
        skipped, self._next_row = row - self._next_row, -1  # unless all goes well
        value = next(islice(self._rest, skipped, None))
        self._next_row = row + 1
        return value["bytes"] if isinstance(value, dict) and "bytes" in value else value

    def close(self) -> None:
        self._file.close()

    def _read_from(self, group: int) -> Iterator[Any]:
        groups = range(group, len(self._group_ends))
        try:
            for batch in self._file.iter_batches(_ROWS_PER_BATCH, list(groups), [self.column], use_threads=False):
                yield from batch.column(0).to_pylist()
        except self._errors as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> Exception:
        """The error to raise; pyarrow also uses `OSError` for damaged content, without an error number."""
        if isinstance(error, OSError) and error.errno is not None:
            return error
        return BadTable(f"{self._path} must be a whole Parquet file, but: {' '.join(str(error).split())}")


_KINDS: Final[Mapping[str, Callable[[Path], Table]]] = MappingProxyType(
    {".csv": _CsvTable, ".jsonl": _JsonLinesTable, ".parquet": _ParquetTable, ".pqt": _ParquetTable}
)
