"""Metrics of the classification tasks under Azure's names, computed by scikit-learn.

Names: https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml. An undefined value (a class
without examples, for AUC and average precision) is left out of averages; a metric of which nothing is left is left out.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn import metrics  # type: ignore[import-untyped]

from clearsight.tasks import Task

__all__ = ["classification_metrics", "probabilities"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

AVERAGES: Final = ("macro", "micro", "weighted")
MULTI_LABEL_THRESHOLD: Final = 0.5
"""A class is predicted when its probability is at least this (Azure)."""


def probabilities(logits_NK: npt.NDArray[np.float32], task: Task) -> Floats:
    """Softmax for multi-class, sigmoid for multi-label; float64 (N, K)."""
    logits = logits_NK.astype(np.float64)
    if task is Task.MULTI_LABEL:
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def classification_metrics(targets: npt.NDArray[np.generic], probs_NK: Floats, task: Task) -> dict[str, float]:
    """All scalar metrics of one validation pass.

    `targets`: class ids (N,) for multi-class, 0/1 (N, K) for multi-label. N must be at least 1.
    """
    values = _multi_class(targets, probs_NK) if task is Task.MULTI_CLASS else _multi_label(targets, probs_NK)
    return {name: float(value) for name, value in values.items() if value is not None and np.isfinite(value)}


def _multi_class(targets: npt.NDArray[np.generic], probs_NK: Floats) -> dict[str, float | None]:
    true = targets.astype(np.int64)
    num_classes = probs_NK.shape[1]
    predicted: Ints = probs_NK.argmax(axis=1)
    classes = list(range(num_classes))
    truth_NK = np.eye(num_classes)[true]
    recall_macro = float(metrics.recall_score(true, predicted, average="macro", zero_division=0))
    recall_of_present = metrics.recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
    chance = 0.5 if num_classes == 2 else 1.0 / num_classes
    shares = np.bincount(true, minlength=num_classes) / len(true)
    values: dict[str, float | None] = {
        "accuracy": metrics.accuracy_score(true, predicted),
        "balanced_accuracy": float(recall_of_present),  # as balanced_accuracy_score, which warns about absent classes
        "weighted_accuracy": metrics.accuracy_score(true, predicted, sample_weight=shares[true]),
        "matthews_correlation": metrics.matthews_corrcoef(true, predicted) if len({*true, *predicted}) > 1 else None,
        "norm_macro_recall": (recall_macro - chance) / (1.0 - chance),
        "log_loss": metrics.log_loss(true, probs_NK, labels=classes) if num_classes > 1 else None,
    }
    values |= _ranking(truth_NK, probs_NK)
    for average in AVERAGES:
        values |= _scores(true, predicted, average)
    if num_classes == 2:
        values |= _scores(true, predicted, "binary")
        values["AUC_binary"] = _auc(truth_NK[:, 1], probs_NK[:, 1])
        values["average_precision_score_binary"] = _average_precision(truth_NK[:, 1], probs_NK[:, 1])
    return values


def _multi_label(targets: npt.NDArray[np.generic], probs_NK: Floats) -> dict[str, float | None]:
    truth_NK = targets.astype(np.int64)
    predicted_NK = (probs_NK >= MULTI_LABEL_THRESHOLD).astype(np.int64)
    clipped = np.clip(probs_NK, 1e-15, 1 - 1e-15)
    log_loss = -np.mean(truth_NK * np.log(clipped) + (1 - truth_NK) * np.log1p(-clipped))
    values: dict[str, float | None] = {
        "accuracy": metrics.accuracy_score(truth_NK, predicted_NK),
        "iou": metrics.jaccard_score(truth_NK, predicted_NK, average="samples", zero_division=1.0),
        "log_loss": float(log_loss),
    }
    for average in AVERAGES:
        values[f"iou_{average}"] = metrics.jaccard_score(truth_NK, predicted_NK, average=average, zero_division=0)
        values |= _scores(truth_NK, predicted_NK, average)
    return values | _ranking(truth_NK, probs_NK)


def _scores(truth: npt.NDArray[np.generic], predicted: Ints, average: str) -> dict[str, float]:
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, predicted, average=average, zero_division=0
    )
    return {f"precision_score_{average}": precision, f"recall_score_{average}": recall, f"f1_score_{average}": f1}


def _ranking(truth_NK: npt.NDArray[np.generic], probs_NK: Floats) -> dict[str, float | None]:
    """One against the rest: AUC and average precision, averaged over classes, or over all cells (micro)."""
    support = truth_NK.sum(axis=0).astype(np.float64)
    values: dict[str, float | None] = {}
    for name, score in (("AUC", _auc), ("average_precision_score", _average_precision)):
        per_class = [score(truth_NK[:, k], probs_NK[:, k]) for k in range(truth_NK.shape[1])]
        known = [(value, weight) for value, weight in zip(per_class, support, strict=True) if value is not None]
        total = sum(weight for _, weight in known)
        values[f"{name}_macro"] = float(np.mean([value for value, _ in known])) if known else None
        values[f"{name}_weighted"] = sum(value * weight for value, weight in known) / total if total else None
        values[f"{name}_micro"] = score(truth_NK.ravel(), probs_NK.ravel())
    return values


def _auc(truth_N: npt.NDArray[np.generic], scores_N: Floats) -> float | None:
    """None unless both kinds occur."""
    return float(metrics.roc_auc_score(truth_N, scores_N)) if 0 < truth_N.sum() < len(truth_N) else None


def _average_precision(truth_N: npt.NDArray[np.generic], scores_N: Floats) -> float | None:
    """None without a positive example."""
    return float(metrics.average_precision_score(truth_N, scores_N)) if truth_N.sum() > 0 else None
