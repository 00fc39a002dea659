"""The objects of one image, predicted and true, as the metrics read them.

Boxes are left, top, right, bottom in pixels of the image; of which image (upright, resized) is the caller's
choice, the same for both. Masks are COCO's compressed run lengths (`clearsight.vision.rle.encode_rle`), so that those
of a whole validation set fit in memory; without masks, in detection, they are None.

Shapes in names: N objects, 4 sides of a box.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GroundTruth", "Predictions", "Rle"]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.intp]

Rle = Mapping[str, Any]
"""`{"size": [height, width], "counts": text}`."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The detections of a network in one image, in any order, after suppression and the limit per image."""

    boxes_xyxy_N4: Floats
    class_ids_N: Ints
    scores_N: Floats
    masks_N: tuple[Rle, ...] | None = None

    def above(self, score: float) -> "Predictions":
        """The predictions with a score strictly greater than `score`; NaN is not."""
        return self._take(np.flatnonzero(self.scores_N > score))

    def of_class(self, class_id: int) -> "Predictions":
        """The predictions of one class, by descending score; of equal scores the earlier first."""
        own = np.flatnonzero(self.class_ids_N == class_id)
        return self._take(own[np.argsort(-self.scores_N[own], kind="stable")])

    def _take(self, kept: Positions) -> "Predictions":
        masks = _masks_at(self.masks_N, kept)
        return Predictions(self.boxes_xyxy_N4[kept], self.class_ids_N[kept], self.scores_N[kept], masks)


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The objects that one image really shows."""

    boxes_xyxy_N4: Floats
    class_ids_N: Ints
    is_crowd_N: Bools
    """Whether a region holds several objects that were not labelled one by one; predictions in it are ignored."""
    masks_N: tuple[Rle, ...] | None = None

    def of_class(self, class_id: int) -> "GroundTruth":
        """The objects of one class, in their order."""
        kept = np.flatnonzero(self.class_ids_N == class_id)
        masks = _masks_at(self.masks_N, kept)
        return GroundTruth(self.boxes_xyxy_N4[kept], self.class_ids_N[kept], self.is_crowd_N[kept], masks)


def _masks_at(masks: tuple[Rle, ...] | None, kept: Positions) -> tuple[Rle, ...] | None:
    return None if masks is None else tuple(masks[position] for position in kept)
