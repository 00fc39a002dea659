"""Turns detections with raw masks into Azure's answer: polygons.

Only one mask is pasted at a time, into its own rectangle of the image: memory does not grow with their number.
"""

from dataclasses import replace

import numpy as np

from clearsight.documents.settings import SegmentationSettings
from clearsight.errors import ClearsightError
from clearsight.handlers.scoring.detection import Detections, to_objects
from clearsight.vision.masks import CroppedMask, paste_mask
from clearsight.vision.polygons import mask_to_polygons
from clearsight.vision.rle import encode_rle
from clearsight.wire.answers import DetectedObject, DetectionAnswer
from clearsight.wire.encoding import shortest

__all__ = ["image_mask", "to_segmentation_answer"]


def image_mask(detections: Detections, index: int, height: int, width: int, threshold: float) -> CroppedMask:
    """One detection's mask: the pixels whose probability is greater than `threshold`.

    The same pixels as with torchvision's pasting, of which one or two may lie outside the box, more at low thresholds.
    Raises `ClearsightError` when there are no masks.
    """
    if detections.mask_probs_NMM is None:
        raise ClearsightError("the model gave no masks, but its package is one of instance segmentation")
    box_xyxy_4 = detections.boxes_xyxy_N4[index].astype(np.float32)
    return paste_mask(detections.mask_probs_NMM[index], box_xyxy_4, height, width, threshold)


def to_segmentation_answer(
    detections: Detections, height: int, width: int, labels: tuple[str, ...], settings: SegmentationSettings
) -> DetectionAnswer:
    """Azure's answer about an image of `height` x `width`. Boxes are the detector's own, not those of the masks.

    A detection without a pixel above the threshold is left out.
    """
    objects = []
    for index, found in enumerate(to_objects(detections, height, width, labels)):
        if found is None:
            continue
        mask = image_mask(detections, index, height, width, settings.mask_pixel_score_threshold)
        outlined = _outlined(found, mask, height, width, settings)
        if outlined is not None:
            objects.append(outlined)
    return DetectionAnswer(tuple(objects))


def _outlined(
    found: DetectedObject, mask: CroppedMask, height: int, width: int, settings: SegmentationSettings
) -> DetectedObject | None:
    parts = mask_to_polygons(mask, height, width, settings.max_number_of_polygon_points)
    if not parts:
        return None
    polygon = tuple(tuple(shortest(np.asarray(part, np.float32))) for part in parts)
    return replace(found, polygon=polygon, rle=encode_rle(mask, height, width) if settings.mask_rle else None)
