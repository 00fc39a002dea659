"""What an explanation request may ask for: the keys of `xai_parameters`, their ranges and their defaults.

Azure's keys are `xai_algorithm`, `visualizations`, `attributions`, `confidence_score_threshold_multilabel`, `n_steps`,
`xrai_fast` and `approximation_method`. All others are ours; without them a request means what it means on Azure.
Unknown keys are ignored, as Azure ignores them; a known key with a wrong value is an error that names what is allowed.
A key with the value null counts as absent.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from clearsight.errors import BadRequest
from clearsight.tasks import Task
from clearsight.wire.cells import xai_parameters_of

__all__ = [
    "AZURE_ALGORITHMS",
    "DEFAULT_ALGORITHM",
    "AttributionsFormat",
    "BaselineName",
    "Engine",
    "Localizer",
    "MaskTarget",
    "Method",
    "VisualizationFormat",
    "XaiLimits",
    "XaiParameters",
    "parse_xai_parameters",
    "wants_explanation",
]

AZURE_ALGORITHMS: Final = ("xrai", "integrated_gradients", "guided_gradcam", "guided_backprop")
DEFAULT_ALGORITHM: Final = "xrai"

AttributionsFormat = Literal["nested", "float32_base64", "float16_base64"]
BaselineName = Literal["mean", "black", "white", "black_white", "blur"]
Engine = Literal["builtin", "captum"]
Localizer = Literal["auto", "gradcam"]
MaskTarget = Literal["score", "mask", "box"]
Method = Literal["riemann_middle", "gausslegendre"]
"""Quadrature of the way from the baseline to the image."""
VisualizationFormat = Literal["grid", "overlay", "heatmap"]


@dataclass(frozen=True, slots=True)
class XaiLimits:
    """What a deployment allows and prefers."""

    max_n_steps: int = 1000
    n_steps: int = 50
    """Of integrated gradients, where the request names none."""
    xrai_n_steps: int = 50
    """The same for XRAI, per baseline. 16 is 2.7 times as fast; the ranking of pixels then agrees to 0.96 to 1.0
    (rank correlation of the maps)."""
    max_detections: int = 20
    """Explained per image."""
    max_masks: int = 5000
    """Of a method that covers parts of the image at random."""


@dataclass(frozen=True, slots=True)
class XaiParameters:
    """One explanation request, checked. Hashable, equal when it asks for the same."""

    algorithm: str = DEFAULT_ALGORITHM
    visualizations: bool = True
    attributions: bool = False
    threshold: float = 0.5
    """Multi-label: every class with at least this probability is explained. In [0, 1]."""
    n_steps: int = 50
    """Gradients along the path, per baseline."""
    xrai_fast: bool = True
    approximation_method: Method = "riemann_middle"
    """XRAI always takes this one."""
    target_labels: tuple[str, ...] | None = None
    """Explain these classes, in this order; `None`: those that the model predicts."""
    contrast_label: str | None = None
    """Explain the target's score minus this class's."""
    baseline: BaselineName = "black_white"
    """Where the path starts. By default `black_white` for XRAI and `mean` for all others."""
    convergence_tolerance: float | None = None
    """Stop early once the map changes by less than this fraction. In (0, 1)."""
    smooth_samples: int = 0
    """Noisy copies to average over."""
    smooth_stdev: float = 0.2
    """Of their noise, in units of the normalised input."""
    seed: int = 0
    """Of everything random."""
    localizer: Localizer = "auto"
    engine: Engine = "builtin"
    """Who computes integrated gradients."""
    visualization_format: VisualizationFormat = "grid"
    attributions_format: AttributionsFormat = "nested"
    max_seconds: float | None = None
    """For this row; `None`: the deployment's."""
    details: bool = False
    faithfulness: bool = False
    """Also measure deletion and insertion."""
    detections: tuple[int, ...] | Literal["all"] | None = None
    """Which boxes of the answer to explain; `None`: those of the three highest scores."""
    target: MaskTarget = "score"
    """What of a detection is explained: its score, its mask's mean probability, or its box's coordinates."""
    masks: int = 500
    """Random masks of `rise` and `d_rise`."""
    grid_size: int = 16
    """Cells along a side of such a mask, before it is enlarged."""

    @property
    def wants_explanation(self) -> bool:
        """Whether the answer holds anything beyond plain scores."""
        return self.visualizations or self.attributions or self.details or self.faithfulness


Reader = Callable[[str, Any], Any]


