"""Input and output of an explanation algorithm of a classifier: `ExplainContext` and `Attribution`.

Shapes in names: P side of the network's input.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.xrai import Regions
from clearsight.handlers.explain.deadline import Deadline, OutOfTime
from clearsight.handlers.explain.network.functions import DEFAULT_CHUNK, ExplainTarget, Probabilities
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.parameters import XaiParameters

__all__ = ["Attribution", "Computation", "ExplainContext", "Interpolation"]

Interpolation = Literal["nearest", "bilinear"]


@dataclass(frozen=True, slots=True)
class ExplainContext:
    """One image, the classes to explain, and everything an algorithm may use to explain them."""

    model: ExplainModel | None
    """The eager copy of the network; None for a package without weights: then only black-box algorithms work."""
    probabilities: Probabilities
    """Class probabilities computed by the backend that serves."""
    x_13PP: torch.Tensor
    """The network's input: cropped, normalised, on the model's device."""
    targets: tuple[ExplainTarget, ...]
    """The explained scores, in the order of the answer."""
    parameters: XaiParameters
    deadline: Deadline
    mean: tuple[float, float, float]
    """Mean of the normalisation per colour channel, for pixels in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation of the normalisation per colour channel, for pixels in [0, 1]."""
    regions: Regions | None = None
    """Segments of the image, where the caller has computed them already; None: the algorithm computes its own."""
    chunk: int = DEFAULT_CHUNK
    """Largest number of points in one forward pass of the network."""
    interpolation: Interpolation = "nearest"
    """How maps of convolutional features are enlarged to the size of the input."""
    may_degrade: bool = True
    """Whether an algorithm may return less than was asked for when time runs short; if not it raises `OutOfTime`."""

    def differentiable_model(self) -> ExplainModel:
        """Return the model. Raises `BadRequest` when the package has none."""
        if self.model is None:
            raise BadRequest(
                f"{self.parameters.algorithm} needs derivatives, but this package holds no differentiable model; "
                "use 'rise'"
            )
        return self.model

    def out_of_time(self) -> OutOfTime:
        """Make the error to raise when the deadline leaves nothing worth answering."""
        return OutOfTime(
            f"{self.parameters.algorithm} must be done in {self.deadline.seconds or 0:g} s, which do not suffice; "
            "allow more time, fewer steps, or use 'guided_gradcam'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """How the map of one target was computed. A field is None where the algorithm has no such value."""

    n_steps_used: int | None = None
    """Gradients along the path, per baseline; for RISE the number of masks."""
    convergence_delta: float | None = None
    """Sum of the map minus the rise of the score from the baseline to the image."""
    relative_delta: float | None = None
    """|convergence_delta| divided by the sum of the absolute values of the map."""
    rise: float | None = None
    """Score of the image minus the mean score of the baselines."""
    delta_over_rise: float | None = None
    """|convergence_delta| divided by |rise|: the part of the rise that the map misses."""
    guided_rule: str | None = None
    """Activations that got the guided rule, such as `relu` or `relu+silu`; `none`: the plain gradient."""
    localizer: str | None = None
    """Coarse map that was used: `gradcam` or `attention_relevance`."""
    target_layer: str | None = None
    """Name of the module whose output the coarse map was computed from."""
    regions: int | None = None
    """Number of segments that XRAI ranked."""
    deadline_hit: bool = False
    """Whether the deadline came before all steps were done."""
    degraded: bool = False
    """Whether less was computed than asked for."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Attribution(Computation):
    """The explanation of one target and how it was computed."""

    values: npt.NDArray[np.float32]
    """(3, P, P), one number per pixel and colour channel, or (P, P), one number per pixel."""
    algorithm: str | None = None
    """Name of the algorithm that made the map, when another one stood in for the requested one."""
