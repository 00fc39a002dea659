"""The detections of a graph in one image, and the differences of two such answers.

Detections are compared as sets. Rounding decides between candidates of equal score and at thresholds, so that two right
answers may hold different boxes: those are ties, distinguished from wrong boxes by means of all that the network
proposes.

Shapes in names: N and M boxes, H and W sides of a mask.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.vision.boxes import iou_matrix

__all__ = ["BOX_TOLERANCE_PX", "Differences", "GraphAnswer", "compare_answers"]

BOX_TOLERANCE_PX: Final = 1.0
"""Largest difference of a box's side, in pixels of the network's input."""

_IOU_ROUNDING: Final = 0.01
"""Rounding may decide about two boxes whose IoU is this near to the threshold of suppression."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GraphAnswer:
    """Boxes of one image, sorted by descending score."""

    boxes_xyxy_N4: Floats
    scores_N: Floats
    class_ids_N: npt.NDArray[np.int64]
    masks_NHW: Floats | None = None
    """Probabilities, in the cells of the box or on the whole image."""

    def __len__(self) -> int:
        return len(self.boxes_xyxy_N4)


@dataclass(slots=True)
class Differences:
    """Differences of two answers: sums and largest values over images."""

    num_boxes: int = 0
    """Number of expected boxes."""
    num_ties: int = 0
    """Number of boxes in only one of the answers, because rounding decides about them."""
    num_wrong: int = 0
    """Number of boxes in only one of the answers for no such reason."""
    score: float = 0.0
    """Largest difference of a score."""
    box_px: float = 0.0
    """Largest difference of a box's side, pixels."""
    masks: float = 0.0
    """Sum over masks of the mean difference of probability, taken over the cells above 0 in either mask."""
    num_masks: int = 0
    """Number of masks compared."""

    def add(self, other: "Differences") -> None:
        self.num_boxes += other.num_boxes
        self.num_ties += other.num_ties
        self.num_wrong += other.num_wrong
        self.score = max(self.score, other.score)
        self.box_px = max(self.box_px, other.box_px)
        self.masks += other.masks
        self.num_masks += other.num_masks

    def to_document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "num_boxes": self.num_boxes,
            "num_ties": self.num_ties,
            "num_wrong": self.num_wrong,
            "max_abs_diff_scores": self.score,
            "max_abs_diff_boxes_px": self.box_px,
        }
        if self.num_masks:
            document["mean_abs_diff_masks"] = self.masks / self.num_masks
        return document


def compare_answers(
    expected: GraphAnswer, found: GraphAnswer, proposed: GraphAnswer, limits: SelectionLimits, score_tolerance: float
) -> Differences:
    """Pair the boxes of two answers within `limits`: same class, score and sides within tolerance, each box once.

    `proposed` is all that the network proposes. A box of `found` without a partner is a tie when the network proposes
    it and no box of `found` should have suppressed it; a box of `expected` without a partner is a tie when a box of
    `found` suppresses it or its score is that of the last box.
    """
    cost_NM = _cost(expected, found, score_tolerance)
    pairs = _pair(cost_NM)
    differences = Differences(num_boxes=len(expected))
    for row, column in pairs:
        differences.score = max(differences.score, float(abs(expected.scores_N[row] - found.scores_N[column])))
        gap = np.abs(expected.boxes_xyxy_N4[row] - found.boxes_xyxy_N4[column]).max()
        differences.box_px = max(differences.box_px, float(gap))
        if expected.masks_NHW is not None and found.masks_NHW is not None:
            differences.masks += _mask_difference(expected.masks_NHW[row], found.masks_NHW[column])
            differences.num_masks += 1
    lost = sorted(set(range(len(expected))) - {row for row, _ in pairs})
    added = sorted(set(range(len(found))) - {column for _, column in pairs})
    ties = _lost_in_ties(expected, found, lost, limits, score_tolerance)
    ties += _added_in_ties(found, proposed, added, limits, score_tolerance)
    excess = max(len(found) - limits.max_detections, 0)
    differences.num_ties = ties
    differences.num_wrong = len(lost) + len(added) - ties + excess
    return differences


