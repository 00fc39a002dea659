"""The region of an object, a box or a mask, and the overlap of two regions.

VOC and COCO metrics both use these overlaps, which are defined as in COCO.

Shapes in names: N predictions, M true objects.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval import mask as coco_masks  # type: ignore[import-untyped]

from clearsight.training.detection.metrics.objects import GroundTruth, Predictions, Rle

__all__ = ["Regions", "Shape", "areas_of", "overlap_matrix", "regions_of"]

Floats = npt.NDArray[np.float64]

Shape = Literal["box", "mask"]

Regions = Floats | Sequence[Rle]
"""Boxes in COCO's form, rows of left, top, width and height; or masks."""


def regions_of(objects: Predictions | GroundTruth, shape: Shape) -> Regions:
    """One region for each object. Raises `ValueError` when masks are asked for and there are none."""
    if shape == "box":
        corners = objects.boxes_xyxy_N4.astype(np.float64)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    if objects.masks_N is None:
        raise ValueError("metrics of masks need the masks of every picture, but a picture has None")
    return list(objects.masks_N)


def areas_of(regions: Regions) -> Floats:
    """Area of each region, in square pixels."""
    if isinstance(regions, np.ndarray):
        return np.asarray(regions[:, 2] * regions[:, 3])
    return np.asarray(coco_masks.area(regions) if regions else [], np.float64)


def overlap_matrix(detections: Predictions, truth: GroundTruth, shape: Shape) -> Floats:
    """(N, M), in [0, 1]: intersection over union with an object, and with a crowd the share of the prediction in it.

    A crowd is larger than any of its members, so that intersection over union would never find one there
    (pycocotools, `mask.iou`).
    """
    predicted, true = regions_of(detections, shape), regions_of(truth, shape)
    if not len(predicted) or not len(true):
        return np.zeros((len(predicted), len(true)))
    return np.asarray(coco_masks.iou(predicted, true, truth.is_crowd_N.astype(int).tolist()), np.float64)
