"""Explanation algorithms and the keys of `xai_parameters`, one row each, without torch.

Everything that other parts of the product must know about an algorithm or a key stands in its row: the checks of a
request, the options of `clearsight explain`, the swagger document and the tables of docs/35-explanations.md are made
from these rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from clearsight.fields import Integer, Number, OneOf, Rule, Text, Truth, refused

__all__ = [
    "ALGORITHMS",
    "AZURE_ALGORITHMS",
    "CLASSIFIER_ALGORITHMS",
    "DETECTOR_ALGORITHMS",
    "MAX_DETECTIONS",
    "PARAMETERS",
    "AlgorithmRow",
    "AttributionsFormat",
    "BaselineName",
    "Engine",
    "Indices",
    "LabelNames",
    "Localizer",
    "MaskTarget",
    "Method",
    "ParameterRow",
    "VisualizationFormat",
    "integer_within",
]

AttributionsFormat = Literal["nested", "float32_base64", "float16_base64"]
BaselineName = Literal["mean", "black", "white", "black_white", "blur"]
Engine = Literal["builtin", "captum"]
Localizer = Literal["auto", "gradcam"]
MaskTarget = Literal["score", "mask", "box"]
Method = Literal["riemann_middle", "gausslegendre"]
"""Quadrature rule of the path integral from the baseline to the image."""
VisualizationFormat = Literal["grid", "overlay", "heatmap"]

MAX_DETECTIONS: Final = 20
"""Largest number of boxes explained per image."""


@dataclass(frozen=True, slots=True)
class LabelNames(Rule):
    """Names of classes, at least one, each once."""

    def read(self, value: Any) -> tuple[str, ...]:
        is_list_of_text = isinstance(value, list | tuple) and all(isinstance(label, str) for label in value)
        if not is_list_of_text or not 0 < len(set(value)) == len(value):
            raise refused("BAD_VALUE", "must be a list of at least one name of a label, each once")
        return tuple(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}


@dataclass(frozen=True, slots=True)
class Indices(Rule):
    """The word `all`, or at most `most` indices of boxes from 0 on, each once."""

    most: int

    def read(self, value: Any) -> tuple[int, ...] | str:
        if value == "all":
            return "all"
        is_list = isinstance(value, list | tuple) and len(value) <= self.most
        if not is_list or not all(type(index) is int and index >= 0 for index in value) or len(set(value)) < len(value):
            message = f"must be 'all' or a list of at most {self.most} indices of boxes, each once"
            raise refused("BAD_VALUE", message)
        return tuple(value)

    def json_schema(self) -> dict[str, Any]:
        indices = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": self.most}
        return {"anyOf": [{"enum": ["all"]}, {**indices, "uniqueItems": True}]}


def integer_within(low: int, high: int) -> Integer:
    """The rule of a key that takes a JSON integer in [low, high]."""
    return Integer(low, high, f"must be an integer from {low} to {high}", strict=True)


def _number(must: str, low: float, high: float | None = None, **more: bool) -> Number:
    return Number(low, high, must=f"must be a number {must}", strict=True, **more)


def _choice(values: Any) -> OneOf:
    return OneOf(get_args(values), strict=True)


_FLAG: Final = Truth("must be true or false", strict=True)


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One key of `xai_parameters`."""

    key: str
    rule: Rule
    """What a value must meet."""
    default: Any
    """Value of an absent key; the row of an algorithm may have another one."""
    meaning: str
    """What the key does, in Markdown; shown by the docs, swagger and `clearsight explain --help`."""
    is_azures: bool = False
    """Whether Azure's AutoML has this key; all others are our extensions."""
    attribute: str = ""
    """Attribute of `XaiParameters` with the value; empty: named like the key."""
    default_text: str = ""
    """The default in words, where it is not simply the value."""
    upper_limit: str = ""
    """Attribute of `XaiLimits` that replaces the upper end of an integer's range in a deployment; empty: none does."""
    option: str = ""
    """Option of `clearsight explain` without `--`; empty: there is none. A flag sets the opposite of the default."""
    option_help: str = ""
    """Help text of that option."""

    @property
    def name(self) -> str:
        """Name of the attribute of `XaiParameters`."""
        return self.attribute or self.key

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that read this key."""
        return tuple(row.name for row in ALGORITHMS.values() if self.key in row.parameters)

    @property
    def shown_default(self) -> str:
        """The default as Markdown, after those of the algorithms that have another one."""
        own = self.default_text or _shown(self.default)
        others = (
            f"{_shown(row.defaults[self.key])} ({row.name})" for row in ALGORITHMS.values() if self.key in row.defaults
        )
        return ", ".join((*others, own))

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of the value, without the upper end of a range that a deployment can set."""
        schema = self.rule.json_schema()
        if self.upper_limit:
            del schema["maximum"]
        return {**schema, "description": self.meaning.replace("`", "")}


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool | str):
        return f"`{str(value).lower() if isinstance(value, bool) else value}`"
    return str(value)