def _cost(first: GraphAnswer, second: GraphAnswer, score_tolerance: float) -> npt.NDArray[np.float64]:
    """Distance of each pair, (N, M): at most 1 within both tolerances, infinite for different classes."""
    scores_NM = np.abs(first.scores_N[:, None].astype(np.float64) - second.scores_N[None]) / score_tolerance
    boxes_NM = np.zeros_like(scores_NM)
    for side in range(4):
        gaps_NM = np.abs(first.boxes_xyxy_N4[:, None, side].astype(np.float64) - second.boxes_xyxy_N4[None, :, side])
        np.maximum(boxes_NM, gaps_NM / BOX_TOLERANCE_PX, out=boxes_NM)
    cost_NM = np.maximum(scores_NM, boxes_NM)
    cost_NM[first.class_ids_N[:, None] != second.class_ids_N[None]] = np.inf
    return np.nan_to_num(cost_NM, nan=np.inf, posinf=np.inf)


def _pair(cost_NM: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of a cost of at most 1, the nearest first, each row and column once.

    Not `vision.matching.match_greedily`, which goes row by row: both answers count alike here, and a row's nearest
    column may be nearer to a later row.
    """
    rows, columns = np.nonzero(cost_NM <= 1)
    order = np.argsort(cost_NM[rows, columns], kind="stable")
    pairs, used_rows, used_columns = [], set(), set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    return pairs


def _lost_in_ties(
    expected: GraphAnswer, found: GraphAnswer, lost: list[int], limits: SelectionLimits, score_tolerance: float
) -> int:
    if not lost or not len(found):
        lowest = limits.score_threshold + score_tolerance
        return int((expected.scores_N[lost] <= lowest).sum())
    is_full = len(found) >= limits.max_detections
    lowest = max(limits.score_threshold, float(found.scores_N.min()) if is_full else 0.0) + score_tolerance
    overlaps_LM = iou_matrix(expected.boxes_xyxy_N4[lost], found.boxes_xyxy_N4)
    overlaps_LM[expected.class_ids_N[lost][:, None] != found.class_ids_N[None]] = 0
    overlaps_LM[found.scores_N[None] < expected.scores_N[lost][:, None] - score_tolerance] = 0
    is_suppressed_L = overlaps_LM.max(axis=1) > limits.nms_iou_threshold - _IOU_ROUNDING
    return int((is_suppressed_L | (expected.scores_N[lost] <= lowest)).sum())


def _added_in_ties(
    found: GraphAnswer, proposed: GraphAnswer, added: list[int], limits: SelectionLimits, score_tolerance: float
) -> int:
    if not added:
        return 0
    alone = GraphAnswer(found.boxes_xyxy_N4[added], found.scores_N[added], found.class_ids_N[added])
    is_proposed_A = (_cost(alone, proposed, score_tolerance) <= 1).any(axis=1)
    overlaps_AM = iou_matrix(alone.boxes_xyxy_N4, found.boxes_xyxy_N4)
    overlaps_AM[alone.class_ids_N[:, None] != found.class_ids_N[None]] = 0
    overlaps_AM[np.arange(len(added)), added] = 0
    is_clear_A = overlaps_AM.max(axis=1) <= limits.nms_iou_threshold + _IOU_ROUNDING
    return int((is_proposed_A & is_clear_A).sum())


def _mask_difference(first_HW: Floats, second_HW: Floats) -> float:
    if first_HW.shape != second_HW.shape:
        return 1.0
    is_any_HW = (first_HW > 0) | (second_HW > 0)
    if not is_any_HW.any():
        return 0.0
    difference = float(np.abs(first_HW[is_any_HW].astype(np.float64) - second_HW[is_any_HW]).mean())
    return difference if np.isfinite(difference) else 1.0
