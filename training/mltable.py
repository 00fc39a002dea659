"""The `MLTable` file of a data folder: which label files, read how; rows come out, one per JSON line.

Format: https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable. Of its transformations those that
make sense for tables of pictures are applied, in the order in which they stand; the others are refused by name.
"""

import codecs
import difflib
import glob
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from clearsight.errors import Fault, InvalidData
from clearsight.training.locations import BadLocation, split_location

__all__ = ["DEFAULT_IMAGE_COLUMN", "MLTABLE_TEXT", "MLTableRows", "Row", "read_mltable"]

DEFAULT_IMAGE_COLUMN: Final = "image_url"

MLTABLE_TEXT: Final = """paths:
  - file: ./{file_name}
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
      include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""
"""The `MLTable` file that Azure's converters write; `file_name` is the label file beside it."""

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
REFUSED: Final = (
    "filter",
    "read_delimited",
    "read_parquet",
    "read_delta_lake",
    "extract_columns_from_partition_format",
)
BOOLEANS: Final = MappingProxyType({"true": True, "1": True, "false": False, "0": False})


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object of a label file."""

    values: Mapping[str, Any]
    file: Path
    line: int

    @property
    def source(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class MLTableRows:
    """Everything an `MLTable` file yields."""

    image_column: str = DEFAULT_IMAGE_COLUMN
    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ReadJsonLines(_Options):
    encoding: Literal["utf8", "utf8bom", "iso88591", "latin1", "ascii", "windows1252", "utf16", "utf32"] = "utf8"
    invalid_lines: Literal["error", "drop"] = "error"
    include_path_column: bool = False


class _Sample(_Options):
    probability: Annotated[float, Field(ge=0, le=1)]
    seed: int = 0


class _DatetimeOptions(_Options):
    formats: list[str]


class _Datetime(_Options):
    datetime: _DatetimeOptions


class _BooleanOptions(_Options):
    true_values: list[str] = Field(default_factory=lambda: ["true", "1"])
    false_values: list[str] = Field(default_factory=lambda: ["false", "0"])
    mismatch_as: Literal["error"] = "error"


class _Boolean(_Options):
    boolean: _BooleanOptions


class _Conversion(_Options):
    columns: str | list[str]
    column_type: Literal["int", "float", "string", "boolean", "datetime", "stream_info"] | _Datetime | _Boolean

    @property
    def column_names(self) -> list[str]:
        return [self.columns] if isinstance(self.columns, str) else self.columns


OPTIONS: Final[Mapping[str, TypeAdapter[Any]]] = MappingProxyType(
    {
        "read_json_lines": TypeAdapter(_ReadJsonLines),
        "convert_column_types": TypeAdapter(list[_Conversion]),
        "take": TypeAdapter(Annotated[int, Field(ge=0)]),
        "skip": TypeAdapter(Annotated[int, Field(ge=0)]),
        "take_random_sample": TypeAdapter(_Sample),
        "keep_columns": TypeAdapter(str | list[str]),
        "drop_columns": TypeAdapter(str | list[str]),
    }
)


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    options: Any


def read_mltable(folder: Path, datastores: Mapping[str, Path]) -> MLTableRows:
    """Read the rows of a data folder. Faults of single lines are collected in the result.

    Raises `InvalidData` when the folder or its `MLTable` file is missing or unusable, with every fault of that file.
    """
    document = _load(folder)
    table = MLTableRows()
    steps = _parse_steps(document, table.faults)
    files = _find_files(folder, document, datastores, table.faults)
    if table.faults:
        raise InvalidData(f"data folder {folder}", table.faults)
    for key in document.keys() - {"$schema", "type", "paths", "transformations"}:
        table.warnings.append(f"{folder / 'MLTable'}: key {key!r} is ignored")
    table.image_column = _image_column(steps)
    for file in files:
        table.rows += _read_lines(file, steps[0].options, table)
    for step in steps[1:]:
        table.rows = _apply(step, table.rows, table.faults)
    return table


def _load(folder: Path) -> dict[Any, Any]:
    path = folder / "MLTable"
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        message = f"a data input must be a folder with a file named MLTable, but it {problem}"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(folder), message)])
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        others = sorted(entry.name for entry in folder.iterdir())[:5]
        message = f"a file named exactly MLTable must be in the folder, but there is {', '.join(others) or 'nothing'}"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(folder), message)]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"must be a YAML document, but: {' '.join(str(error).split())}"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(path), message)]) from error
    if not isinstance(document, dict) or document.get("type", "mltable") != "mltable":
        message = "must be a YAML mapping with `paths`, and `type: mltable` if a type is given"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(path), message)])
    return document


def _parse_steps(document: Mapping[Any, Any], faults: list[Fault]) -> list[_Step]:
    entries = document.get("transformations")
    if not isinstance(entries, list):
        faults.append(_fault("transformations", "must be a list that begins with read_json_lines", entries))
        return []
    steps = []
    for index, entry in enumerate(entries):
        place = f"transformations[{index}]"
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, dict) or len(entry) != 1:
            faults.append(_fault(place, "each entry must hold one transformation", entry))
            continue
        [(name, options)] = entry.items()
        step = _parse_step(str(name), {} if options is None else options, f"{place}.{name}", faults)
        if step is not None:
            steps.append(step)
    names = [str(next(iter(entry), "")) if isinstance(entry, dict) else str(entry) for entry in entries]
    is_refused = any(name in REFUSED for name in names)
    if (names.count("read_json_lines") != 1 or names[0] != "read_json_lines") and not is_refused:
        faults.append(_fault("transformations", "must hold read_json_lines exactly once, as the first", names))
    return steps


def _parse_step(name: str, options: Any, place: str, faults: list[Fault]) -> _Step | None:
    if name in REFUSED:
        message = f"the transformation {name!r} is not supported for tables of pictures"
        faults.append(Fault("BAD_DATA_REF", f"MLTable {place}", f"{message}; supported are {', '.join(OPTIONS)}"))
        return None
    if name not in OPTIONS:
        near = difflib.get_close_matches(name, OPTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; supported are {', '.join(OPTIONS)}"
        faults.append(Fault("BAD_DATA_REF", f"MLTable {place}", f"there is no transformation {name!r}{hint}"))
        return None
    try:
        return _Step(name, OPTIONS[name].validate_python(options))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = ".".join([place, *(str(part) for part in detail["loc"])])
            faults.append(_fault(key, detail["msg"], detail["input"]))
        return None


def _fault(place: str, rule: str, value: object) -> Fault:
    text = repr(value)
    return Fault("BAD_DATA_REF", f"MLTable {place}", f"{rule}, but got {text if len(text) <= 80 else text[:77] + '…'}")


def _image_column(steps: Sequence[_Step]) -> str:
    """The column converted to `stream_info`; `image_url` wins among several and is the default."""
    columns = [
        column
        for step in steps
        if step.name == "convert_column_types"
        for conversion in step.options
        if conversion.column_type == "stream_info"
        for column in conversion.column_names
    ]
    return columns[0] if columns and DEFAULT_IMAGE_COLUMN not in columns else DEFAULT_IMAGE_COLUMN


def _find_files(
    folder: Path, document: Mapping[Any, Any], datastores: Mapping[str, Path], faults: list[Fault]
) -> list[Path]:
    """Label files in the order of `paths`; those of one folder or pattern in sorted order."""
    entries = document.get("paths")
    if not isinstance(entries, list) or not entries:
        faults.append(_fault("paths", "must be a list of file, folder or pattern entries", entries))
        return []
    files: list[Path] = []
    for index, entry in enumerate(entries):
        place = f"paths[{index}]"
        if not isinstance(entry, dict) or len(entry) != 1 or not set(entry) <= {"file", "folder", "pattern"}:
            faults.append(_fault(place, "each entry must hold exactly one of file, folder, pattern", entry))
            continue
        [(kind, location)] = entry.items()
        try:
            root, path = split_location(str(location), folder, datastores)
        except BadLocation as error:
            faults.append(Fault(error.code, f"MLTable {place}.{kind}", str(error)))
            continue
        found = _expand(kind, root, path)
        if not found:
            faults.append(_fault(f"{place}.{kind}", f"must name existing files below {root}", location))
        files += found
    return files


def _expand(kind: str, root: Path, path: str) -> list[Path]:
    if kind == "file":
        return [root / path] if (root / path).is_file() else []
    if kind == "folder":
        below = (file for file in sorted((root / path).rglob("*")) if file.is_file())
        return [file for file in below if file.name != "MLTable" and not file.name.startswith(".")]
    matches = (root / match for match in sorted(glob.glob(path, root_dir=root, recursive=True)))  # noqa: PTH207
    return [match for match in matches if match.is_file() and match.name != "MLTable"]


def _read_lines(file: Path, options: _ReadJsonLines, table: MLTableRows) -> Iterator[Row]:
    """Rows of one label file; blank lines are skipped."""
    num_dropped = 0
    for number, raw in _raw_lines(file, ENCODINGS[options.encoding]):
        if isinstance(raw, str) and not raw.strip():
            continue
        try:
            if isinstance(raw, UnicodeError):
                raise raw
            values = orjson.loads(raw)
        except (UnicodeError, orjson.JSONDecodeError) as error:
            if options.invalid_lines == "drop":
                num_dropped += 1
                continue
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, orjson.JSONDecodeError) else str(error)
            message = f"each line must be a JSON object in {options.encoding}, but: {reason}"
            table.faults.append(Fault("BAD_DATA", f"{file}:{number}", message))
            continue
        if not isinstance(values, dict):
            message = f"each line must be a JSON object, but got {str(values)[:60]!r}"
            table.faults.append(Fault("BAD_DATA", f"{file}:{number}", message))
            continue
        if options.include_path_column:
            values = {"Path": str(file), **values}
        yield Row(values, file, number)
    if num_dropped:
        table.warnings.append(f"{file}: {num_dropped} invalid JSON line(s) dropped")


def _raw_lines(file: Path, encoding: str) -> Iterator[tuple[int, str | UnicodeError]]:
    """Numbered lines, split at LF alone: JSON text may hold other line separators. A line may be undecodable."""
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


def _apply(step: _Step, rows: list[Row], faults: list[Fault]) -> list[Row]:
    match step.name:
        case "take":
            return rows[: step.options]
        case "skip":
            return rows[step.options :]
        case "take_random_sample":
            generator = random.Random(step.options.seed)  # noqa: S311
            return [row for row in rows if generator.random() < step.options.probability]
        case "keep_columns" | "drop_columns":
            columns = {step.options} if isinstance(step.options, str) else set(step.options)
            keep = step.name == "keep_columns"
            return [
                Row({key: value for key, value in row.values.items() if (key in columns) == keep}, row.file, row.line)
                for row in rows
            ]
        case _:
            for conversion in step.options:
                if conversion.column_type != "stream_info":
                    rows = [_convert(row, conversion, faults) for row in rows]
            return rows


def _convert(row: Row, conversion: _Conversion, faults: list[Fault]) -> Row:
    values = dict(row.values)
    for column in conversion.column_names:
        if values.get(column) is None:
            continue
        try:
            values[column] = _converted(values[column], conversion.column_type)
        except (ValueError, TypeError, KeyError):
            message = (
                f"column {column!r} must convert to {_type_name(conversion)}, but got {str(values[column])[:60]!r}"
            )
            faults.append(Fault("BAD_DATA", row.source, message))
    return Row(values, row.file, row.line)


def _type_name(conversion: _Conversion) -> str:
    kind = conversion.column_type
    return kind if isinstance(kind, str) else type(kind).__name__.strip("_").lower()


def _converted(value: Any, kind: str | _Datetime | _Boolean) -> Any:
    """One cell in the column type; date and time become ISO text, since JSON has no such type."""
    if isinstance(kind, _Datetime):
        for form in kind.datetime.formats:
            try:
                return datetime.strptime(value, form).isoformat()
            except ValueError:
                continue
        raise ValueError(value)
    if isinstance(kind, _Boolean):
        words = dict.fromkeys(kind.boolean.true_values, True) | dict.fromkeys(kind.boolean.false_values, False)
        return words[str(value)]
    match kind:
        case "int":
            return int(value)
        case "float":
            return float(value)
        case "string":
            return value if isinstance(value, str) else orjson.dumps(value).decode()
        case "boolean":
            return BOOLEANS[str(value).lower()]
        case _:
            return datetime.fromisoformat(value).isoformat()
