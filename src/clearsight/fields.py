"""Typed fields of documents that people write, on pydantic, with the faults of Clearsight.

A document is a tree of sections: frozen dataclasses that inherit from `Section` and annotate each field with the rule
that its value must meet. `read` checks a document against such a class and lists every fault at once, with code, key
path, what must hold, what came, and the nearest name for an unknown key. `json_schema` makes a JSON Schema of the same
class, which accepts what `read` accepts as far as JSON Schema can say it.
"""

import difflib
import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar, get_args

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from clearsight.errors import Fault

__all__ = [
    "SCHEMA_DRAFT",
    "AnyMapping",
    "Anything",
    "ByShape",
    "ByType",
    "Integer",
    "ListOfText",
    "Number",
    "OneOf",
    "Rule",
    "Section",
    "Text",
    "TextMap",
    "Truth",
    "at_key",
    "broken_rule",
    "given_values",
    "json_schema",
    "nearest",
    "read",
    "refused",
    "shown",
    "truth",
]

T = TypeVar("T")
JsonSchema = dict[str, Any]

_TRUTHS: Final = MappingProxyType(
    {
        **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
        **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
    }
)
"""What Azure's loader takes for a boolean, in any case."""

SCHEMA_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The draft of JSON Schema that `json_schema` writes."""

_REMOVED: Final = object()

_INTEGER_TEXT: Final = r"^\s*[-+]?[0-9]+\s*$"
_NUMBER_TEXT: Final = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"


def truth(value: object) -> bool | None:
    """Read a truth value: true, false, 1, 0, or such a word as text in any case; None for everything else."""
    return _TRUTHS.get(str(value).strip().lower()) if isinstance(value, (bool, int, str)) else None


def shown(value: object) -> str:
    """The value as it appears in a message, cut to one short line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def nearest(key: str, known: Iterable[str]) -> str:
    """A suggestion to append to the message on an unknown key; empty when no known key is similar."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def refused(code: str, message: str) -> PydanticCustomError:
    """The error of a value that breaks its rule. `message` says what must hold; the value is appended to it."""
    return PydanticCustomError(code, message)


def broken_rule(code: str, message: str, key: str = "") -> PydanticCustomError:
    """An error whose message is complete, at `key` of the section that raises it, or at the section itself."""
    return PydanticCustomError(code, message, {"key": key})


def at_key(error: PydanticCustomError, key: str, value: object) -> PydanticCustomError:
    """The error of a value at `key` of the section that raises it."""
    return broken_rule(error.type, f"{error.message()}, but got {shown(value)}", key)


class Rule(ABC):
    """What the value of a field must meet, as an annotation: `Annotated[int, Integer(1, 50)]`."""

    __slots__ = ()

    @abstractmethod
    def read(self, value: Any) -> Any:
        """Return the value, converted to one form. Raises `refused` for a value that breaks the rule."""

    @abstractmethod
    def json_schema(self) -> JsonSchema:
        """The JSON Schema of values that `read` accepts."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self.json_schema()


@dataclass(frozen=True, slots=True)
class Truth(Rule):
    """A truth value; unless `strict` also 1, 0 and words such as `yes`."""

    must: str = "must be true or false (or 1, 0)"
    strict: bool = False

    def read(self, value: Any) -> bool:
        known = truth(value) if isinstance(value, bool) or not self.strict else None
        if known is None:
            raise refused("BAD_TYPE", self.must)
        return known

    def json_schema(self) -> JsonSchema:
        if self.strict:
            return {"type": "boolean"}
        return {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, _any_case(_TRUTHS)]}