def _by_key(*rows: ParameterRow) -> Mapping[str, ParameterRow]:
    return MappingProxyType({row.key: row for row in rows})


PARAMETERS: Final = _by_key(
    ParameterRow("visualizations", _FLAG, True, "the image, base64 of a PNG", is_azures=True),
    ParameterRow(
        "attributions", _FLAG, False,
        "the numbers, [3][P][P] per label; a map without colours is repeated three times", is_azures=True,
    ),
    ParameterRow(
        "confidence_score_threshold_multilabel", _number("from 0 to 1", 0, 1), 0.5,
        "multi-label: every class from this probability on is explained, in the order of `labels`; none gives empty "
        "lists", is_azures=True, attribute="threshold", option="threshold",
        option_help="Multi-label: explain labels from this probability on.",
    ),
    ParameterRow(
        "n_steps", integer_within(2, 1000), 50, "gradients along the path, per baseline: 2 to 1000",
        is_azures=True, upper_limit="max_n_steps", option="n-steps",
        option_help="Gradients along the path, per baseline.",
    ),
    ParameterRow(
        "xrai_fast", _FLAG, True, "rank regions once; `false` ranks anew after each one",
        is_azures=True, option="full",
        option_help="Rank the regions anew after each one.",
    ),
    ParameterRow(
        "approximation_method", _choice(Method), "riemann_middle",
        "or `gausslegendre`: better on smooth networks only", is_azures=True, option="approximation-method",
        option_help="Quadrature rule of the path.",
    ),
    ParameterRow(
        "target_labels", LabelNames(), None,
        "explain these; in multi-class answers one label keeps the single value, several give lists in this order",
        default_text="the predicted", option="target-label",
        option_help="Explain these labels instead of the predicted ones.",
    ),
    ParameterRow(
        "contrast_label", Text(may_be_empty=True, must="must be the name of a label"), None,
        "explain the score of the target minus this one's",
        option="contrast-label",
        option_help="Explain what supports the label rather than this one.",
    ),
    ParameterRow(
        "baseline", _choice(BaselineName), "mean", "or `black`, `white`, `blur`: where the path starts",
        option="baseline",
        option_help="Where the path starts.",
    ),
    ParameterRow(
        "convergence_tolerance",
        _number("above 0 and below 1", 0, 1, low_open=True, high_open=True), None,
        "stop early, once the map changes by less than this fraction",
    ),
    ParameterRow(
        "smooth_samples", integer_within(0, 50), 0, "mean over so many noisy copies of the image; 0: no noise",
    ),
    ParameterRow(
        "smooth_stdev", _number("above 0, at most 10", 0, 10, low_open=True), 0.2,
        "standard deviation of that noise, in units of the normalised input",
    ),
    ParameterRow("seed", integer_within(0, 2**32 - 1), 0, "seed of that noise and of random masks"),
    ParameterRow("localizer", _choice(Localizer), "auto", "`gradcam` forces a CAM on transformers"),
    ParameterRow("engine", _choice(Engine), "builtin", "`captum` computes the map with Captum"),
    ParameterRow("masks", integer_within(1, 5000), 500, "random masks, at most 5000", option="masks",
        option_help="Number of masked images, at most 5000."),
    ParameterRow("grid_size", integer_within(2, 64), 16, "cells along a side of such a mask, 2 to 64"),
    ParameterRow(
        "visualization_format", _choice(VisualizationFormat), "grid",
        "`overlay`, `heatmap`: one of the tiles, P x P", option="format",
        option_help="Image to draw: all four tiles, or one of them.",
    ),
    ParameterRow(
        "attributions_format", _choice(AttributionsFormat), "nested",
        "`float32_base64`, `float16_base64`: 1.4, 0.8 and 0.4 MB at P = 224",
    ),
    ParameterRow(
        "max_seconds", _number("above 0", 0, low_open=True), None, "time limit of this row, in seconds",
        default_text="the deployment's", option="max-seconds",
        option_help="Time limit for each image; less is computed when it ends.",
    ),
    ParameterRow("details", _FLAG, False, "adds `explanation_details`", option="details",
        option_help="Add how each explanation was computed, and how faithful it is."),
    ParameterRow(
        "faithfulness", _FLAG, False,
        "adds the deletion and insertion scores to them; where the time ends before, they are `null` and the row is "
        "degraded",
    ),
    ParameterRow(
        "detections", Indices(MAX_DETECTIONS), None,
        'indices into `boxes`, at most 20, or `"all"` (of more than 20 the best; the degraded header is set). An index '
        "without a box is a 400", default_text="the three highest scores", option="detections",
        option_help="Detectors: indices of boxes, by descending score; the best three if left out.",
    ),
    ParameterRow(
        "target", _choice(MaskTarget), "score",
        "what of the box: its score; `mask`, the mean probability inside its mask (Mask R-CNN only); `box`, its four "
        "sides", option="target",
        option_help="Detectors: what of a box.",
    ),
)  # fmt: skip
"""Rows by key, in the order of the docs. `xai_algorithm` has no row: its values are the names of `ALGORITHMS`."""


