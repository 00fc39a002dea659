"""Precision, recall and average precision of each class as Pascal VOC defines them since 2010 (all points).

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2, and the development kit
of 2012. Unlike in that kit, a prediction takes the best object that is still unmatched, as in COCO, not the best of
all.

Shapes in names: N predictions of a class over all images, M true objects of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from clearsight.training.detection.metrics.objects import GroundTruth, Predictions
from clearsight.training.detection.metrics.regions import Shape, overlap_matrix
from clearsight.vision.matching import match_greedily

__all__ = ["ClassMatches", "Outcome", "average_precision", "match_classes", "match_predictions"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Outcomes = npt.NDArray[np.int8]


class Outcome(IntEnum):
    """Result of matching a prediction."""

    FALSE_POSITIVE = 0
    TRUE_POSITIVE = 1
    IGNORED = 2
    """It lies in a crowd and counts neither as right nor as wrong."""


@dataclass(frozen=True, slots=True)
class ClassMatches:
    """The matches of one class over all images. An undefined value is None."""

    num_truths: int
    """Number of objects, without crowds."""
    is_true_N: Bools
    """Whether each prediction is right, by descending score, without ignored predictions."""
    scores_N: Floats
    """Scores of the same predictions."""

    @property
    def precision(self) -> float | None:
        """True positives over predictions; None without predictions."""
        return float(self.is_true_N.mean()) if len(self.is_true_N) else None

    @property
    def recall(self) -> float | None:
        """True positives over objects; None without objects."""
        return float(self.is_true_N.sum() / self.num_truths) if self.num_truths else None

    @property
    def average_precision(self) -> float | None:
        """Area under the precision-recall curve; None without objects."""
        return average_precision(self.is_true_N, self.num_truths) if self.num_truths else None


def average_precision(is_true_N: Bools, num_truths: int) -> float:
    """Area under the curve of precision over recall, in [0, 1].

    Precision at a recall is the highest at that or any larger one. `is_true_N` by descending score; `num_truths` >= 1.
    """
    num_true_N = np.cumsum(is_true_N)
    precision_N = num_true_N / np.arange(1, len(is_true_N) + 1)
    highest_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    # Recall grows by 1 / num_truths at every true positive and nowhere else.
    return float(highest_N[is_true_N].sum() / num_truths)


def match_classes(
    predictions: Sequence[Predictions],
    truths: Sequence[GroundTruth],
    num_classes: int,
    iou_threshold: float,
    shape: Shape,
) -> list[ClassMatches]:
    """Match every image's predictions with its objects; one result for each class id below `num_classes`.

    Of equal scores the earlier image's comes first.
    """
    num_truths = [0] * num_classes
    scores: list[list[Floats]] = [[] for _ in range(num_classes)]
    outcomes: list[list[Outcomes]] = [[] for _ in range(num_classes)]
    for detections, truth in zip(predictions, truths, strict=True):
        for class_id in np.union1d(detections.class_ids_N, truth.class_ids_N).astype(int):
            predicted, true = detections.of_class(class_id), truth.of_class(class_id)
            num_truths[class_id] += int(np.count_nonzero(~true.is_crowd_N))
            scores[class_id].append(predicted.scores_N.astype(np.float64))
            overlaps_NM = overlap_matrix(predicted, true, shape)
            outcomes[class_id].append(match_predictions(overlaps_NM, true.is_crowd_N, iou_threshold))
    return [
        _join(num, np.concatenate([[], *class_scores]), np.concatenate([np.zeros(0, np.int8), *class_outcomes]))
        for num, class_scores, class_outcomes in zip(num_truths, scores, outcomes, strict=True)
    ]


def match_predictions(overlaps_NM: Floats, is_crowd_M: Bools, iou_threshold: float) -> Outcomes:
    """`Outcome` of each prediction of one class in one image, in the order of the rows: by descending score.

    Crowds are not part of the greedy matching: any number of predictions may lie in one crowd, and taking an object
    counts before lying in a crowd.
    """
    in_crowd_N = (overlaps_NM[:, is_crowd_M] >= iou_threshold).any(axis=1)
    outcomes = np.where(in_crowd_N, Outcome.IGNORED, Outcome.FALSE_POSITIVE).astype(np.int8)
    outcomes[match_greedily(overlaps_NM[:, ~is_crowd_M], iou_threshold) >= 0] = Outcome.TRUE_POSITIVE
    return outcomes


def _join(num_truths: int, scores_N: Floats, outcomes_N: Outcomes) -> ClassMatches:
    order = np.argsort(-scores_N, kind="stable")
    order = order[outcomes_N[order] != Outcome.IGNORED]
    return ClassMatches(num_truths, outcomes_N[order] == Outcome.TRUE_POSITIVE, scores_N[order])
