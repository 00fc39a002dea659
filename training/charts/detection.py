"""The values of the charts of detection and segmentation, as arrays.

Legend of shapes: K classes, N predictions, P points of a curve, M objects of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clearsight.training.charts.confusion import confusion_document
from clearsight.training.charts.curves import Curve, Curves, thin
from clearsight.training.detection.metrics import GroundTruth, Predictions
from clearsight.training.detection.metrics.metrics import averages_of
from clearsight.training.detection.metrics.regions import Shape, overlap_matrix
from clearsight.training.detection.metrics.voc import ClassMatches
from clearsight.vision.matching import match_greedily

__all__ = [
    "BACKGROUND",
    "PER_LABEL_COLUMNS",
    "PerLabelTable",
    "build_per_label",
    "detection_confusion",
    "detection_confusion_document",
    "detection_curves",
    "detection_curves_document",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BACKGROUND: Final = "background"
"""Label of the last row and column of the confusion matrix: predictions without an object, and missed objects."""

PER_LABEL_COLUMNS: Final = ("precision", "recall", "average_precision", "num_objects")


def detection_curves(matches: Sequence[ClassMatches]) -> Curves:
    """x: recall, descending; y: VOC's envelope, the highest precision at that or any larger recall.

    The area under the drawn steps is the average precision. The last point, at recall 0, has no threshold. A class
    needs objects; without a true positive its curve is the point (0, 0).
    """
    return Curves(per_class=tuple(_envelope(match) for match in matches), averages={})


def _envelope(match: ClassMatches) -> Curve | None:
    if match.average_precision is None:
        return None
    num_true_N = np.cumsum(match.is_true_N)
    precision_N = num_true_N / np.arange(1, len(num_true_N) + 1)
    highest_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    kept = np.flatnonzero(match.is_true_N)[::-1]  # recall grows there and nowhere else
    best = highest_N[kept[-1]] if len(kept) else 0.0
    curve = Curve(
        np.append(num_true_N[kept] / match.num_truths, 0.0),
        np.append(highest_N[kept], best),
        np.append(match.scores_N[kept], np.inf),
        match.average_precision,
    )
    return thin(curve)


def detection_curves_document(curves: Curves, classes: tuple[str, ...], iou_threshold: float) -> dict[str, Any]:
    """The document in the form of the classification curves; it says that the points are those of the envelope."""
    document: dict[str, Any] = curves.to_document(
        "precision_recall_curve", classes, "recall", "precision", "average_precision"
    )
    document["data"] |= {"iou_threshold": iou_threshold, "precision_is": "highest at this or any larger recall"}
    return document


def detection_confusion(
    predictions: Sequence[Predictions],
    truths: Sequence[GroundTruth],
    num_classes: int,
    iou_threshold: float,
    shape: Shape,
) -> Ints:
    """Counts of objects (K + 1, K + 1); the last row and column are the background, and their common cell is 0.

    In each image predictions of any class take, by descending score, the unmatched object of any class that they
    overlap most, if by `iou_threshold` at least. A prediction without an object counts as predicted on background,
    unless it lies within a crowd of its class: then it does not count.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for detections, truth in zip(predictions, truths, strict=True):
        order = np.argsort(-detections.scores_N, kind="stable")
        overlaps_NM = overlap_matrix(detections, truth, shape)[order]
        predicted_N = detections.class_ids_N[order].astype(np.int64)
        is_crowd = truth.is_crowd_N.astype(np.bool_)
        true_M = truth.class_ids_N[~is_crowd].astype(np.int64)
        taken_N = match_greedily(overlaps_NM[:, ~is_crowd], iou_threshold)
        own_crowd_NC = predicted_N[:, None] == truth.class_ids_N[is_crowd][None, :]
        in_crowd_N = ((overlaps_NM[:, is_crowd] >= iou_threshold) & own_crowd_NC).any(axis=1)
        hits = taken_N >= 0
        np.add.at(counts, (true_M[taken_N[hits]], predicted_N[hits]), 1)
        np.add.at(counts[num_classes], predicted_N[~hits & ~in_crowd_N], 1)
        np.add.at(counts[:, num_classes], np.delete(true_M, taken_N[hits]), 1)
    return counts


def detection_confusion_document(counts: Ints, classes: tuple[str, ...], iou_threshold: float) -> dict[str, Any]:
    """The form of the classification matrix; the last label is the background, whatever the classes are called."""
    document = confusion_document(counts, (*classes, BACKGROUND))
    document["schema_type"] = (
        "detection_confusion_matrix"  # readers of Azure's form would take the background for a class
    )
    document["data"]["iou_threshold"] = iou_threshold
    return document


@dataclass(frozen=True, slots=True)
class PerLabelTable:
    """Azure's `per_label_metrics` with the number of objects, crowds left out. NaN where undefined."""

    classes: tuple[str, ...]
    per_class_KC: Floats
    mean_C: Floats
    """Means over the classes with objects, as logged; of the last column the sum."""

    def to_document(self) -> dict[str, Any]:
        def row(values_C: Floats) -> dict[str, Any]:
            values = [value if np.isfinite(value) else None for value in values_C.tolist()]
            counted = {"num_objects": int(values_C[-1])}
            return dict(zip(PER_LABEL_COLUMNS, values, strict=True)) | counted

        data = {
            "class_labels": list(self.classes),
            "per_class": [row(values_C) for values_C in self.per_class_KC],
            "mean": row(self.mean_C),
        }
        return {"schema_type": "per_label_metrics", "schema_version": "1.0.0", "data": data}


def build_per_label(classes: tuple[str, ...], matches: Sequence[ClassMatches]) -> PerLabelTable:
    """Make the table of one validation pass."""
    rows = [(match.precision, match.recall, match.average_precision, match.num_truths) for match in matches]
    means = averages_of(matches)
    mean = (means["precision"], means["recall"], means["mean_average_precision"], sum(row[-1] for row in rows))
    # float64 turns None into NaN
    return PerLabelTable(classes, np.array(rows, np.float64).reshape(-1, 4), np.array(mean, np.float64))