def parse_xai_parameters(
    document: Mapping[str, Any], limits: XaiLimits = XaiLimits(), algorithms: Collection[str] = AZURE_ALGORITHMS
) -> XaiParameters:
    """Check the object `xai_parameters`; `{}` gives the defaults.

    `algorithms` are the names that the model at hand can be explained with. Raises `BadRequest`.
    """
    readers = {**_READERS, **_limited_readers(limits), "xai_algorithm": _choice(tuple(algorithms))}
    given = {
        _FIELDS.get(key, key): reader(key, document[key])
        for key, reader in readers.items()
        if document.get(key) is not None
    }
    is_xrai = given.setdefault("algorithm", DEFAULT_ALGORITHM) == "xrai"
    defaults = {
        "n_steps": limits.xrai_n_steps if is_xrai else limits.n_steps,
        "baseline": "black_white" if is_xrai else "mean",
    }
    if is_xrai:
        given["approximation_method"] = XaiParameters().approximation_method
    parameters = XaiParameters(**{**defaults, **given})
    if parameters.contrast_label is not None and parameters.contrast_label in (parameters.target_labels or ()):
        raise BadRequest(f"'contrast_label' must not be one of 'target_labels', but {parameters.contrast_label!a} is")
    return parameters


def wants_explanation(cell: object, task: Task) -> bool:
    """Whether a cell asks for an explanation. Reads JSON, decodes no image.

    A detector has no explanation by Azure's algorithms, and a request for one is answered as a plain one, as on Azure.
    """
    parameters = xai_parameters_of(cell)
    if parameters is None:
        return False
    return task.is_classification or parameters.get("xai_algorithm") not in (None, *AZURE_ALGORITHMS)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _choice(allowed: Sequence[str]) -> Reader:
    def read(key: str, value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise _wrong(key, f"one of {', '.join(allowed)}", value)
        return value

    return read


def _integer(low: int, high: int) -> Reader:
    def read(key: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(key, f"an integer from {low} to {high}", value)
        return value

    return read


def _number(allowed: Callable[[float], bool], described: str) -> Reader:
    def read(key: str, value: object) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not isfinite(value) or not allowed(value):  # type: ignore[arg-type]
            raise _wrong(key, described, value)
        return float(value)  # type: ignore[arg-type]

    return read


def _label(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(key, "the name of a label", value)
    return value


def _labels(key: str, value: object) -> tuple[str, ...]:
    described = "a list of at least one name of a label, each once"
    if not isinstance(value, list | tuple) or not value or not all(isinstance(label, str) for label in value):
        raise _wrong(key, described, value)
    if len(set(value)) < len(value):
        raise _wrong(key, described, value)
    return tuple(value)


def _detections(most: int) -> Reader:
    def read(key: str, value: object) -> tuple[int, ...] | str:
        described = f"'all' or a list of at most {most} indices of boxes, each once"
        if value == "all":
            return "all"
        if not isinstance(value, list | tuple) or len(value) > most or len(set(map(repr, value))) < len(value):
            raise _wrong(key, described, value)
        if not all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in value):
            raise _wrong(key, described, value)
        return tuple(value)

    return read


def _wrong(key: str, described: str, value: object) -> BadRequest:
    shown = ascii(value)
    return BadRequest(f"{key!r} must be {described}, but got {shown if len(shown) <= 80 else shown[:80] + '...'}")


_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {"xai_algorithm": "algorithm", "confidence_score_threshold_multilabel": "threshold"}
)

_READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        "visualizations": _flag,
        "attributions": _flag,
        "confidence_score_threshold_multilabel": _number(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        "xrai_fast": _flag,
        "approximation_method": _choice(get_args(Method)),
        "target_labels": _labels,
        "contrast_label": _label,
        "baseline": _choice(get_args(BaselineName)),
        "convergence_tolerance": _number(lambda value: 0 < value < 1, "a number above 0 and below 1"),
        "smooth_samples": _integer(0, 50),
        "smooth_stdev": _number(lambda value: 0 < value <= 10, "a number above 0, at most 10"),
        "seed": _integer(0, 2**32 - 1),
        "localizer": _choice(get_args(Localizer)),
        "engine": _choice(get_args(Engine)),
        "visualization_format": _choice(get_args(VisualizationFormat)),
        "attributions_format": _choice(get_args(AttributionsFormat)),
        "max_seconds": _number(lambda value: value > 0, "a number above 0"),
        "details": _flag,
        "faithfulness": _flag,
        "target": _choice(get_args(MaskTarget)),
        "grid_size": _integer(2, 64),
    }
)


def _limited_readers(limits: XaiLimits) -> dict[str, Reader]:
    return {
        "n_steps": _integer(2, limits.max_n_steps),
        "detections": _detections(limits.max_detections),
        "masks": _integer(1, limits.max_masks),
    }
