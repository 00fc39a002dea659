"""The transformations of an `MLTable` file: parsed with every fault, then applied to rows in order.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable. Transformations that are useful for tables of
images are applied; the others are refused by name.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args

import orjson

from clearsight.documents.data.label_lines import Encoding, Row
from clearsight.errors import Fault
from clearsight.fields import (
    ByShape,
    Integer,
    ListOfText,
    Number,
    OneOf,
    Section,
    Truth,
    broken_rule,
    nearest,
    read,
    shown,
    truth,
)

__all__ = ["ReadJsonLines", "Step", "apply_step", "document_fault", "parse_steps", "stream_info_columns"]

REFUSED: Final = (
    "filter",
    "read_delimited",
    "read_parquet",
    "read_delta_lake",
    "extract_columns_from_partition_format",
)

_ListOfText = Annotated[list[str], ListOfText()]
_Columns = Annotated[str | list[str], ListOfText(or_one=True)]


@dataclass(frozen=True, slots=True)
class ReadJsonLines(Section):
    """Options of reading label files."""

    encoding: Annotated[Encoding, OneOf(get_args(Encoding))] = "utf8"
    invalid_lines: Annotated[Literal["error", "drop"], OneOf(("error", "drop"))] = "error"
    include_path_column: Annotated[bool, Truth()] = False


@dataclass(frozen=True, slots=True)
class _Sample(Section):
    probability: Annotated[float, Number(0, 1)]
    seed: Annotated[int, Integer()] = 0


@dataclass(frozen=True, slots=True)
class _Datetime(Section):
    formats: _ListOfText


@dataclass(frozen=True, slots=True)
class _Boolean(Section):
    true_values: _ListOfText = field(default_factory=lambda: ["true", "1"])
    false_values: _ListOfText = field(default_factory=lambda: ["false", "0"])
    mismatch_as: Annotated[str, OneOf(("error",))] = "error"


@dataclass(frozen=True, slots=True)
class _TypeWithOptions(Section):
    datetime: _Datetime | None = None
    boolean: _Boolean | None = None

    def __post_init__(self) -> None:
        if (self.datetime is None) == (self.boolean is None):
            raise broken_rule("BAD_VALUE", "must hold one of datetime and boolean")


_TypeName = Annotated[str, OneOf(("int", "float", "string", "boolean", "datetime", "stream_info"))]


@dataclass(frozen=True, slots=True)
class _Conversion(Section):
    columns: _Columns
    column_type: Annotated[_TypeName | _TypeWithOptions, ByShape()]

    @property
    def column_names(self) -> list[str]:
        return [self.columns] if isinstance(self.columns, str) else self.columns


OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "read_json_lines": ReadJsonLines,
        "convert_column_types": list[_Conversion],
        "take": Annotated[int, Integer(0)],
        "skip": Annotated[int, Integer(0)],
        "take_random_sample": _Sample,
        "keep_columns": _Columns,
        "drop_columns": _Columns,
    }
)
"""Transformation -> the type of its options."""


@dataclass(frozen=True, slots=True)
class Step:
    """One transformation; the type of `options` belongs to `name`."""

    name: str
    options: Any


def parse_steps(document: Mapping[Any, Any], faults: list[Fault]) -> list[Step]:
    """Parse `transformations`; the first of a faultless list reads JSON lines. Every fault goes to `faults`."""
    entries = document.get("transformations")
    if not isinstance(entries, list):
        faults.append(document_fault("transformations", "must be a list that begins with read_json_lines", entries))
        return []
    steps = []
    for index, entry in enumerate(entries):
        place = f"transformations[{index}]"
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, dict) or len(entry) != 1:
            faults.append(document_fault(place, "each entry must hold one transformation", entry))
            continue
        [(name, options)] = entry.items()
        step = _parse_step(str(name), {} if options is None else options, f"{place}.{name}", faults)
        if step is not None:
            steps.append(step)
    names = [str(next(iter(entry), "")) if isinstance(entry, dict) else str(entry) for entry in entries]
    is_refused = any(name in REFUSED for name in names)
    if (names.count("read_json_lines") != 1 or names[0] != "read_json_lines") and not is_refused:
        faults.append(document_fault("transformations", "must hold read_json_lines exactly once, as the first", names))
    return steps


def _parse_step(name: str, options: Any, place: str, faults: list[Fault]) -> Step | None:
    if name in REFUSED:
        message = f"the transformation {name!r} is not supported for tables of pictures"
        faults.append(Fault("BAD_DATA_REF", f"MLTable {place}", f"{message}; supported are {', '.join(OPTIONS)}"))
        return None
    if name not in OPTIONS:
        hint = nearest(name, OPTIONS) or f"; supported are {', '.join(OPTIONS)}"
        faults.append(Fault("BAD_DATA_REF", f"MLTable {place}", f"there is no transformation {name!r}{hint}"))
        return None
    found: list[Fault] = []
    parsed = read(OPTIONS[name], options, f"MLTable {place}", found)
    faults += (Fault("BAD_DATA_REF", fault.target, fault.message) for fault in found)
    return None if found else Step(name, parsed)


def document_fault(place: str, rule: str, value: object) -> Fault:
    """A fault of the `MLTable` file itself."""
    return Fault("BAD_DATA_REF", f"MLTable {place}", f"{rule}, but got {shown(value)}")


def stream_info_columns(steps: Sequence[Step]) -> list[str]:
    """The columns that are marked as image locations, in order."""
    return [
        column
        for step in steps
        if step.name == "convert_column_types"
        for conversion in step.options
        if conversion.column_type == "stream_info"
        for column in conversion.column_names
    ]


def apply_step(step: Step, rows: list[Row], faults: list[Fault]) -> list[Row]:
    """The rows after one transformation; a cell that does not convert is a fault and keeps its value."""
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
            rule = f"column {column!r} must convert to {_type_name(conversion.column_type)}"
            message = f"{rule}, but got {str(values[column])[:60]!r}"
            faults.append(Fault("BAD_DATA", row.source, message))
    return Row(values, row.file, row.line)


def _type_name(kind: str | _TypeWithOptions) -> str:
    if isinstance(kind, str):
        return kind
    return "boolean" if kind.datetime is None else "datetime"


def _converted(value: Any, kind: str | _TypeWithOptions) -> Any:
    """One cell in the column type; date and time become ISO text, since JSON has no such type."""
    if isinstance(kind, _TypeWithOptions) and kind.datetime is not None:
        for form in kind.datetime.formats:
            try:
                return datetime.strptime(value, form).isoformat()
            except ValueError:
                continue
        raise ValueError(value)
    if isinstance(kind, _TypeWithOptions) and kind.boolean is not None:
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
            known = truth(value)
            if known is None:
                raise ValueError(value)
            return known
        case _:
            return datetime.fromisoformat(value).isoformat()
