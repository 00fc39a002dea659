"""Search spaces of manual sweeps: conditional sub-spaces of hyperparameter expressions.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-sweep#parameter-expressions. The exponents of
`loguniform` are natural logarithms. Besides the YAML objects, the text form of Azure's REST bodies is read:
`uniform(0.001,0.01)`, `choice('small','medium')`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from clearsight.documents.job.hyperparameters import (
    HYPERPARAMETERS,
    INFERENCE_ONLY,
    LEGACY_NAMES,
    NOT_FOR_TRAINING,
    Hyperparameter,
    Kind,
    Value,
)
from clearsight.documents.section import BadValue, Reader, Section, integer, number, one_of, shown
from clearsight.errors import Fault
from clearsight.tasks import Task

__all__ = ["Expression", "SubSpace", "read_search_space"]


@dataclass(frozen=True, slots=True)
class Expression:
    """One distribution. `arguments` by the names of the YAML form; numbers, or the values of a choice."""

    type: str
    arguments: Mapping[str, Any]

    @property
    def values(self) -> tuple[Value, ...]:
        """Values of a `choice`; empty for distributions of numbers."""
        return tuple(self.arguments.get("values", ()))


SubSpace = Mapping[str, Value | Expression]
"""Hyperparameter -> fixed value or expression; usually one family of models with its own parameters."""

_FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "choice": ("values",),
        "randint": ("upper",),
        "uniform": ("min_value", "max_value"),
        "quniform": ("min_value", "max_value", "q"),
        "loguniform": ("min_value", "max_value"),
        "qloguniform": ("min_value", "max_value", "q"),
        "normal": ("mu", "sigma"),
        "qnormal": ("mu", "sigma", "q"),
        "lognormal": ("mu", "sigma"),
        "qlognormal": ("mu", "sigma", "q"),
    }
)
_INT_TYPES: Final = ("choice", "randint", "quniform", "qloguniform", "qnormal", "qlognormal")
_ALLOWED: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {"float": tuple(_FIELDS), "int": _INT_TYPES, "bool": ("choice",), "enum": ("choice",), "text": ("choice",)}
)
_CALL: Final = re.compile(rf"\s*({'|'.join(_FIELDS)})\s*\((.*)\)\s*", re.IGNORECASE | re.DOTALL)


def read_search_space(value: Any, task: Task, faults: list[Fault]) -> tuple[SubSpace, ...]:
    """Read `search_space`, a list of mappings."""
    if not isinstance(value, list):
        faults.append(Fault("BAD_TYPE", "search_space", f"must be a list of mappings, but got {shown(value)}"))
        return ()
    spaces = []
    for index, item in enumerate(value):
        path = f"search_space[{index}]"
        if not isinstance(item, Mapping):
            faults.append(Fault("BAD_TYPE", path, f"must be a mapping, but got {shown(item)}"))
        else:
            spaces.append(_sub_space(Section(item, path, faults), task))
    return tuple(spaces)


def _sub_space(section: Section, task: Task) -> SubSpace:
    space: dict[str, Value | Expression] = {}
    for key in section.present():
        if key in INFERENCE_ONLY:
            section.ignore(key)
            section.fault("BAD_PARAM_FOR_TASK", key, NOT_FOR_TRAINING)
        row = HYPERPARAMETERS.get(key)
        if row is None:
            continue
        value = section.raw(key)
        if not row.sweepable:
            section.fault("BAD_SWEEP", key, "cannot be swept; put it under training_parameters")
        elif not row.is_known_to(task):
            section.fault("BAD_PARAM_FOR_TASK", key, f"is not a hyperparameter of {task.value}")
        else:
            parsed = _expression_or_value(section, key, value, row)
            if parsed is not None:
                space[key] = parsed
    section.finish(LEGACY_NAMES, also_known=HYPERPARAMETERS)
    return space


def _expression_or_value(section: Section, key: str, value: Any, row: Hyperparameter) -> Value | Expression | None:
    if isinstance(value, str) and (call := _CALL.fullmatch(value)):
        kind, arguments = call[1].lower(), _arguments(call[2])
        if kind != "choice" and len(arguments) > len(_FIELDS[kind]):
            takes = ", ".join(_FIELDS[kind])
            section.fault("BAD_SWEEP", key, f"{kind} takes {takes}, but got {len(arguments)} arguments: {shown(value)}")
            return None
        named = zip(_FIELDS[kind], [arguments] if kind == "choice" else arguments, strict=False)
        value = {"type": kind, **dict(named)}
    if not isinstance(value, Mapping):
        return section.read(key, value, row.read)
    inner = Section(value, section.target(key), section.faults)
    kind = inner.take("type", one_of(_FIELDS), required=True)
    if kind is None:
        return None
    if kind not in _ALLOWED[row.kind]:
        inner.fault("BAD_SWEEP", "type", f"{key} takes {', '.join(_ALLOWED[row.kind])}, but got {kind!r}")
        inner.ignore(*inner.present())
        return None
    fields: dict[str, Any] = {name: inner.take(name, _field_reader(name, row), required=True) for name in _FIELDS[kind]}
    inner.finish()
    if any(field is None for field in fields.values()):
        return None
    if "min_value" in fields and fields["min_value"] > fields["max_value"]:
        inner.fault("OUT_OF_RANGE", "min_value", f"must be at most max_value, {fields['max_value']}")
        return None
    return Expression(kind, MappingProxyType(fields))


def _field_reader(name: str, row: Hyperparameter) -> Reader[Any]:
    if name == "values":
        return lambda value: _choices(value, row)
    if name == "upper":
        return integer(1)
    low, low_open = (0, True) if name in ("sigma", "q") else (None, False)
    if row.kind == "int":
        return integer(1 if low_open else None)
    return number(low, low_open=low_open)


def _choices(value: Any, row: Hyperparameter) -> tuple[Value, ...]:
    if not isinstance(value, list) or not value:
        raise BadValue("BAD_SWEEP", "must be a list of at least one value")
    chosen = []
    for member in value:
        if member is None:
            raise BadValue("BAD_SWEEP", "must hold no null")
        try:
            parsed = row.read(member)
            # `none` among the members of an enum means the default.
            chosen.append(row.default if parsed is None and row.default is not None else parsed)
        except BadValue as error:
            raise BadValue(error.code, f"each value {error}") from None
    return tuple(chosen)


def _arguments(written: str) -> list[Any]:
    """What stands between the parentheses of an expression in text form."""
    return [_scalar(token) for token in re.findall(r"'[^']*'|\"[^\"]*\"|[^\s,]+", written)]


def _scalar(token: str) -> Any:
    for parse in (int, float):
        try:
            return parse(token)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(token, token.strip("'\""))
