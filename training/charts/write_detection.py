"""Writes the charts of a detection or segmentation trial: three JSON files and their images."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clearsight.tasks import Task
from clearsight.training.charts.confusion import row_shares
from clearsight.training.charts.curves import Curves
from clearsight.training.charts.detection import (
    BACKGROUND,
    Ints,
    PerLabelTable,
    build_per_label,
    detection_confusion,
    detection_confusion_document,
    detection_curves,
    detection_curves_document,
)
from clearsight.training.charts.write import write_files
from clearsight.training.detection.metrics import GroundTruth, MetricOptions, Predictions
from clearsight.training.detection.metrics.regions import Shape
from clearsight.training.detection.metrics.voc import match_classes

__all__ = ["write_detection_charts"]


def write_detection_charts(
    folder: Path,
    truths: Sequence[GroundTruth],
    predictions: Sequence[Predictions],
    classes: Sequence[str],
    options: MetricOptions,
    task: Task,
) -> list[Path]:
    """Write the charts of the best pass into a folder, which is made; return the files.

    `precision_recall_curve`, `confusion_matrix`, `per_label_metrics` as .json and .png, and
    `confusion_matrix_normalized.png`. Truth and predictions image by image. Overlaps are those of masks for
    segmentation, else of boxes, at the validation IoU; predictions count above the score threshold. VOC's
    rules are used, whatever the metric type of the job, so that there is a curve at that IoU for each class.
    """
    shape: Shape = "mask" if task is Task.SEGMENTATION else "box"
    labels, iou = tuple(classes), options.validation_iou_threshold
    counted = [detections.above(options.box_score_threshold) for detections in predictions]
    matches = match_classes(counted, truths, len(labels), iou, shape)
    curves, table = detection_curves(matches), build_per_label(labels, matches)
    confusion = detection_confusion(counted, truths, len(labels), iou, shape)
    documents = {
        "precision_recall_curve.json": detection_curves_document(curves, labels, iou),
        "confusion_matrix.json": detection_confusion_document(confusion, labels, iou),
        "per_label_metrics.json": table.to_document(),
    }
    return write_files(folder, documents, _images(curves, confusion, table, labels, f"{shape} IoU {iou:g}"))


def _images(
    curves: Curves, confusion: Ints, table: PerLabelTable, classes: tuple[str, ...], where: str
) -> Iterator[tuple[str, bytes]]:
    logging.getLogger("matplotlib").setLevel(
        logging.WARNING
    )  # `log_verbosity: debug` is meant for Clearsight, not for every font
    # Only a trial that has reached its end draws; matplotlib takes half a second to import.
    from clearsight.training.charts.draw_curves import draw_curves
    from clearsight.training.charts.draw_matrix import draw_matrix
    from clearsight.training.charts.draw_table import draw_per_label
    from clearsight.training.charts.lettering import choose_lettering
    from clearsight.training.charts.style import chart_style, to_png

    lettering = choose_lettering((*classes, BACKGROUND))
    names = lettering.names
    with chart_style(lettering.families):
        lines = draw_curves(
            curves,
            names[:-1],
            f"Precision-recall curves, {where}",
            ("Recall", "Precision"),
            "Average precision",
            steps=True,
        )
        yield "precision_recall_curve.png", to_png(lines)
        counts, shares = confusion.astype(np.float64), row_shares(confusion)
        counts[-1, -1] = shares[-1, -1] = np.nan  # background that was not predicted cannot be counted
        title = f"Confusion matrix: objects, {where}"
        yield "confusion_matrix.png", to_png(draw_matrix(counts, names, title, percent=False))
        title = "Confusion matrix: percent of each row"
        yield "confusion_matrix_normalized.png", to_png(draw_matrix(shares, names, title, percent=True))
        yield "per_label_metrics.png", to_png(draw_per_label(table, names[:-1], f"Metrics of each class, {where}"))
