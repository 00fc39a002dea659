"""Which objects of an answer are explained, and which candidate of the eager copy corresponds to each.

Shapes in names: C candidates, 4 sides of a box (left, top, right, bottom).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.catalogue.algorithms import ALGORITHMS
from clearsight.errors import BadRequest
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.vision.boxes import iou_matrix
from clearsight.wire.answers import DetectedObject

__all__ = ["SAME_BOX_IOU", "DetectionSelection", "Match", "by_view", "choose_detections", "find_match"]

SAME_BOX_IOU: Final = 0.5
"""Least IoU of a box and its candidate. Backends that agree with the eager copy reach 0.99 and more."""

_DEFAULT_COUNT: Final = 3


@dataclass(frozen=True, slots=True)
class DetectionSelection:
    """The explained objects, in the order of the answer."""

    indices: tuple[int, ...]
    num_left_out: int = 0
    """Number of requested objects beyond the limit, which are not explained."""


@dataclass(frozen=True, slots=True)
class Match:
    """A candidate, and its IoU with the box that it corresponds to."""

    index: int
    iou: float


def choose_detections(
    scores: Sequence[float],
    parameters: XaiParameters,
    max_detections: int,
    has_masks: bool,
    may_leave_out: bool = True,
) -> DetectionSelection:
    """Choose the objects that `detections` names; without it those with the three highest scores.

    Of `all`, the `max_detections` highest scores are taken; with `may_leave_out` False more objects are an error.
    Raises `BadRequest` for an index that the answer does not have, and for a target that the algorithm or the model
    does not have.
    """
    targets = ALGORITHMS[parameters.algorithm].targets
    if targets and parameters.target not in targets:
        other = next(row.name for row in ALGORITHMS.values() if parameters.target in row.targets)
        raise BadRequest(
            f"'target' must be {', '.join(targets)} for {parameters.algorithm}, but got {parameters.target!r}; "
            f"{other!r} explains others"
        )
    if parameters.target == "mask" and not has_masks:
        raise BadRequest("'target' must be one of score, box for a model without masks, but got 'mask'")
    count, wanted = len(scores), parameters.detections
    best_first = sorted(range(count), key=lambda index: -scores[index])
    if wanted is None:
        return DetectionSelection(tuple(sorted(best_first[:_DEFAULT_COUNT])))
    if wanted == "all":
        num_left_out = max(0, count - max_detections)
        if num_left_out and not may_leave_out:
            raise BadRequest(
                f"at most {max_detections} boxes of a picture are explained, but this one has {count}; name some of "
                "them as 'detections', as a list of indices"
            )
        return DetectionSelection(tuple(sorted(best_first[:max_detections])), num_left_out)
    unknown = next((index for index in wanted if index >= count), None)
    if unknown is not None:
        allowed = f"indices of the {count} boxes found in this picture, 0 to {count - 1}" if count else "[] or 'all'"
        because = "" if count else ", since nothing was found in this picture"
        raise BadRequest(f"'detections' must be {allowed}, but got {unknown}{because}")
    return DetectionSelection(wanted)


def by_view(objects: Sequence[DetectedObject], chosen: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Views and the chosen objects that were detected in each, sorted by descending score, views by their best object.

    Each view is computed once, and the objects with the highest scores are explained before the time ends.
    """
    views: dict[int, list[int]] = {}
    for index in sorted(chosen, key=lambda index: -objects[index].score):
        views.setdefault(objects[index].view, []).append(index)
    return [(view, tuple(indices)) for view, indices in views.items()]


def find_match(
    box_xyxy_4: npt.NDArray[np.floating],
    score: float,
    boxes_xyxy_C4: npt.NDArray[np.floating],
    scores_C: npt.NDArray[np.floating],
) -> Match | None:
    """The candidate with the largest IoU minus difference of scores; None without candidates.

    Unlike in `vision.matching.match_greedily`, two boxes may have the same candidate, and among many candidates around
    one object the score distinguishes them. All boxes are enlarged by half a pixel on each side before the comparison,
    since the IoU of very thin boxes would depend on rounding alone.
    """
    if not len(boxes_xyxy_C4):
        return None
    margin_4 = np.array([-0.5, -0.5, 0.5, 0.5])
    ious_C = iou_matrix((box_xyxy_4 + margin_4)[None], boxes_xyxy_C4 + margin_4)[0]
    best = int(np.argmax(ious_C - np.abs(scores_C - score)))
    return Match(best, float(ious_C[best]))
