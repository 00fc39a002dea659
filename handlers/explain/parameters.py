"""The parameters of an explanation request: the keys of `xai_parameters`, checked against their rows.

The keys, their ranges and defaults, and which of them are Azure's, stand in `clearsight.catalogue.algorithms`. A
request with Azure's keys alone means the same as on Azure. Unknown keys are ignored, as Azure ignores them; a known key
with a wrong value is an error that names what is allowed. A key with the value null counts as absent.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic_core import PydanticCustomError

from clearsight.catalogue.algorithms import (
    ALGORITHMS,
    AZURE_ALGORITHMS,
    CLASSIFIER_ALGORITHMS,
    PARAMETERS,
    AttributionsFormat,
    BaselineName,
    Engine,
    Localizer,
    MaskTarget,
    Method,
    ParameterRow,
    VisualizationFormat,
    integer_within,
)
from clearsight.errors import BadRequest
from clearsight.fields import Integer, OneOf, Rule
from clearsight.tasks import Task
from clearsight.wire.cells import xai_parameters_of

__all__ = [
    "DEFAULT_ALGORITHM",
    "XaiLimits",
    "XaiParameters",
    "parse_xai_parameters",
    "require_short",
    "wants_explanation",
]

DEFAULT_ALGORITHM: Final = CLASSIFIER_ALGORITHMS[0]


@dataclass(frozen=True, slots=True)
class XaiLimits:
    """Limits and defaults of a deployment for the numbers of steps."""

    max_n_steps: int = 1000
    n_steps: int = 50
    """Steps of integrated gradients, per baseline, if the request gives none."""
    xrai_n_steps: int = 50
    """Steps of XRAI, per baseline, if the request gives none. 16 is 2.7 times as fast; the ranking of pixels then
    agrees to 0.96 to 1.0 (rank correlation of the maps)."""


_DEFAULTS: Final[Mapping[str, Any]] = {
    **{key: row.default for key, row in PARAMETERS.items()},
    **ALGORITHMS[DEFAULT_ALGORITHM].defaults,
}
"""Values of an empty request, by key."""


@dataclass(frozen=True, slots=True)
class XaiParameters:
    """One checked explanation request. Hashable; equal requests are equal objects. See `PARAMETERS` for meanings."""

    algorithm: str = DEFAULT_ALGORITHM
    visualizations: bool = _DEFAULTS["visualizations"]
    attributions: bool = _DEFAULTS["attributions"]
    threshold: float = _DEFAULTS["confidence_score_threshold_multilabel"]
    n_steps: int = _DEFAULTS["n_steps"]
    most_steps: int | None = None
    """Largest number of steps that may be taken so that the map adds up; None: no more than `n_steps`."""
    xrai_fast: bool = _DEFAULTS["xrai_fast"]
    approximation_method: Method = _DEFAULTS["approximation_method"]
    target_labels: tuple[str, ...] | None = _DEFAULTS["target_labels"]
    """Classes to explain, in this order; None: those that the model predicts."""
    contrast_label: str | None = _DEFAULTS["contrast_label"]
    baseline: BaselineName = _DEFAULTS["baseline"]
    convergence_tolerance: float | None = _DEFAULTS["convergence_tolerance"]
    smooth_samples: int = _DEFAULTS["smooth_samples"]
    smooth_stdev: float = _DEFAULTS["smooth_stdev"]
    seed: int = _DEFAULTS["seed"]
    localizer: Localizer = _DEFAULTS["localizer"]
    engine: Engine = _DEFAULTS["engine"]
    visualization_format: VisualizationFormat = _DEFAULTS["visualization_format"]
    attributions_format: AttributionsFormat = _DEFAULTS["attributions_format"]
    max_seconds: float | None = _DEFAULTS["max_seconds"]
    """Time limit of this row in seconds; None: the deployment's."""
    details: bool = _DEFAULTS["details"]
    faithfulness: bool = _DEFAULTS["faithfulness"]
    detections: tuple[int, ...] | Literal["all"] | None = _DEFAULTS["detections"]
    """Indices of the boxes to explain; None: the three highest scores."""
    target: MaskTarget = _DEFAULTS["target"]
    masks: int = _DEFAULTS["masks"]
    grid_size: int = _DEFAULTS["grid_size"]

    @property
    def wants_explanation(self) -> bool:
        """Whether the answer holds anything beyond plain scores."""
        return self.visualizations or self.attributions or self.details or self.faithfulness


def parse_xai_parameters(
    document: Mapping[str, Any], limits: XaiLimits = XaiLimits(), algorithms: Collection[str] = AZURE_ALGORITHMS
) -> XaiParameters:
    """Check the object `xai_parameters`; `{}` gives the defaults.

    `algorithms` are the names that the model at hand can be explained with. Raises `BadRequest`.
    """
    given = {
        key: _read(key, _limited(row, limits), document[key])
        for key, row in PARAMETERS.items()
        if document.get(key) is not None
    }
    name = document.get("xai_algorithm")
    algorithm = ALGORITHMS[
        DEFAULT_ALGORITHM if name is None else _read("xai_algorithm", OneOf(tuple(algorithms), strict=True), name)
    ]
    values = {
        **{key: row.default for key, row in PARAMETERS.items()},
        **algorithm.defaults,
        **{key: getattr(limits, attribute) for key, attribute in algorithm.limit_defaults.items()},
        **given,
        **algorithm.fixed,
    }
    chooses = algorithm.is_complete and "n_steps" not in given
    values_by_name = {PARAMETERS[key].name: value for key, value in values.items()}
    parameters = XaiParameters(algorithm.name, most_steps=limits.max_n_steps if chooses else None, **values_by_name)
    if parameters.contrast_label is not None and parameters.contrast_label in (parameters.target_labels or ()):
        raise BadRequest(f"'contrast_label' must not be one of 'target_labels', but {parameters.contrast_label!a} is")
    return parameters


def require_short(parameters: XaiParameters) -> None:
    """Raise `BadRequest` for a request that takes longer than a client waits for an answer."""
    most = ALGORITHMS[parameters.algorithm].max_awaited_masks
    if most is not None and parameters.masks > most:
        raise BadRequest(
            f"'masks' of {parameters.algorithm} must be at most {most} in a request, but is {parameters.masks}; post "
            "the same body as a job, to /endpoints/NAME/jobs/explain, or use 'clearsight explain'"
        )


def wants_explanation(cell: object, task: Task) -> bool:
    """Whether a cell asks for an explanation. Reads JSON, decodes no image.

    A detector ignores requests for Azure's algorithms, as on Azure.
    """
    parameters = xai_parameters_of(cell)
    if parameters is None:
        return False
    return task.is_classification or parameters.get("xai_algorithm") not in (None, *AZURE_ALGORITHMS)


def _limited(row: ParameterRow, limits: XaiLimits) -> Rule:
    """The rule of a key, with the upper end that the deployment sets."""
    if not row.upper_limit or not isinstance(row.rule, Integer):
        return row.rule
    return integer_within(row.rule.low or 0, getattr(limits, row.upper_limit))


def _read(key: str, rule: Rule, value: object) -> Any:
    try:
        return rule.read(value)
    except PydanticCustomError as error:
        shown = ascii(value)
        shown = shown if len(shown) <= 80 else shown[:80] + "..."
        raise BadRequest(f"{key!r} {error.message()}, but got {shown}") from None
