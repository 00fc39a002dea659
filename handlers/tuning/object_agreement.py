"""How far two answers about the same images agree, for boxes and masks: the decision of a precision gate.

Shapes in names: N objects of one answer, M of the other, 4 sides of a box.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.vision.boxes import iou_matrix
from clearsight.vision.masks import mask_iou
from clearsight.vision.polygons import polygons_to_mask
from clearsight.wire.answers import DetectedObject, DetectionAnswer

__all__ = ["MIN_IOU", "Agreement", "match_objects"]

MIN_IOU: Final = 0.9
"""Of two boxes, and of two masks, that show one object."""

_GRID: Final = 128  # cells along each side of the rectangle around two masks in which they are compared


class Agreement:
    """Counts over images: objects that both have, that only one of them has, and how far scores differ."""

    def __init__(self, score_threshold: float, margin: float) -> None:
        """Objects of only one answer are forgiven up to `margin` above the score threshold: a rounding decides them."""
        self._lowest = score_threshold + margin
        self.num_matched = self.num_unmatched = 0
        self.score_differences: list[float] = []

    def add(self, expected: DetectionAnswer, found: DetectionAnswer) -> None:
        pairs = match_objects(expected.boxes, found.boxes)
        self.num_matched += len(pairs)
        self.score_differences += [abs(one.score - other.score) for one, other in pairs]
        matched = {id(thing) for pair in pairs for thing in pair}
        lonely = [thing for thing in (*expected.boxes, *found.boxes) if id(thing) not in matched]
        self.num_unmatched += sum(thing.score > self._lowest for thing in lonely)

    @property
    def f1(self) -> float | None:
        """2 x matched / (2 x matched + unmatched of both answers); None where there was nothing to compare."""
        total = 2 * self.num_matched + self.num_unmatched
        return 2 * self.num_matched / total if total else None


def match_objects(
    expected: Sequence[DetectedObject], found: Sequence[DetectedObject]
) -> list[tuple[DetectedObject, DetectedObject]]:
    """Pairs of one class whose boxes, and masks where there are some, have an IoU of at least `MIN_IOU`.

    Each object of `expected`, by descending score, takes the best one that is left.
    """
    ious_NM = iou_matrix(_boxes(expected), _boxes(found))
    pairs, free = [], set(range(len(found)))
    for row in sorted(range(len(expected)), key=lambda index: -expected[index].score):
        one = expected[row]
        for column in sorted(free, key=lambda index: -ious_NM[row, index]):
            if ious_NM[row, column] < MIN_IOU:
                break
            if found[column].label == one.label and _same_mask(one, found[column]):
                pairs.append((one, found[column]))
                free.remove(column)
                break
    return pairs


def _boxes(objects: Sequence[DetectedObject]) -> npt.NDArray[np.float64]:
    """(N, 4), fractions of the image: IoU is the same as in pixels."""
    return np.array([one.box_xyxy_unit for one in objects], np.float64).reshape(-1, 4)


def _same_mask(one: DetectedObject, other: DetectedObject) -> bool:
    if not one.polygon or not other.polygon:
        return True
    points = np.array([number for part in (*one.polygon, *other.polygon) for number in part]).reshape(-1, 2)
    corner, size = points.min(axis=0), np.ptp(points, axis=0)
    masks = (
        polygons_to_mask([((np.reshape(part, (-1, 2)) - corner) / size).ravel() for part in parts], _GRID, _GRID)
        for parts in (one.polygon, other.polygon)
    )
    return mask_iou(*masks) >= MIN_IOU
