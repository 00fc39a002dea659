"""Search spaces of manual sweeps: conditional sub-spaces of hyperparameter expressions.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-sweep#parameter-expressions. The exponents of
`loguniform` are natural logarithms. Besides the YAML objects, the text form of Azure's REST bodies is read:
`uniform(0.001,0.01)`, `choice('small','medium')`.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from clearsight.documents.job.hyperparameters import (
    HYPERPARAMETERS,
    Hyperparameter,
    HyperparameterSection,
    Kind,
    Value,
)
from clearsight.errors import Fault
from clearsight.fields import (
    ByType,
    Integer,
    Number,
    OneOf,
    Rule,
    Section,
    at_key,
    broken_rule,
    given_values,
    read,
    refused,
    shown,
)
from clearsight.tasks import Task

__all__ = ["Expression", "SubSpace", "read_search_space", "sub_space_class"]


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


class _ExpressionSection(Section):
    """Base class of the sections of expressions, one per type of expression and hyperparameter."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # made classes have no source to search

    def __post_init__(self) -> None:
        values = given_values(self)
        if "min_value" in values and values["min_value"] > values["max_value"]:
            message = f"must be at most max_value, {values['max_value']}"
            raise broken_rule("OUT_OF_RANGE", message, "min_value")


def _to_expression(section: _ExpressionSection) -> Expression:
    values = given_values(section)
    return Expression(values.pop("type"), MappingProxyType(values))


@dataclass(frozen=True, slots=True)
class _FixedOrDrawn:
    """An annotation of a key of a sub-space: a value of the hyperparameter, or an expression that draws one."""

    row: Hyperparameter

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not self.row.sweepable:
            return core_schema.no_info_plain_validator_function(_not_sweepable)
        kinds = {kind: _expression_class(kind, self.row) for kind in _ALLOWED[self.row.kind]}
        expression = core_schema.no_info_after_validator_function(
            _to_expression, handler.generate_schema(Annotated[Any, ByType(kinds)])
        )
        either = core_schema.tagged_union_schema(
            {"<value>": handler.generate_schema(Annotated[Any, self.row.rule]), "<expression>": expression},
            discriminator=lambda value: "<expression>" if isinstance(value, Mapping) else "<value>",
        )
        return core_schema.no_info_before_validator_function(self._as_mapping, either)

    def _as_mapping(self, value: Any) -> Any:
        """An expression in text form as the mapping that means the same; everything else as it is."""
        if isinstance(value, str) and (call := _CALL.fullmatch(value)):
            kind, arguments = call[1].lower(), _arguments(call[2])
            if kind != "choice" and len(arguments) > len(_FIELDS[kind]):
                message = f"{kind} takes {', '.join(_FIELDS[kind])}, but got {len(arguments)} arguments: {shown(value)}"
                raise broken_rule("BAD_SWEEP", message)
            named = zip(_FIELDS[kind], [arguments] if kind == "choice" else arguments, strict=False)
            value = {"type": kind, **dict(named)}
        if isinstance(value, Mapping) and value.get("type") is not None:
            try:
                kind = OneOf(tuple(_FIELDS)).read(value["type"])
            except PydanticCustomError as error:
                raise at_key(error, "type", value["type"]) from None
            allowed = _ALLOWED[self.row.kind]
            if kind not in allowed:
                message = f"{self.row.name} takes {', '.join(allowed)}, but got {kind!r}"
                raise broken_rule("BAD_SWEEP", message, "type")
        return value

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if not self.row.sweepable:
            return {"not": {}}
        either = handler(schema)
        names = ("".join(f"[{letter}{letter.upper()}]" for letter in kind) for kind in _FIELDS)
        return {"anyOf": [*either["oneOf"], {"type": "string", "pattern": rf"^\s*({'|'.join(names)})\s*\("}]}


def _not_sweepable(value: Any) -> Any:
    raise broken_rule("BAD_SWEEP", "cannot be swept; put it under training_parameters")


def _expression_class(kind: str, row: Hyperparameter) -> type[_ExpressionSection]:
    keys: list[Any] = [("type", Annotated[str, OneOf((kind,))])]
    keys += [(name, Annotated[Any, _argument_rule(name, row)]) for name in _FIELDS[kind]]
    name = f"{kind}_of_{row.name}"
    made: type[_ExpressionSection] = make_dataclass(name, keys, bases=(_ExpressionSection,), frozen=True)
    return made


@functools.cache
def sub_space_class(task: Task) -> type[HyperparameterSection]:
    """The section of one sub-space of a task's search space."""
    keys: list[Any] = [
        (name, Annotated[Any, _FixedOrDrawn(row)] | None, field(default=None))
        for name, row in HYPERPARAMETERS.items()
        if row.is_known_to(task) or not row.sweepable
    ]
    made: type[HyperparameterSection] = make_dataclass(
        "SubSpace", keys, bases=(HyperparameterSection,), namespace={"task": task}, frozen=True
    )
    return made


def read_search_space(value: Any, task: Task, faults: list[Fault]) -> tuple[SubSpace, ...]:
    """Read `search_space`, a list of mappings."""
    if not isinstance(value, list):
        faults.append(Fault("BAD_TYPE", "search_space", f"must be a list of mappings, but got {shown(value)}"))
        return ()
    kind = sub_space_class(task)
    sections = [(item, read(kind, item, f"search_space[{index}]", faults)) for index, item in enumerate(value)]
    return tuple(section.values(item) for item, section in sections if section is not None)


def _argument_rule(name: str, row: Hyperparameter) -> Rule:
    if name == "values":
        return _Choices(row)
    if name == "upper":
        return Integer(1)
    low, low_open = (0, True) if name in ("sigma", "q") else (None, False)
    if row.kind == "int":
        return Integer(1 if low_open else None)
    return Number(low, low_open=low_open)


@dataclass(frozen=True, slots=True)
class _Choices(Rule):
    """A list of at least one value of a hyperparameter."""

    row: Hyperparameter

    def read(self, value: Any) -> tuple[Value, ...]:
        if not isinstance(value, list) or not value:
            raise refused("BAD_SWEEP", "must be a list of at least one value")
        if any(member is None for member in value):
            raise refused("BAD_SWEEP", "must hold no null")
        try:
            chosen = [self.row.rule.read(member) for member in value]
        except PydanticCustomError as error:
            raise refused(error.type, f"each value {error.message()}") from None
        # `none` among the members of an enum means the default.
        return tuple(self.row.default if member is None else member for member in chosen)  # type: ignore[misc]

    def json_schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.row.rule.json_schema(), "minItems": 1}


def _arguments(written: str) -> list[Any]:
    """The arguments between the parentheses of an expression in text form."""
    return [_scalar(token) for token in re.findall(r"'[^']*'|\"[^\"]*\"|[^\s,]+", written)]


def _scalar(token: str) -> Any:
    for parse in (int, float):
        try:
            return parse(token)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(token, token.strip("'\""))
