"""Options of a deployment for explanations; requests set the rest in `xai_parameters`."""

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
"""Start of the names of the environment variables; a field's name in capitals follows."""


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
    """Steps of XRAI per baseline if a request names none. 16 is 2.7 times as fast."""
    max_n_steps: Annotated[int, _from(2)] = 1000
    """Largest `n_steps` of a request."""
    max_labels: Annotated[int, _from(1)] = 10
    """Largest number of labels explained per image; of more, the most probable ones are explained."""
    allow_degradation: Annotated[bool, Truth()] = True
    """Whether an answer may hold less than was requested (fewer steps or labels, a cheaper algorithm); if not, the
    request fails."""
    cache_bytes: Annotated[int, Integer(0, must="must be a whole number of bytes, 0 for none")] = 0
    """Size of the cache of explanations, and of that of segments of images; 0: no caches."""
    max_seconds: Annotated[float, Number(0, low_open=True, must="must be a number of seconds above 0")] | None = None
    """Time limit for one image; None: what the request's time limit leaves."""
    warm_up: Annotated[bool, Truth()] = True
    """Whether an explain worker loads the eager network when it starts and not with the first explanation: it needs
    0.4 GB, and the first client does not wait."""
    max_answer_bytes: Annotated[int, Integer(1)] = MAX_ANSWER_BYTES
    """Largest answer to one request; set by the worker, no environment variable."""

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Self:
        """Read the variables that are named after a field. Raises InvalidDocument that lists every fault."""
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
        """Largest number of steps, and the numbers of steps of requests that name none."""
        largest = self.max_n_steps
        return XaiLimits(
            largest, n_steps=min(XaiLimits().n_steps, largest), xrai_n_steps=min(self.xrai_n_steps, largest)
        )


DEFAULT_OPTIONS: Final = ExplainOptions()
