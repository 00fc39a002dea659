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

__all__ = [
    "ClassMatches",
    "ImageMatches",
    "Outcome",
    "average_precision",
    "join_images",
    "match_classes",
    "match_images",
    "match_predictions",
]

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

    @property
    def average_precision_101(self) -> float | None:
        """Mean precision at the recalls 0, 0.01, …, 1, as COCO has it; None without objects."""
        if not self.num_truths:
            return None
        num_true_N = np.cumsum(self.is_true_N, dtype=np.int64)
        at = np.searchsorted(num_true_N / self.num_truths, np.linspace(0, 1, 101))  # the first of at least this recall
        return float(np.append(_highest_precision(num_true_N), 0.0)[at].mean())


def average_precision(is_true_N: Bools, num_truths: int) -> float:
    """Area under the curve of precision over recall, in [0, 1].

    Precision at a recall is the highest at that or any larger one. `is_true_N` by descending score; `num_truths` >= 1.
    """
    # Recall grows by 1 / num_truths at every true positive and nowhere else.
    return float(_highest_precision(np.cumsum(is_true_N, dtype=np.int64))[is_true_N].sum() / num_truths)


def _highest_precision(num_true_N: npt.NDArray[np.int64]) -> Floats:
    """The highest precision from each prediction on, of the numbers of right ones so far."""
    precision_N = num_true_N / np.arange(1, len(num_true_N) + 1)
    return np.maximum.accumulate(precision_N[::-1])[::-1]


@dataclass(frozen=True, slots=True)
class ImageMatches:
    """The matches of one class in one image."""

    class_id: int
    num_truths: int
    """Number of objects, without crowds."""
    scores_N: Floats
    """Scores of the predictions, descending."""
    outcomes_N: Outcomes


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
    return join_images(match_images(predictions, truths, iou_threshold, shape), num_classes)


def match_images(
    predictions: Sequence[Predictions], truths: Sequence[GroundTruth], iou_threshold: float, shape: Shape
) -> list[list[ImageMatches]]:
    """Match every image's predictions with its objects; for each image one result for each class that it has."""
    images = []
    for detections, truth in zip(predictions, truths, strict=True):
        of_image = []
        for class_id in np.union1d(detections.class_ids_N, truth.class_ids_N).astype(int).tolist():
            predicted, true = detections.of_class(class_id), truth.of_class(class_id)
            outcomes_N = match_predictions(overlap_matrix(predicted, true, shape), true.is_crowd_N, iou_threshold)
            num_truths = int(np.count_nonzero(~true.is_crowd_N))
            of_image.append(ImageMatches(class_id, num_truths, predicted.scores_N.astype(np.float64), outcomes_N))
        images.append(of_image)
    return images


def join_images(images: Sequence[Sequence[ImageMatches]], num_classes: int) -> list[ClassMatches]:
    """Join the matches of images; an image may stand in `images` several times. Otherwise as `match_classes`."""
    of_classes: list[list[ImageMatches]] = [[] for _ in range(num_classes)]
    for of_image in images:
        for matches in of_image:
            of_classes[matches.class_id].append(matches)
    return [
        _join(
            sum(matches.num_truths for matches in of_class),
            np.concatenate([[], *(matches.scores_N for matches in of_class)]),
            np.concatenate([np.zeros(0, np.int8), *(matches.outcomes_N for matches in of_class)]),
        )
        for of_class in of_classes
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
