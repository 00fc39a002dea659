"""Metrics of the classification tasks under Azure's names, computed by scikit-learn.

Names: https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml. An undefined value (a class
without examples, for AUC and average precision) is left out of averages; a metric without any defined value is left
out.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn import metrics  # type: ignore[import-untyped]

from clearsight.errors import TrainingError
from clearsight.tasks import Task

__all__ = ["classification_metrics", "image_ious", "indicators"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.int8]

AVERAGES: Final = ("macro", "micro", "weighted")
MULTI_LABEL_THRESHOLD: Final = 0.5
"""A class is predicted when its probability is at least this (Azure)."""


def indicators(targets: npt.NDArray[np.generic], probs_NK: Floats, task: Task) -> tuple[Bits, Bits]:
    """Truth and prediction as 0 and 1, both (N, K): the most probable class, or every class from 0.5 on.

    `targets`: class ids (N,) for multi-class, 0/1 (N, K) for multi-label. Of equal probabilities the first class wins.
    """
    if task is Task.MULTI_LABEL:
        return targets.astype(np.int8), (probs_NK >= MULTI_LABEL_THRESHOLD).astype(np.int8)
    one_hot_KK = np.eye(probs_NK.shape[1], dtype=np.int8)
    return one_hot_KK[targets.astype(np.int64)], one_hot_KK[probs_NK.argmax(axis=1)]


def classification_metrics(targets: npt.NDArray[np.generic], probs_NK: Floats, task: Task) -> dict[str, float]:
    """All scalar metrics of one validation pass.

    `targets`: class ids (N,) for multi-class, 0/1 (N, K) for multi-label. N must be at least 1. Raises `TrainingError`
    for probabilities that are not finite.
    """
    if not np.isfinite(probs_NK).all():
        raise TrainingError(
            "diverged",
            "the network's answers must stay finite, but on the validation pictures they are not; lower learning_rate "
            "or raise warmup_cosine_lr_warmup_epochs",
        )
    truth_NK, predicted_NK = indicators(targets, probs_NK, task)
    values = (_multi_class if task is Task.MULTI_CLASS else _multi_label)(truth_NK, predicted_NK, probs_NK)
    return {name: float(value) for name, value in values.items() if value is not None and np.isfinite(value)}


def image_ious(truth_NK: Bits, predicted_NK: Bits) -> Floats:
    """Intersection over union of the true and the predicted classes of each image, (N,); 1 where there are none."""
    both, either = (truth_NK & predicted_NK).sum(axis=1), (truth_NK | predicted_NK).sum(axis=1)
    iou_N: Floats = np.divide(both, either, out=np.ones(len(both)), where=either > 0)
    return iou_N


def _multi_class(truth_NK: Bits, predicted_NK: Bits, probs_NK: Floats) -> dict[str, float | None]:
    true, predicted = truth_NK.argmax(axis=1), predicted_NK.argmax(axis=1)
    num_classes = probs_NK.shape[1]
    classes = list(range(num_classes))
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
        "log_loss": metrics.log_loss(true, probs_NK, labels=classes),
    }
    values |= _ranking(truth_NK, probs_NK)
    for average in AVERAGES:
        values |= _scores(true, predicted, average)
    if num_classes == 2:
        values |= _scores(true, predicted, "binary")
        values["AUC_binary"] = _auc(truth_NK[:, 1], probs_NK[:, 1])
        values["average_precision_score_binary"] = _average_precision(truth_NK[:, 1], probs_NK[:, 1])
    return values


def _multi_label(truth_NK: Bits, predicted_NK: Bits, probs_NK: Floats) -> dict[str, float | None]:
    probs_of_truth_NK = np.where(truth_NK == 1, probs_NK, 1.0 - probs_NK)
    values: dict[str, float | None] = {
        "accuracy": metrics.accuracy_score(truth_NK, predicted_NK),
        "iou": float(np.mean(image_ious(truth_NK, predicted_NK))),
        "log_loss": -float(np.mean(np.log(np.maximum(probs_of_truth_NK, np.finfo(np.float64).eps)))),  # its eps too
    }
    # To scikit-learn a single column is a binary task with the classes 0 and 1, of which only class 1 is wanted.
    labels = [1] if truth_NK.shape[1] == 1 else None
    for average in AVERAGES:
        values[f"iou_{average}"] = metrics.jaccard_score(
            truth_NK, predicted_NK, average=average, labels=labels, zero_division=0
        )
        values |= _scores(truth_NK, predicted_NK, average, labels)
    return values | _ranking(truth_NK, probs_NK)


def _scores(
    truth: Ints | Bits, predicted: Ints | Bits, average: str, labels: list[int] | None = None
) -> dict[str, float]:
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, predicted, average=average, labels=labels, zero_division=0
    )
    return {f"precision_score_{average}": precision, f"recall_score_{average}": recall, f"f1_score_{average}": f1}


def _ranking(truth_NK: Bits, probs_NK: Floats) -> dict[str, float | None]:
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


def _auc(truth_N: Bits, scores_N: Floats) -> float | None:
    """None unless the class has images with and without it."""
    return float(metrics.roc_auc_score(truth_N, scores_N)) if 0 < truth_N.sum() < len(truth_N) else None


def _average_precision(truth_N: Bits, scores_N: Floats) -> float | None:
    """None without a positive example."""
    return float(metrics.average_precision_score(truth_N, scores_N)) if truth_N.sum() > 0 else None
