"""What a deployment decides about explanations; requests decide the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, Literal, Self, get_args

from clearsight.errors import Fault, InvalidDocument
from clearsight.handlers.explain.parameters import XaiLimits
from clearsight.wire.lane_protocol import MAX_ANSWER_BYTES

__all__ = ["DEFAULT_OPTIONS", "PREFIX", "ExplainDtype", "ExplainOptions"]

ExplainDtype = Literal["float32", "bfloat16"]

PREFIX: Final = "CLEARSIGHT_EXPLAIN_"
"""Of the environment variables; the rest is a field's name in capitals."""


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """How a worker explains. Every field but the last is an environment variable, `CLEARSIGHT_EXPLAIN_CHUNK` and so on.

    A deployment sets them in Azure's `environment_variables`.
    """

    chunk: int | None = None
    """Points in one pass of the network; None: 8 on a CPU, 32 on a GPU. Halved when memory runs out."""
    dtype: ExplainDtype = "float32"
    """`bfloat16` is 2.5 times as fast on CPUs with matrix units; maps of small ResNets change by 4 to 7 %."""
    xrai_n_steps: int = 50
    """Of XRAI per baseline, where a request names none. 16 is 2.7 times as fast."""
    max_n_steps: int = 1000
    max_labels: int = 10
    """Explained in one image; the most probable ones."""
    allow_degradation: bool = True
    """Whether less than was asked for may be answered: fewer steps or labels, a cheaper algorithm. Else an error."""
    cache_bytes: int = 0
    """For explanations, and as much again for segments of images; 0 keeps neither."""
    max_seconds: float | None = None
    """For one image; None: what the request's time limit leaves."""
    warm_up: bool = True
    """Whether an explain worker loads what explanations need as soon as it has started, instead of with the first one:
    0.4 GB, and the first client does not wait for it."""
    max_answer_bytes: int = MAX_ANSWER_BYTES
    """Of one request; set by the worker that sends the answer."""

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Self:
        """Read those that are named after a field. Raises InvalidDocument that lists every fault."""
        values: dict[str, Any] = {}
        faults = []
        for name, (read, allowed) in _READERS.items():
            variable = PREFIX + name.upper()
            if variable not in variables:
                continue
            try:
                values[name] = read(variables[variable].strip())
            except ValueError:
                faults.append(Fault("BAD_VALUE", variable, f"must be {allowed}, but got {variables[variable][:80]!r}"))
        if faults:
            raise InvalidDocument("environment variables", faults)
        return cls(**values)

    @property
    def limits(self) -> XaiLimits:
        """What requests may ask for, and what they get where they do not say."""
        most = self.max_n_steps
        return XaiLimits(most, n_steps=min(XaiLimits().n_steps, most), xrai_n_steps=min(self.xrai_n_steps, most))


DEFAULT_OPTIONS: Final = ExplainOptions()

Reader = Callable[[str], Any]
"""Raises ValueError for text that is not allowed."""


def _count(least: int) -> Reader:
    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise ValueError
        return number

    return read


def _seconds(text: str) -> float:
    number = float(text)
    if not isfinite(number) or number <= 0:
        raise ValueError
    return number


def _choice(values: Mapping[str, Any]) -> Reader:
    def read(text: str) -> Any:
        if text.lower() not in values:
            raise ValueError
        return values[text.lower()]

    return read


_TRUE_OR_FALSE: Final = _choice({"true": True, "1": True, "false": False, "0": False})

_READERS: Final[Mapping[str, tuple[Reader, str]]] = MappingProxyType(
    {
        "chunk": (_count(1), "a whole number from 1 on"),
        "dtype": (_choice({name: name for name in get_args(ExplainDtype)}), "float32 or bfloat16"),
        "xrai_n_steps": (_count(2), "a whole number from 2 on"),
        "max_n_steps": (_count(2), "a whole number from 2 on"),
        "max_labels": (_count(1), "a whole number from 1 on"),
        "allow_degradation": (_TRUE_OR_FALSE, "true or false"),
        "warm_up": (_TRUE_OR_FALSE, "true or false"),
        "cache_bytes": (_count(0), "a whole number of bytes, 0 for none"),
        "max_seconds": (_seconds, "a number of seconds above 0"),
    }
)
