"""Turns the candidates of a detector into Azure's answer: thresholds, suppression, coordinates of the image.

No graph holds a threshold: an edited `settings.json` works on every backend, for lower thresholds too. Detections
depend on the candidates and not on their order: among equal scores the class, then the corners of the boxes decide.

Shapes in names: N candidates or detections, 4 sides of a box (left, top, right, bottom), M side of a raw mask.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clearsight.documents.settings import DetectorSettings
from clearsight.errors import ClearsightError
from clearsight.vision.boxes import has_area, shift_boxes, to_unit_boxes
from clearsight.vision.candidates import Candidates
from clearsight.vision.letterbox import Placement
from clearsight.vision.nms import batched_nms
from clearsight.wire.answers import DetectedObject, DetectionAnswer
from clearsight.wire.encoding import shortest

__all__ = ["Detections", "find_objects", "to_detection_answer", "to_objects"]

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of an image or a tile, sorted by descending score."""

    boxes_xyxy_N4: npt.NDArray[np.floating]
    """In pixels of the image, inside it, with an area. float64: only the answer is rounded."""
    scores_N: Floats
    class_ids_N: Indices
    mask_probs_NMM: Floats | None
    views_N: Indices | None = None
    """View of the image in which each was detected; None if there is only one view."""

    def __len__(self) -> int:
        return len(self.boxes_xyxy_N4)

    def shifted(self, left: float, top: float) -> "Detections":
        """The same detections in pixels of the image from which their tile was cut at (`left`, `top`)."""
        boxes_xyxy_N4 = shift_boxes(self.boxes_xyxy_N4, left, top)
        return Detections(boxes_xyxy_N4, self.scores_N, self.class_ids_N, self.mask_probs_NMM)

    def take(self, indices: Indices) -> "Detections":
        """The detections at the indices, in the order of the indices."""
        masks = self.mask_probs_NMM
        return Detections(
            self.boxes_xyxy_N4[indices],
            self.scores_N[indices],
            self.class_ids_N[indices],
            None if masks is None else masks[indices],
            None if self.views_N is None else self.views_N[indices],
        )


def find_objects(candidates: Candidates, placement: Placement, settings: DetectorSettings) -> Detections:
    """Apply the score threshold, suppression per class and the limit of boxes; convert to pixels of the image.

    Suppression compares boxes as the network gives them. Boxes without an area inside the image are dropped
    before, so that they neither suppress others nor count. Raises `ClearsightError` when a number is not finite.
    """
    if not (np.isfinite(candidates.boxes_xyxy_N4).all() and np.isfinite(candidates.scores_N).all()):
        raise ClearsightError("the model gave boxes or scores that are not finite numbers")
    chosen_N = np.flatnonzero(candidates.scores_N > settings.box_score_thresh)
    chosen_N = chosen_N[has_area(placement.to_image(candidates.boxes_xyxy_N4[chosen_N]))]
    sides_4N = candidates.boxes_xyxy_N4[chosen_N].T
    chosen_N = chosen_N[np.lexsort((*sides_4N, candidates.class_ids_N[chosen_N]))]
    boxes_xyxy_N4, scores_N = candidates.boxes_xyxy_N4[chosen_N], candidates.scores_N[chosen_N]
    class_ids_N = candidates.class_ids_N[chosen_N]
    kept = batched_nms(boxes_xyxy_N4, scores_N, class_ids_N, settings.nms_iou_thresh, settings.max_detections)
    masks = candidates.mask_probs_NMM
    return Detections(
        placement.to_image(boxes_xyxy_N4[kept].astype(np.float64)),
        scores_N[kept],
        class_ids_N[kept],
        None if masks is None else masks[chosen_N[kept]],
    )


def to_detection_answer(detections: Detections, height: int, width: int, labels: tuple[str, ...]) -> DetectionAnswer:
    """Azure's answer about an image of `height` x `width`; numbers are rounded to float32."""
    return DetectionAnswer(tuple(found for found in to_objects(detections, height, width, labels) if found is not None))


def to_objects(detections: Detections, height: int, width: int, labels: tuple[str, ...]) -> list[DetectedObject | None]:
    """One per detection, without masks; None for a box so thin that its sides are equal once rounded."""
    ids_N = detections.class_ids_N
    if len(ids_N) and not 0 <= ids_N.min() <= ids_N.max() < len(labels):
        raise ClearsightError(f"the model gave class ids up to {ids_N.max()}, but the package has {len(labels)} labels")
    boxes_xyxy_unit_N4 = to_unit_boxes(detections.boxes_xyxy_N4, height, width).astype(np.float32)
    rows = zip(
        has_area(boxes_xyxy_unit_N4).tolist(),
        shortest(boxes_xyxy_unit_N4),
        shortest(detections.scores_N),
        ids_N.tolist(),
        [0] * len(detections) if detections.views_N is None else detections.views_N.tolist(),
        strict=True,
    )
    return [
        DetectedObject(tuple(corners), labels[class_id], score, view=view) if is_box else None
        for is_box, corners, score, class_id, view in rows
    ]