@dataclass(frozen=True, slots=True)
class AlgorithmRow:
    """One explanation algorithm."""

    name: str
    """Value of `xai_algorithm`."""
    explains: Literal["classifier", "detector"]
    function: str
    """`module:object`, imported on first use. Of classifiers a `handlers.explain.algorithms.run.AlgorithmFunction`, of
    detectors a `handlers.explain.objects.explainer.ObjectAlgorithm`."""
    parameters: tuple[str, ...]
    """Keys of `PARAMETERS` that it reads; the others change nothing."""
    shows: str
    """What its map shows, in Markdown."""
    cost: str
    """In gradients, unless it names predictions."""
    suits: str
    """Users or networks that it is recommended for."""
    is_azures: bool = False
    """Whether Azure's AutoML has this algorithm; all others are our extensions."""
    is_black_box: bool = False
    """Whether predictions of the serving backend suffice; if not, the eager copy of the network is needed."""
    needs_attention: bool = False
    """Whether it explains transformers with global attention only."""
    needs_regions: bool = False
    """Whether it needs a segmentation of the image."""
    has_path: bool = False
    """Whether it sums gradients on the path from a baseline to the image."""
    has_channels: bool = False
    """Whether its map has one number per pixel and colour channel, (3, P, P), or one per pixel, (P, P)."""
    is_signed: bool = False
    """Whether its map may hold negative numbers."""
    is_complete: bool = False
    """Whether the sum of its map is the score of the image minus the mean score of the baselines."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of absent keys, where they differ from the default in `PARAMETERS`."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values of keys that a request cannot change: given values are checked, then ignored."""
    limit_defaults: Mapping[str, str] = field(default_factory=dict)
    """Keys whose default a deployment sets -> the attribute of `XaiLimits` with it."""
    targets: tuple[MaskTarget, ...] = ()
    """Parts of a box that it can explain: values of the key `target`. Detectors only."""
    max_awaited_masks: int | None = None
    """Largest `masks` of a request that a client waits for; more must be posted as a job. None: no limit."""


_ANSWER: Final = (
    "visualizations", "attributions", "visualization_format", "attributions_format", "max_seconds", "details",
)  # fmt: skip
_LABELS: Final = (*_ANSWER, "confidence_score_threshold_multilabel", "target_labels", "contrast_label", "faithfulness")
_SMOOTH: Final = (*_LABELS, "smooth_samples", "smooth_stdev", "seed")
_PATH: Final = (*_SMOOTH, "n_steps", "baseline", "convergence_tolerance")
_BOXES: Final = (*_ANSWER, "detections", "target")
_MASKS: Final = ("masks", "grid_size", "seed")


_CODE: Final = "clearsight.handlers.explain.algorithms"
_PATHS: Final = f"{_CODE}.integrated_gradients_family"
_OBJECTS: Final = "clearsight.handlers.explain.objects.explainer"


def _by_name(*rows: AlgorithmRow) -> Mapping[str, AlgorithmRow]:
    return MappingProxyType({row.name: row for row in rows})


