"""Reading a mapping that a person wrote: each key taken once, each fault noted, whatever is left over is unknown."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from clearsight.errors import Fault

__all__ = [
    "BadValue",
    "Reader",
    "Section",
    "any_text",
    "boolean",
    "integer",
    "number",
    "one_of",
    "shown",
    "text",
    "text_map",
]

T = TypeVar("T")
Reader = Callable[[Any], T]
"""Turns a YAML value into ours, or raises `BadValue`."""

TRUTHS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
"""What Azure's loader takes for a boolean, in any case."""


class BadValue(ValueError):
    """A value breaks its rule; `code` is the fault's code, the message says what must hold."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Section:
    """One mapping of a document, at the key path `path` (empty for the top level).

    Faults go to the list that all sections of a document share. A key that is null counts as absent.
    """

    def __init__(self, values: Mapping[Any, Any], path: str, faults: list[Fault]) -> None:
        self.path = path
        self.faults = faults
        self._values = {str(key): value for key, value in values.items()}
        self._known: list[str] = []

    def target(self, key: str) -> str:
        """Key path of one of this section's keys."""
        return f"{self.path}.{key}" if self.path else key

    def present(self) -> list[str]:
        """All keys, known or not, whose value is not null."""
        return [key for key, value in self._values.items() if value is not None]

    def names(self) -> list[str]:
        """All keys, in file order."""
        return list(self._values)

    def raw(self, key: str) -> Any:
        """The value as it stands; None when absent."""
        self._known.append(key)
        return self._values.get(key)

    def take(self, key: str, reader: Reader[T], *, required: bool = False) -> T | None:
        """Read one value; None when it is absent or faulty."""
        value = self.raw(key)
        if value is None:
            if required:
                self.fault("MISSING_KEY", key, "is required")
            return None
        return self.read(key, value, reader)

    def read(self, key: str, value: Any, reader: Reader[T]) -> T | None:
        """Apply a reader, noting a fault."""
        try:
            return reader(value)
        except BadValue as error:
            self.fault(error.code, key, f"{error}, but got {shown(value)}")
            return None

    def mapping(self, key: str) -> "Section | None":
        """Open a nested mapping; None when it is absent or something else."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.fault("BAD_TYPE", key, f"must be a mapping, but got {shown(value)}")
            return None
        return Section(value, self.target(key), self.faults)

    def ignore(self, *keys: str) -> None:
        """Accept keys that mean nothing here."""
        self._known += keys

    def fault(self, code: str, key: str, message: str) -> None:
        self.faults.append(Fault(code, self.target(key) if key else self.path, message))

    def finish(self, hints: Mapping[str, str] | None = None, also_known: Iterable[str] = ()) -> None:
        """Note every key that nobody took. `hints` maps a wrong name to the right one."""
        known = [*self._known, *also_known]
        for key in self._values:
            if key not in known:
                self.fault("UNKNOWN_KEY", key, f"unknown key{self._suggestion(key, known, hints or {})}")

    @staticmethod
    def _suggestion(key: str, known: Sequence[str], hints: Mapping[str, str]) -> str:
        near = [hints[key]] if key in hints else difflib.get_close_matches(key, known, n=1)
        return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """A value in a message, cut to one short line."""
    text_form = repr(value)
    return text_form if len(text_form) <= 80 else text_form[:77] + "…"


def boolean(value: Any) -> bool:
    """true, false, 0, 1, and these as text, or in other words for them."""
    known = TRUTHS.get(str(value).strip().lower()) if isinstance(value, (bool, int, str)) else None
    if known is None:
        raise BadValue("BAD_TYPE", "must be true or false (or 1, 0)")
    return known


def integer(low: int | None = None, high: int | None = None) -> Reader[int]:
    """Whole numbers in [low, high]; numeric text works, a fraction does not."""

    def read(value: Any) -> int:
        if isinstance(value, str):
            try:
                value = int(value.strip())
            except ValueError:
                raise BadValue("BAD_TYPE", "must be a whole number") from None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValue("BAD_TYPE", "must be a whole number")
        _check_range(value, low, high)
        return value

    return read


def number(
    low: float | None = None, high: float | None = None, *, low_open: bool = False, high_open: bool = False
) -> Reader[float]:
    """Finite numbers in an interval; numeric text such as `1e-3` (which YAML reads as text) works."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise BadValue("BAD_TYPE", "must be a number")
        try:
            parsed = float(value)
        except (ValueError, OverflowError):
            raise BadValue("BAD_TYPE", "must be a number") from None
        if not math.isfinite(parsed):
            raise BadValue("BAD_TYPE", "must be a finite number")
        _check_range(parsed, low, high, low_open=low_open, high_open=high_open)
        return parsed

    return read


def _check_range(
    value: float, low: float | None, high: float | None, *, low_open: bool = False, high_open: bool = False
) -> None:
    too_low = low is not None and (value < low or (low_open and value == low))
    too_high = high is not None and (value > high or (high_open and value == high))
    if not too_low and not too_high:
        return
    if high is None:
        raise BadValue("OUT_OF_RANGE", f"must be {'above' if low_open else 'at least'} {low}")
    opening, closing = "(" if low_open else "[", ")" if high_open else "]"
    raise BadValue("OUT_OF_RANGE", f"must be in {opening}{low}, {high}{closing}")


def text(value: Any) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise BadValue("BAD_TYPE", "must be text")
    return value


def any_text(value: Any) -> str:
    """Text, perhaps empty."""
    if not isinstance(value, str):
        raise BadValue("BAD_TYPE", "must be text")
    return value


def text_map(value: Any) -> dict[str, str | None]:
    """A mapping of text to text; null values are allowed."""
    if not isinstance(value, Mapping):
        raise BadValue("BAD_TYPE", "must be a mapping of text to text")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, (str, type(None))):
            raise BadValue("BAD_TYPE", f"must be a mapping of text to text (quote {shown(item)} under {key!r})")
    return dict(value)


def one_of(members: Iterable[str], aliases: Mapping[str, str] | None = None) -> Reader[str]:
    """A member of a closed set, written in any case, in snake_case or CamelCase."""
    plain = {_plain(member): member for member in members}
    spellings = {**plain, **{_plain(alias): member for alias, member in (aliases or {}).items()}}

    def read(value: Any) -> str:
        member = spellings.get(_plain(value)) if isinstance(value, str) else None
        if member is None:
            raise BadValue("BAD_ENUM", f"must be one of {', '.join(plain.values())}")
        return member

    return read


def _plain(value: str) -> str:
    return value.strip().lower().replace("_", "")
