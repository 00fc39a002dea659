"""Writes the charts of one trial: four JSON files and their images."""

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearsight.files import write_atomically
from clearsight.tasks import Task
from clearsight.training.charts.confusion import (
    confusion_document,
    confusion_matrix,
    confusion_per_class,
    confusion_per_class_document,
    row_shares,
)
from clearsight.training.charts.curves import Curves, precision_recall_curves, roc_curves
from clearsight.training.charts.report import Report, build_report
from clearsight.training.classification.metrics import classification_metrics, indicators

__all__ = ["write_charts", "write_files"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def write_charts(
    folder: Path, targets: npt.NDArray[np.generic], probs_NK: Floats, classes: tuple[str, ...], task: Task
) -> list[Path]:
    """Write the charts of the best pass into a folder, which is made; return the files.

    `confusion_matrix`, `roc_curve`, `precision_recall_curve`, `classification_report` as .json and .png, and for
    multi-class `confusion_matrix_normalized.png`. `targets` as in `classification_metrics`; N must be at least 1.
    """
    truth_NK, predicted_NK = indicators(targets, probs_NK, task)
    count = confusion_matrix if task is Task.MULTI_CLASS else confusion_per_class
    confusion = count(truth_NK, predicted_NK)
    roc = roc_curves(truth_NK, probs_NK)
    precision_recall = precision_recall_curves(truth_NK, probs_NK)
    scalars = classification_metrics(targets, probs_NK, task)
    report = build_report(classes, truth_NK, predicted_NK, roc, precision_recall, scalars, task)
    confusion_to_document = confusion_document if task is Task.MULTI_CLASS else confusion_per_class_document
    documents = {
        "confusion_matrix.json": confusion_to_document(confusion, classes),
        "roc_curve.json": roc.to_document("roc_curve", classes, "fpr", "tpr", "AUC"),
        "precision_recall_curve.json": precision_recall.to_document(
            "precision_recall_curve", classes, "recall", "precision", "average_precision"
        ),
        "classification_report.json": report.to_document(),
    }
    return write_files(folder, documents, _images(confusion, roc, precision_recall, report, classes))


def write_files(folder: Path, documents: Mapping[str, Any], images: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Write documents as one line of JSON each, then every image when it is drawn; return the files.

    An error in drawing therefore leaves the values. Raises `ValueError` for numbers that are not finite.
    """
    texts = [(name, (json.dumps(document, allow_nan=False) + "\n").encode()) for name, document in documents.items()]
    files = []
    for name, content in itertools.chain(texts, images):
        write_atomically(folder / name, content)
        files.append(folder / name)
    return files


def _images(
    confusion: Ints, roc: Curves, precision_recall: Curves, report: Report, classes: tuple[str, ...]
) -> Iterator[tuple[str, bytes]]:
    logging.getLogger("matplotlib").setLevel(
        logging.WARNING
    )  # `log_verbosity: debug` is meant for Clearsight, not for every font
    # Only a trial that has reached its end draws; matplotlib takes half a second to import.
    from clearsight.training.charts.draw_curves import draw_curves
    from clearsight.training.charts.draw_matrix import draw_matrix
    from clearsight.training.charts.draw_table import draw_confusion_per_class, draw_report
    from clearsight.training.charts.lettering import choose_lettering
    from clearsight.training.charts.style import chart_style, to_png

    lettering = choose_lettering(classes)
    names = lettering.names
    with chart_style(lettering.families):
        shares = row_shares(confusion)
        if confusion.ndim == 2:
            counted = draw_matrix(confusion.astype(np.float64), names, "Confusion matrix: pictures", percent=False)
            yield "confusion_matrix.png", to_png(counted)
            shared = draw_matrix(shares, names, "Confusion matrix: percent of each true class", percent=True)
            yield "confusion_matrix_normalized.png", to_png(shared)
        else:
            per_class = draw_confusion_per_class(confusion, shares, report, names)
            yield "confusion_matrix.png", to_png(per_class)
        axis_names = ("False positive rate", "True positive rate")
        yield "roc_curve.png", to_png(draw_curves(roc, names, "ROC curves", axis_names, "AUC", steps=False))
        axis_names = ("Recall", "Precision")
        lines = draw_curves(
            precision_recall, names, "Precision-recall curves", axis_names, "Average precision", steps=True
        )
        yield "precision_recall_curve.png", to_png(lines)
        yield "classification_report.png", to_png(draw_report(report, names))