ALGORITHMS: Final = _by_name(
    AlgorithmRow(
        "xrai", "classifier", f"{_PATHS}:xrai", (*_PATH, "xrai_fast", "localizer"),
        "whole regions of the image, by the integrated gradients inside them (from black and from white)",
        "2 x `n_steps`, and a segmentation",
        "most people: regions are easier to read than pixels, and steadier",
        is_azures=True, needs_regions=True, has_path=True, is_signed=True,
        defaults={"baseline": "black_white"}, fixed={"approximation_method": "riemann_middle"},
        limit_defaults={"n_steps": "xrai_n_steps"},
    ),
    AlgorithmRow(
        "integrated_gradients", "classifier", f"{_PATHS}:integrated_gradients",
        (*_PATH, "approximation_method", "engine", "localizer"),
        "pixels, signed; their sum is the score minus that of the baseline",
        "`n_steps`", "numbers that add up",
        is_azures=True, has_path=True, has_channels=True, is_signed=True, is_complete=True,
        limit_defaults={"n_steps": "n_steps"},
    ),
    AlgorithmRow(
        "guided_gradcam", "classifier", f"{_CODE}.cam_family:guided_gradcam", (*_SMOOTH, "localizer"),
        "fine edges inside the region that supports the label; on transformers attention relevance finds the region",
        "1 to 2", "a quick, class specific look",
        is_azures=True, has_channels=True, is_signed=True,
    ),
    AlgorithmRow(
        "guided_backprop", "classifier", f"{_CODE}.cam_family:guided_backprop", _SMOOTH,
        "edges that any strong response depends on", "1",
        "seeing what the network picks up at all; hardly class specific",
        is_azures=True, has_channels=True, is_signed=True,
    ),
    *(
        AlgorithmRow(
            name, "classifier", f"{_CODE}.cam_family:explain_{name}", _SMOOTH,
            "the region alone, on a grid of P / 32", "1", "the fastest localisers of convolutional networks",
        )
        for name in ("gradcam", "hirescam", "layercam")
    ),
    AlgorithmRow(
        "attention_relevance", "classifier", f"{_CODE}.cam_family:relevance", _SMOOTH,
        "the region, in patches", "1", "transformers with global attention (the ViTs)",
        needs_attention=True,
    ),
    AlgorithmRow(
        "attention_relevance_ig", "classifier", f"{_PATHS}:relevance_along_path",
        (*_PATH, "approximation_method", "localizer"),
        "integrated gradients inside that region", "`n_steps`", "the sharpest map of a ViT",
        needs_attention=True, has_path=True, has_channels=True, is_signed=True,
        limit_defaults={"n_steps": "n_steps"},
    ),
    AlgorithmRow(
        "rise", "classifier", f"{_CODE}.black_box:explain_by_rise", (*_LABELS, *_MASKS),
        "how the probability falls when random parts are masked", "`masks` predictions (500)",
        "no derivatives at all; slow",
        is_black_box=True, is_signed=True,
    ),
    AlgorithmRow(
        "occlusion", "classifier", f"{_CODE}.black_box:explain_by_occlusion", _SMOOTH,
        "how the score falls behind a square that moves over the image", "about 225 predictions",
        "a check on the others",
        has_channels=True, is_signed=True,
    ),
    AlgorithmRow(
        "odam", "detector", f"{_OBJECTS}:ObjectExplainer.explain_by_gradients", _BOXES,
        "which locations of the image one box depends on",
        "1, and little for each object more", "a quick look at every box",
        targets=("score", "mask", "box"),
    ),
    AlgorithmRow(
        "d_rise", "detector", f"{_OBJECTS}:ObjectExplainer.explain_by_masking", (*_BOXES, *_MASKS),
        "locations that must be visible for boxes like the explained one to be detected", "`masks` predictions (500)",
        "no derivatives at all; minutes",
        is_black_box=True, targets=("score",), max_awaited_masks=100,
    ),
)  # fmt: skip
"""Rows by name; the first of a classifier, and the first of a detector, is its default."""

CLASSIFIER_ALGORITHMS: Final = tuple(row.name for row in ALGORITHMS.values() if row.explains == "classifier")
DETECTOR_ALGORITHMS: Final = tuple(row.name for row in ALGORITHMS.values() if row.explains == "detector")
AZURE_ALGORITHMS: Final = tuple(row.name for row in ALGORITHMS.values() if row.is_azures)
