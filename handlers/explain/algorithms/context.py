"""What an algorithm is given, and what it gives back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.baselines import baselines_for
from clearsight.handlers.explain.algorithms.cam import Interpolation
from clearsight.handlers.explain.algorithms.chunks import DEFAULT_CHUNK
from clearsight.handlers.explain.algorithms.deadline import Deadline, OutOfTime
from clearsight.handlers.explain.algorithms.functions import ExplainTarget, Probabilities
from clearsight.handlers.explain.algorithms.xrai import Regions
from clearsight.handlers.explain.answering.parameters import XaiParameters
from clearsight.handlers.explain.network.model import ExplainModel

__all__ = ["Attribution", "ExplainContext"]


@dataclass(frozen=True, slots=True)
class ExplainContext:
    """One image, the classes to explain, and what there is to do it with."""

    model: ExplainModel | None
    """None for a package without weights: then only black-box algorithms work."""
    probabilities: Probabilities
    """Of the backend that serves."""
    x_13PP: torch.Tensor
    """The network's input: cropped, normalised, on the model's device."""
    targets: tuple[ExplainTarget, ...]
    parameters: XaiParameters
    deadline: Deadline
    mean: tuple[float, float, float]
    """Of normalisation, for pixels in [0, 1]."""
    std: tuple[float, float, float]
    regions: Regions | None = None
    """Segments of the image where the caller has them already."""
    chunk: int = DEFAULT_CHUNK
    """Points in one pass of the network, at most."""
    interpolation: Interpolation = "nearest"
    """How maps of convolutional features are enlarged."""
    may_degrade: bool = True
    """Whether less than was asked for may be answered when time runs short; else that is `OutOfTime`."""

    def differentiable_model(self) -> ExplainModel:
        """Give the model. Raises `BadRequest` where there is none."""
        if self.model is None:
            raise BadRequest(
                f"{self.parameters.algorithm} needs derivatives, but this package holds no differentiable model; "
                "use 'rise'"
            )
        return self.model

    def baselines(self) -> torch.Tensor:
        """Where paths start, (B, 3, P, P)."""
        return baselines_for(self.parameters.baseline, self.x_13PP, self.mean, self.std)

    def out_of_time(self) -> OutOfTime:
        """What to raise where the deadline leaves nothing to answer."""
        return OutOfTime(
            f"{self.parameters.algorithm} must be done in {self.deadline.seconds or 0:g} s, which do not suffice; "
            "allow more time, fewer steps, or use 'guided_gradcam'"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """The explanation of one label and how it came about. `None` where a number has no meaning for the algorithm."""

    values: npt.NDArray[np.float32]
    """(3, P, P) per colour channel, or one map (P, P)."""
    algorithm: str | None = None
    """That made the map, where it is not the one that was asked for."""
    n_steps_used: int | None = None
    """Gradients along the path, per baseline; of RISE, masks."""
    convergence_delta: float | None = None
    relative_delta: float | None = None
    guided_rule: str | None = None
    localizer: str | None = None
    target_layer: str | None = None
    regions: int | None = None
    deadline_hit: bool = False
    degraded: bool = False
    """Whether less was computed than asked for."""
    warnings: tuple[str, ...] = ()