@dataclass(frozen=True, slots=True)
class Integer(Rule):
    """A whole number in [low, high]; unless `strict` also as text or as a float without a fraction."""

    low: int | None = None
    high: int | None = None
    must: str = ""
    """Message for every refused value; by default a wrong type and a wrong size have messages of their own."""
    strict: bool = False

    def read(self, value: Any) -> int:
        if not self.strict:
            value = self._converted(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise refused("BAD_TYPE", self.must or "must be a whole number")
        if not _is_within(value, self.low, self.high):
            raise refused("OUT_OF_RANGE", self.must or f"must be {_interval(self.low, self.high)}")
        return value

    @staticmethod
    def _converted(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return int(value.strip())
            except ValueError:
                return value
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def json_schema(self) -> JsonSchema:
        schema = {"type": "integer", **_bounds(self.low, self.high)}
        return schema if self.strict else {"anyOf": [schema, {"type": "string", "pattern": _INTEGER_TEXT}]}


@dataclass(frozen=True, slots=True)
class Number(Rule):
    """A finite number in an interval; unless `strict` also as text such as `1e-3`, which YAML reads as text."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    must: str = ""
    """Message for every refused value; by default a wrong type and a wrong size have messages of their own."""
    strict: bool = False

    def read(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float) if self.strict else (int, float, str)):
            raise refused("BAD_TYPE", self.must or ("must be a finite number" if self.strict else "must be a number"))
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise refused("BAD_TYPE", self.must or "must be a number") from None
        if not math.isfinite(number):
            raise refused("BAD_TYPE", self.must or "must be a finite number")
        if not _is_within(number, self.low, self.high, self.low_open, self.high_open):
            interval = _interval(self.low, self.high, self.low_open, self.high_open)
            raise refused("OUT_OF_RANGE", self.must or f"must be {'a number ' if self.strict else ''}{interval}")
        return number

    def json_schema(self) -> JsonSchema:
        schema = {"type": "number", **_bounds(self.low, self.high, self.low_open, self.high_open)}
        return schema if self.strict else {"anyOf": [schema, {"type": "string", "pattern": _NUMBER_TEXT}]}


def _is_within(
    value: float, low: float | None, high: float | None, low_open: bool = False, high_open: bool = False
) -> bool:
    is_low = low is not None and (value < low or (low_open and value == low))
    is_high = high is not None and (value > high or (high_open and value == high))
    return not is_low and not is_high


def _interval(low: float | None, high: float | None, low_open: bool = False, high_open: bool = False) -> str:
    if low == high:
        return str(low)
    if high is None:
        return f"{'above' if low_open else 'at least'} {low}"
    return f"in {'(' if low_open else '['}{low}, {high}{')' if high_open else ']'}"


def _bounds(low: float | None, high: float | None, low_open: bool = False, high_open: bool = False) -> JsonSchema:
    bounds = {"exclusiveMinimum" if low_open else "minimum": low, "exclusiveMaximum" if high_open else "maximum": high}
    return {key: bound for key, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, slots=True)
class Text(Rule):
    """Text that is not blank, unless `may_be_empty`; `converts` also takes numbers and truth values, as text."""

    may_be_empty: bool = False
    converts: bool = False
    must: str = "must be text"

    def read(self, value: Any) -> str:
        if self.converts and isinstance(value, (bool, int, float)):
            return str(value).lower() if isinstance(value, bool) else str(value)
        if not isinstance(value, str) or not (self.may_be_empty or value.strip()):
            raise refused("BAD_TYPE", self.must)
        return value

    def json_schema(self) -> JsonSchema:
        schema = {"type": "string"} if self.may_be_empty else {"type": "string", "pattern": r"\S"}
        return {"anyOf": [schema, {"type": ["number", "boolean"]}]} if self.converts else schema


@dataclass(frozen=True, slots=True)
class OneOf(Rule):
    """A member of a closed set, in any case and in snake_case or CamelCase; exactly as listed when `strict`."""

    members: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Another spelling -> the member that it means."""
    strict: bool = False

    def read(self, value: Any) -> str:
        member = self._spellings().get(self._plain(value)) if isinstance(value, str) else None
        if member is None:
            raise refused("BAD_ENUM", f"must be one of {', '.join(self.members)}")
        return member

    def _spellings(self) -> dict[str, str]:
        own = {self._plain(member): member for member in self.members}
        return own | {self._plain(alias): member for alias, member in self.aliases.items()}

    def _plain(self, value: str) -> str:
        return value if self.strict else value.strip().lower().replace("_", "")

    def json_schema(self) -> JsonSchema:
        if self.strict:
            return {"type": "string", "enum": [*self.members, *self.aliases]}
        return {"anyOf": [{"enum": list(self.members)}, _any_case(self._spellings())]}


def _any_case(words: Iterable[str]) -> JsonSchema:
    """Text that is one of the words, in any case, with underscores anywhere."""
    letters = (
        "_*".join(f"[{char}{char.upper()}]" if char.isalpha() else re.escape(char) for char in word) for word in words
    )
    return {"type": "string", "pattern": rf"^\s*_*({'|'.join(letters)})_*\s*$"}


@dataclass(frozen=True, slots=True)
class ListOfText(Rule):
    """A list of text; a single text too, and kept as one, when `or_one`."""

    or_one: bool = False

    def read(self, value: Any) -> list[str] | str:
        if self.or_one and isinstance(value, str):
            return str(Text().read(value))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise refused("BAD_TYPE", "must be a list of text")
        return value

    def json_schema(self) -> JsonSchema:
        schema = {"type": "array", "items": {"type": "string"}}
        return {"anyOf": [schema, Text().json_schema()]} if self.or_one else schema


@dataclass(frozen=True, slots=True)
class TextMap(Rule):
    """A mapping of text to text or null."""

    def read(self, value: Any) -> dict[str, str | None]:
        if not isinstance(value, Mapping):
            raise refused("BAD_TYPE", "must be a mapping of text to text")
        for key, item in value.items():
            if not isinstance(key, str) or not isinstance(item, (str, type(None))):
                raise refused("BAD_TYPE", f"must be a mapping of text to text (quote {shown(item)} under {key!r})")
        return dict(value)

    def json_schema(self) -> JsonSchema:
        return {"type": "object", "additionalProperties": {"type": ["string", "null"]}}


@dataclass(frozen=True, slots=True)
class AnyMapping(Rule):
    """A mapping with any keys and values; with text alone instead when `or_text`."""

    or_text: bool = False

    def read(self, value: Any) -> dict[str, Any] | str:
        if self.or_text and isinstance(value, str):
            return value
        if not isinstance(value, Mapping):
            raise refused("BAD_TYPE", "must be a mapping")
        return {str(key): item for key, item in value.items()}

    def json_schema(self) -> JsonSchema:
        return {"type": ["object", "string"] if self.or_text else "object"}


@dataclass(frozen=True, slots=True)
class Anything(Rule):
    """Any value, as it stands."""

    def read(self, value: Any) -> Any:
        return value

    def json_schema(self) -> JsonSchema:
        return {}


class Section:
    """Base class of the dataclasses that describe one mapping of a document."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    null_is_absent: ClassVar[bool] = True
    """Whether a known key with the value null counts as absent."""
    ignored_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that are accepted with any value and change nothing."""
    required_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that must be present although the field has a default: `read` then also gives a section without them."""

    @classmethod
    def field_names(cls) -> list[str]:
        """The keys with a meaning, in the order of the fields."""
        own: Any = cls
        return [item.name for item in fields(own)]

    @classmethod
    def known_keys(cls) -> Collection[str]:
        """Keys that may be null, and that are suggested for a similar unknown one."""
        return [*cls.field_names(), *cls.ignored_keys]

    @classmethod
    def unknown_key(cls, key: str) -> PydanticCustomError:
        """The error for a key that the section does not have."""
        return broken_rule("UNKNOWN_KEY", f"unknown key{nearest(key, cls.known_keys())}")

    @classmethod
    def missing_key(cls, key: str) -> PydanticCustomError:
        """The error for a required key that is absent."""
        return broken_rule("MISSING_KEY", "is required")

    @classmethod
    def no_mapping(cls, value: Any) -> PydanticCustomError:
        """The error for a value that is no mapping."""
        return refused("BAD_TYPE", "must be a mapping")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Pydantic reuses the schema that it registers for a class; it must be the one that this method wraps.
        inner: Any = {**handler.resolve_ref_schema(handler(source))}
        reference = inner.pop("ref", None)
        return core_schema.with_info_wrap_validator_function(cls._read, inner, ref=reference)

    @classmethod
    def _read(
        cls,
        value: Any,
        handler: core_schema.ValidatorFunctionWrapHandler,
        info: core_schema.ValidationInfo[Any],
    ) -> Any:
        if not isinstance(value, Mapping):
            raise cls.no_mapping(value)
        known = cls.known_keys()
        given = {str(key): item for key, item in value.items() if key not in cls.ignored_keys}
        if cls.null_is_absent:
            given = {key: item for key, item in given.items() if item is not None or key not in known}
        is_partial = info.context is not None
        errors = [
            InitErrorDetails(type=cls.missing_key(key), loc=(key,), input=value)
            for key in cls.required_keys
            if key not in given and not is_partial
        ]
        try:
            section = handler(given)
        except ValidationError as error:
            errors += [cls._detail(entry) for entry in error.errors(include_url=False)]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return section

    @classmethod
    def _detail(cls, entry: Any) -> InitErrorDetails:
        """One of pydantic's errors, with the messages of this module."""
        location, kind = entry["loc"], entry["type"]
        if kind in ("extra_forbidden", "unexpected_keyword_argument"):
            error = cls.unknown_key(str(location[-1]))
        elif kind == "missing":
            error = cls.missing_key(str(location[-1]))
        elif kind in ("dict_type", "mapping_type"):
            error = refused("BAD_TYPE", "must be a mapping")
        else:
            error = PydanticCustomError(kind, entry["msg"], entry.get("ctx"))
        return InitErrorDetails(type=error, loc=location, input=entry["input"])

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(schema)
        own = handler.resolve_ref_schema(reference)
        properties = own.setdefault("properties", {})
        required = [key for key in cls.field_names() if key in (*own.get("required", ()), *cls.required_keys)]
        for key in required:
            properties[key].pop("default", None)
        if cls.null_is_absent:
            for key in properties.keys() - set(required):
                properties[key] = _or_null(properties[key])
        properties.update((key, {}) for key in cls.ignored_keys)
        if required:
            own["required"] = required
        return reference


def given_values(section: Section) -> dict[str, Any]:
    """A section as plain data: the fields that are not None, nested sections included."""
    values = ((name, getattr(section, name)) for name in section.field_names())
    return {
        name: given_values(value) if isinstance(value, Section) else value
        for name, value in values
        if value is not None
    }


def _or_null(schema: JsonSchema) -> JsonSchema:
    outer: JsonSchema = {key: schema[key] for key in ("default", "description") if key in schema}
    inner = {key: item for key, item in schema.items() if key not in outer}
    return {"anyOf": [*inner.get("anyOf", [inner]), {"type": "null"}], **outer}


@dataclass(frozen=True, slots=True)
class ByShape:
    """An annotation of `text | section`: a mapping is read as the section, everything else as the text."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text, section = get_args(source)
        return core_schema.tagged_union_schema(
            {"<text>": handler.generate_schema(text), "<mapping>": handler.generate_schema(section)},
            discriminator=lambda value: "<mapping>" if isinstance(value, Mapping) else "<text>",
        )


@dataclass(frozen=True, slots=True)
class ByType:
    """An annotation of a union of sections, one of which is chosen by the key `type`."""

    kinds: Mapping[str, Any] = field(hash=False)
    """Value of `type` -> section."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        union = core_schema.tagged_union_schema(
            {f"<{name}>": handler.generate_schema(kind) for name, kind in self.kinds.items()},
            discriminator=lambda value: f"<{value['type']}>",
        )
        return core_schema.no_info_before_validator_function(self._checked, union)

    def _checked(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise refused("BAD_TYPE", "must be a mapping")
        if value.get("type") is None:
            raise broken_rule("MISSING_KEY", "is required", "type")
        try:
            return {**value, "type": OneOf(tuple(self.kinds)).read(value["type"])}
        except PydanticCustomError as error:
            raise at_key(error, "type", value["type"]) from None


def read(kind: type[T], value: Any, path: str, faults: list[Fault], *, value_code: str = "") -> T | None:
    """Check a value of a document against a section or an annotated type, and add every fault to `faults`.

    Returns what can be made of the faultless rest, in which defaults stand for what is faulty, so that the caller can
    find faults that join several keys; None when nothing can be made of it. `path` is the key path of the value, empty
    for a whole document. `value_code` replaces the codes of values that break their rules.
    """
    result, entries = _validated(kind, value, None)
    faults += dict.fromkeys(_fault(entry, path, value_code) for entry in entries)
    while entries:
        rest = _without(value, {_faulty_location(entry) for entry in entries})
        if rest is _REMOVED:
            return None
        result, remaining = _validated(kind, rest, "partial")
        if remaining and rest == value:
            return None
        value, entries = rest, remaining
    return result


def _validated(kind: type[T], value: Any, context: str | None) -> tuple[T | None, Sequence[Any]]:
    """The value as `kind`, or pydantic's errors."""
    key: Any = kind
    try:
        result: T = _adapter(key).validate_python(value, context=context)
    except ValidationError as error:
        return None, error.errors(include_url=False)
    return result, ()


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fault(entry: Any, path: str, value_code: str) -> Fault:
    code, message, context = entry["type"], entry["msg"], entry.get("ctx") or {}
    key = context.get("key")
    for part in [*_keys(entry["loc"]), *([key] if key else [])]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    if code == "list_type":
        code, message = "BAD_TYPE", "must be a list"
    if key is None:
        message = f"{message}, but got {shown(entry['input'])}"
    if value_code and code not in ("UNKNOWN_KEY", "MISSING_KEY"):
        code = value_code
    return Fault(code, path, message)


def _keys(location: Iterable[int | str]) -> list[int | str]:
    """The keys of one of pydantic's locations, without the names of union members and the mark of a faulty key."""
    return [part for part in location if isinstance(part, int) or not (part.startswith("<") or part == "[key]")]


def _faulty_location(entry: Any) -> tuple[int | str, ...]:
    location = tuple(_keys(entry["loc"]))
    if entry["type"] == "MISSING_KEY" and not (entry.get("ctx") or {}).get("key"):
        return location[:-1] if len(location) > 1 else location
    return location


def _without(value: Any, locations: Collection[tuple[int | str, ...]]) -> Any:
    """A copy of a document without the values at some locations; `_REMOVED` when the document itself is one of them.

    A location below a value that is no container, such as an expression in text form, means that value.
    """
    if () in locations:
        return _REMOVED
    if isinstance(value, Mapping):
        entries = ((str(key), item) for key, item in value.items())
        rest = {key: _without(item, _below(key, locations)) for key, item in entries}
        return {key: item for key, item in rest.items() if item is not _REMOVED}
    if isinstance(value, list):
        items = [_without(item, _below(index, locations)) for index, item in enumerate(value)]
        return [item for item in items if item is not _REMOVED]
    return _REMOVED if locations else value


def _below(key: int | str, locations: Collection[tuple[int | str, ...]]) -> set[tuple[int | str, ...]]:
    return {location[1:] for location in locations if location[0] == key}


class _Generator(GenerateJsonSchema):
    """Generator of schemas without titles, which would only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(kind: Any, title: str) -> JsonSchema:
    """The JSON Schema (draft 2020-12) of a section or an annotated type."""
    schema = _adapter(kind).json_schema(schema_generator=_Generator)
    return {"$schema": SCHEMA_DRAFT, **schema, "title": title}
