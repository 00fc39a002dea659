"""The candidates of a detector for one image, before the user's thresholds and non-maximum suppression.

Shapes in names: N candidates, 4 sides of a box (left, top, right, bottom), M side of a raw mask.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Candidates"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every box that a detector proposes for one image or one tile of it, in any order."""

    boxes_xyxy_N4: npt.NDArray[np.float32]
    """Boxes in pixels of the network's input; without masks they may extend beyond it."""
    scores_N: npt.NDArray[np.float32]
    """Scores in [0, 1]."""
    class_ids_N: npt.NDArray[np.int64]
    """Class ids from 0; there is no background class."""
    mask_probs_NMM: npt.NDArray[np.float32] | None = None
    """Probability of the object in each cell of its box, in [0, 1] (Mask R-CNN: M = 28); None without masks."""

    def __post_init__(self) -> None:
        count, masks = len(self.boxes_xyxy_N4), self.mask_probs_NMM
        expected = (count, 4), (count,), (count,), None if masks is None else (count, masks.shape[-1], masks.shape[-1])
        came = (
            self.boxes_xyxy_N4.shape,
            self.scores_N.shape,
            self.class_ids_N.shape,
            None if masks is None else masks.shape,
        )
        if came != expected:
            raise ValueError(f"boxes, scores, class ids and masks must have the shapes {expected}, but have {came}")

    def __len__(self) -> int:
        return len(self.boxes_xyxy_N4)
