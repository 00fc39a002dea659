"""What a deployment decides about explanations; requests decide the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, get_args

from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import Integer, Number, OneOf, Section, Truth, read
from clearsight.handlers.explain.parameters import XaiLimits
from clearsight.wire.lane_protocol import MAX_ANSWER_BYTES

__all__ = ["DEFAULT_OPTIONS", "PREFIX", "ExplainDtype", "ExplainOptions"]

ExplainDtype = Literal["float32", "bfloat16"]

PREFIX: Final = "CLEARSIGHT_EXPLAIN_"
"""Of the environment variables; the rest is a field's name in capitals."""


def _from(low: int) -> Integer:
    return Integer(low, must=f"must be a whole number from {low} on")


@dataclass(frozen=True, slots=True)
class ExplainOptions(Section):
    """How a worker explains. Every field but the last is an environment variable, `CLEARSIGHT_EXPLAIN_CHUNK` and so on.

    A deployment sets them in Azure's `environment_variables`.
    """

    chunk: Annotated[int, _from(1)] | None = None
    """Points in one pass of the network; None: 8 on a CPU, 32 on a GPU. Halved when memory runs out."""
    dtype: Annotated[ExplainDtype, OneOf(get_args(ExplainDtype))] = "float32"
    """`bfloat16` is 2.5 times as fast on CPUs with matrix units; maps of small ResNets change by 4 to 7 %."""
    xrai_n_steps: Annotated[int, _from(2)] = 50
    """Of XRAI per baseline, where a request names none. 16 is 2.7 times as fast."""
    max_n_steps: Annotated[int, _from(2)] = 1000
    max_labels: Annotated[int, _from(1)] = 10
    """Explained in one image; the most probable ones."""
    allow_degradation: Annotated[bool, Truth()] = True
    """Whether less than was asked for may be answered: fewer steps or labels, a cheaper algorithm. Else an error."""
    cache_bytes: Annotated[int, Integer(0, must="must be a whole number of bytes, 0 for none")] = 0
    """For explanations, and as much again for segments of images; 0 keeps neither."""
    max_seconds: Annotated[float, Number(0, low_open=True, must="must be a number of seconds above 0")] | None = None
    """For one image; None: what the request's time limit leaves."""
    warm_up: Annotated[bool, Truth()] = True
    """Whether an explain worker loads what explanations need as soon as it has started, instead of with the first one:
    0.4 GB, and the first client does not wait for it."""
    max_answer_bytes: Annotated[int, Integer(1)] = MAX_ANSWER_BYTES
    """Of one request; set by the worker that sends the answer."""

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Self:
        """Read those that are named after a field. Raises InvalidDocument that lists every fault."""
        names = [name for name in cls.field_names() if name != "max_answer_bytes"]
        given = {name: variables[PREFIX + name.upper()] for name in names if PREFIX + name.upper() in variables}
        faults: list[Fault] = []
        options = read(cls, given, "", faults)
        if options is None or faults:
            named = [Fault("BAD_VALUE", PREFIX + fault.target.upper(), fault.message) for fault in faults]
            raise InvalidDocument("environment variables", named)
        return options

    @property
    def limits(self) -> XaiLimits:
        """What requests may ask for, and what they get where they do not say."""
        most = self.max_n_steps
        return XaiLimits(most, n_steps=min(XaiLimits().n_steps, most), xrai_n_steps=min(self.xrai_n_steps, most))


DEFAULT_OPTIONS: Final = ExplainOptions()
