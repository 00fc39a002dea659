"""Confusion matrices: rows are the truth, columns the prediction, cells count images."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "confusion_document",
    "confusion_matrix",
    "confusion_per_class",
    "confusion_per_class_document",
    "row_shares",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.int8]


def confusion_matrix(truth_NK: Bits, predicted_NK: Bits) -> Ints:
    """Multi-class counts (K, K), from two arrays of 0 and 1 with one 1 per row."""
    num_classes = truth_NK.shape[1]
    cells_N = truth_NK.argmax(axis=1) * num_classes + predicted_NK.argmax(axis=1)
    return np.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_per_class(truth_NK: Bits, predicted_NK: Bits) -> Ints:
    """Multi-label counts (K, 2, 2): for each class, images without it (0) and with it (1)."""
    both = (truth_NK * predicted_NK).sum(axis=0)
    missed, wrong = truth_NK.sum(axis=0) - both, predicted_NK.sum(axis=0) - both
    neither = len(truth_NK) - both - missed - wrong
    return np.stack([neither, wrong, missed, both], axis=1).reshape(-1, 2, 2)


def row_shares(counts: Ints) -> Floats:
    """Each row (the last axis) divided by its sum; NaN in a row without images."""
    sums = counts.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(counts, sums, out=np.full(counts.shape, np.nan), where=sums > 0))


def confusion_document(matrix_KK: Ints, classes: tuple[str, ...]) -> dict[str, Any]:
    """The document in Azure's form: `log_confusion_matrix` of the azureml SDK, version of its evaluation component."""
    data = {"class_labels": list(classes), "matrix": matrix_KK.tolist()}
    return {"schema_type": "confusion_matrix", "schema_version": "1.0.0", "data": data}


def confusion_per_class_document(matrices_K22: Ints, classes: tuple[str, ...]) -> dict[str, Any]:
    """The document in a form of Clearsight: Azure writes no confusion matrix for multi-label jobs."""
    data = {"class_labels": list(classes), "matrices": matrices_K22.tolist()}
    return {"schema_type": "multilabel_confusion_matrix", "schema_version": "1.0.0", "data": data}
