"""Agreement of two detection answers about the same images, in boxes and masks, on which a precision gate decides.

Shapes in names: N objects of one answer, M of the other, 4 sides of a box.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.vision.boxes import iou_matrix
from clearsight.vision.masks import CroppedMask, mask_iou
from clearsight.vision.matching import match_greedily
from clearsight.vision.polygons import polygons_to_mask
from clearsight.wire.answers import DetectedObject, DetectionAnswer

__all__ = ["MIN_IOU", "Agreement", "match_objects"]

MIN_IOU: Final = 0.9
"""Two boxes, or two masks, with at least this IoU show the same object."""

_GRID: Final = 128  # cells along each side of the rectangle around two masks in which they are compared


class Agreement:
    """Counts over images: objects in both answers, objects in only one of them, and differences of scores."""

    def __init__(self, score_threshold: float, margin: float) -> None:
        """Objects of one answer only do not count up to `margin` above the score threshold: rounding decides there."""
        self._lowest = score_threshold + margin
        self.num_matched = self.num_unmatched = 0
        self.score_differences: list[float] = []

    def add(self, expected: DetectionAnswer, found: DetectionAnswer) -> None:
        pairs = match_objects(expected.boxes, found.boxes)
        self.num_matched += len(pairs)
        self.score_differences += [abs(one.score - other.score) for one, other in pairs]
        matched = {id(one) for pair in pairs for one in pair}
        unmatched = [one for one in (*expected.boxes, *found.boxes) if id(one) not in matched]
        self.num_unmatched += sum(one.score > self._lowest for one in unmatched)

    @property
    def f1(self) -> float | None:
        """2 x matched / (2 x matched + unmatched of both answers); None where there was nothing to compare."""
        total = 2 * self.num_matched + self.num_unmatched
        return 2 * self.num_matched / total if total else None


def match_objects(
    expected: Sequence[DetectedObject], found: Sequence[DetectedObject]
) -> list[tuple[DetectedObject, DetectedObject]]:
    """Pairs of one class whose boxes, and masks where there are some, have an IoU of at least `MIN_IOU`.

    Each object of `expected`, by descending score, takes the one with the largest IoU that is left.
    """
    expected = sorted(expected, key=lambda one: -one.score)
    ious_NM = iou_matrix(_boxes(expected), _boxes(found))
    for row, column in np.argwhere(ious_NM >= MIN_IOU):
        one, other = expected[row], found[column]
        if one.label != other.label or not _same_mask(one, other):
            ious_NM[row, column] = 0
    columns = match_greedily(ious_NM, MIN_IOU)
    return [(one, found[column]) for one, column in zip(expected, columns, strict=True) if column >= 0]


def _boxes(objects: Sequence[DetectedObject]) -> npt.NDArray[np.float64]:
    """Boxes, (N, 4), as fractions of the image: their IoU is the same as in pixels."""
    return np.array([one.box_xyxy_unit for one in objects], np.float64).reshape(-1, 4)


def _same_mask(one: DetectedObject, other: DetectedObject) -> bool:
    if not one.polygon or not other.polygon:
        return True
    points = np.concatenate([*one.polygon, *other.polygon]).reshape(-1, 2)
    corner, size = points.min(axis=0), np.ptp(points, axis=0)

    def to_mask(polygons: Sequence[Sequence[float]]) -> CroppedMask:
        moved = [((np.reshape(polygon, (-1, 2)) - corner) / size).ravel() for polygon in polygons]
        return polygons_to_mask(moved, _GRID, _GRID)

    return mask_iou(to_mask(one.polygon), to_mask(other.polygon)) >= MIN_IOU
