"""Metrics of a validation pass of detection and segmentation under Azure's names.

Names: https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml. An undefined value (recall of
a class without objects, precision without predictions) is left out of averages; a metric without any defined value
is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from clearsight.tasks import Task
from clearsight.training.detection.metrics.coco import coco_metrics
from clearsight.training.detection.metrics.objects import GroundTruth, Predictions
from clearsight.training.detection.metrics.regions import Shape
from clearsight.training.detection.metrics.voc import ClassMatches, join_images, match_classes, match_images
from clearsight.training.engine.intervals import Positions

__all__ = [
    "DetectionMetrics",
    "MetricOptions",
    "MetricType",
    "averages_of",
    "detection_metrics",
    "metrics_of_resamples",
]

MetricType = Literal["none", "coco", "voc", "coco_voc"]


@dataclass(frozen=True, slots=True)
class MetricOptions:
    """What a validation pass computes. The names are those of the job's parameters."""

    validation_metric_type: MetricType
    validation_iou_threshold: float
    """Overlap, in (0, 1], from which a prediction matches an object; for VOC."""
    box_score_threshold: float
    """Only predictions with a score strictly above it count, for both methods."""
    log_training_metrics: Literal["Enable", "Disable"] = "Disable"
    """Whether each validation pass also computes the metrics of the training images."""
    log_validation_loss: Literal["Enable", "Disable"] = "Disable"
    """Whether each validation pass also computes the loss of the validation images."""


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """The metrics of one validation pass; undefined ones are absent."""

    values: dict[str, float] = field(default_factory=dict)
    per_label: dict[str, dict[str, float]] = field(default_factory=dict)
    """Class -> `precision`, `recall`, `average_precision`, in the order of the classes; empty without VOC."""


def detection_metrics(
    predictions: Sequence[Predictions],
    truths: Sequence[GroundTruth],
    classes: Sequence[str],
    options: MetricOptions,
    task: Task,
) -> DetectionMetrics:
    """Compare predictions with the truth, image by image; class ids are positions in `classes`.

    `mean_average_precision` is VOC's where VOC is asked for, else COCO's at IoU 0.5. For segmentation the masks
    are compared, and the boxes alone give `bbox_mean_average_precision` by the same method.
    """
    method = options.validation_metric_type
    if method == "none":
        return DetectionMetrics()
    shape: Shape = "mask" if task is Task.SEGMENTATION else "box"
    counted = [detections.above(options.box_score_threshold) for detections in predictions]
    values: dict[str, float | None] = {}
    per_label: dict[str, dict[str, float]] = {}
    if method != "voc":
        of_coco = coco_metrics(counted, truths, len(classes), shape)
        values |= {f"coco_{name}": value for name, value in of_coco.items()}
    if method == "coco":
        values["mean_average_precision"] = values.get("coco_AP50")
        if shape == "mask":
            values["bbox_mean_average_precision"] = coco_metrics(counted, truths, len(classes), "box").get("AP50")
    else:
        iou_threshold = options.validation_iou_threshold
        matches = match_classes(counted, truths, len(classes), iou_threshold, shape)
        values |= averages_of(matches)
        per_label = {label: _row(match) for label, match in zip(classes, matches, strict=True)}
        if shape == "mask":
            of_boxes = match_classes(counted, truths, len(classes), iou_threshold, "box")
            values["bbox_mean_average_precision"] = averages_of(of_boxes)["mean_average_precision"]
    return DetectionMetrics(_defined(values), per_label)


def metrics_of_resamples(
    predictions: Sequence[Predictions],
    truths: Sequence[GroundTruth],
    num_classes: int,
    options: MetricOptions,
    task: Task,
) -> Callable[[Positions], dict[str, float]]:
    """A function of positions of images, (N,), which may repeat, to their mean average precision, precision and recall.

    The values, their names and what is undefined are those of `detection_metrics`; images are matched only once.
    """
    method = options.validation_metric_type
    if method == "none":
        return lambda _: {}
    iou_threshold = 0.5 if method == "coco" else options.validation_iou_threshold
    counted = [detections.above(options.box_score_threshold) for detections in predictions]
    shapes: dict[Shape, str] = {"box": ""} if task is not Task.SEGMENTATION else {"mask": "", "box": "bbox_"}
    images = {prefix: match_images(counted, truths, iou_threshold, shape) for shape, prefix in shapes.items()}

    def measure(positions: Positions) -> dict[str, float]:
        values: dict[str, float | None] = {}
        for prefix, of_shape in images.items():
            matches = join_images([of_shape[at] for at in positions], num_classes)
            averages = averages_of(matches)
            if method == "coco":
                averages = {"mean_average_precision": _mean([one.average_precision_101 for one in matches])}
            if prefix:
                averages = {"mean_average_precision": averages["mean_average_precision"]}
            values |= {f"{prefix}{name}": value for name, value in averages.items()}
        return _defined(values)

    return measure


def averages_of(matches: Sequence[ClassMatches]) -> dict[str, float | None]:
    """Azure's names -> means over the classes with objects; for precision only over those with predictions."""
    present = [match for match in matches if match.num_truths]
    return {
        "mean_average_precision": _mean([match.average_precision for match in present]),
        "precision": _mean([match.precision for match in present]),
        "recall": _mean([match.recall for match in present]),
    }


def _row(match: ClassMatches) -> dict[str, float]:
    row = {"precision": match.precision, "recall": match.recall, "average_precision": match.average_precision}
    return _defined(row)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _defined(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
