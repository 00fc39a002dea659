"""What a model answers for one image, before it is written as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "ClassificationAnswer", "DetectedObject", "DetectionAnswer", "ObjectExplanation"]


@dataclass(frozen=True, slots=True)
class ClassificationAnswer:
    """Probabilities of one image, one element per class in the order of the package's labels, and their explanations.

    An explanation is a single value where the request names one class, a tuple where it names a list of classes;
    None leaves the key out of the JSON.
    """

    probs: tuple[float, ...]
    labels: tuple[str, ...]
    visualizations: bytes | tuple[bytes, ...] | None = None
    """PNG files; base64 text in the JSON."""
    attributions: bytes | tuple[bytes, ...] | None = None
    """JSON texts of up to megabytes, copied into the JSON unparsed."""
    explanation_details: Mapping[str, Any] | tuple[Mapping[str, Any], ...] | None = None
    """How the explanation was computed. An extension of Azure's answer, only on request."""
    is_degraded: bool = False
    """Whether time or a limit ended an explanation before it reached the requested quality. Not in the JSON."""


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One box of an answer; all coordinates are fractions of the upright image, in [0, 1]."""

    box_xyxy_unit: tuple[float, float, float, float]
    """Azure's `topX`, `topY`, `bottomX`, `bottomY`: left < right and top < bottom."""
    label: str
    score: float
    polygon: tuple[tuple[float, ...], ...] | None = None
    """Segmentation only: x0, y0, x1, y1, … of 3 or more points, one such list per region of the mask, largest first."""
    rle: Mapping[str, Any] | None = None
    """COCO's run-length encoding of the mask. An extension of Azure's answer, enabled by the package's settings."""
    view: int = field(default=0, compare=False)
    """View of the image in which the object was detected: 0 is the whole image, i its tile i - 1. Not in the JSON."""


@dataclass(frozen=True, slots=True)
class ObjectExplanation:
    """The explanation of one detected object; None leaves the key out of the JSON."""

    index: int
    """Position of the object in `boxes`."""
    visualizations: bytes | None = None
    """PNG file; base64 text in the JSON."""
    attributions: bytes | None = None
    """JSON text, copied into the JSON unparsed."""
    explanation_details: Mapping[str, Any] | None = None
    """How the explanation was computed."""


@dataclass(frozen=True, slots=True)
class DetectionAnswer:
    """Objects detected in one image, sorted by descending score; for object detection and instance segmentation."""

    boxes: tuple[DetectedObject, ...]
    explanations: tuple[ObjectExplanation, ...] | None = None
    """An extension of Azure's answer, only on request."""
    is_degraded: bool = False
    """Whether time or a limit ended an explanation before it reached the requested quality. Not in the JSON."""


Answer = ClassificationAnswer | DetectionAnswer
