"""Boxes as arrays: overlap, clipping, units.

`boxes_xyxy` holds left, top, right, bottom in pixels of the upright image, `boxes_xyxy_unit` the same as fractions
of its width and height, as in Azure's answers (`topX`, `topY`, `bottomX`, `bottomY`). Pixel k reaches from k to
k + 1, so a box around the pixels a to b runs from a to b + 1. No function here changes its arguments.

Shapes in names: N and M boxes, 4 their sides.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["box_areas", "clip_boxes", "has_area", "iou_matrix", "shift_boxes", "to_pixel_boxes", "to_unit_boxes"]

Floats = npt.NDArray[np.floating]
Booleans = npt.NDArray[np.bool_]


def box_areas(boxes_xyxy_N4: Floats) -> Floats:
    """(N,) in square pixels; 0 for a box whose right is left of its left or whose bottom is above its top."""
    sides_N2 = np.maximum(boxes_xyxy_N4[:, 2:] - boxes_xyxy_N4[:, :2], 0)
    areas_N: Floats = sides_N2[:, 0] * sides_N2[:, 1]
    return areas_N


def iou_matrix(boxes_xyxy_N4: Floats, others_xyxy_M4: Floats) -> Floats:
    """(N, M): the area that two boxes share over the area that they cover together, in [0, 1].

    In the arguments' precision. 0 for two boxes without an area; NaN where a coordinate is NaN.
    """
    left_N1, top_N1, right_N1, bottom_N1 = (side[:, None] for side in boxes_xyxy_N4.T)
    left_M, top_M, right_M, bottom_M = others_xyxy_M4.T
    shared_NM: Floats = np.minimum(right_N1, right_M)
    shared_NM -= np.maximum(left_N1, left_M)
    np.maximum(shared_NM, 0, out=shared_NM)
    shared_heights_NM = np.minimum(bottom_N1, bottom_M)
    shared_heights_NM -= np.maximum(top_N1, top_M)
    np.maximum(shared_heights_NM, 0, out=shared_heights_NM)
    shared_NM *= shared_heights_NM
    covered_NM = np.add(box_areas(boxes_xyxy_N4)[:, None], box_areas(others_xyxy_M4), out=shared_heights_NM)
    covered_NM -= shared_NM
    covered_NM[covered_NM == 0] = 1
    shared_NM /= covered_NM
    return shared_NM


def clip_boxes(boxes_xyxy_N4: Floats, height: int, width: int) -> Floats:
    """Clip boxes to an image of this size; a box outside becomes one without area on the border."""
    limits = np.array([width, height, width, height], boxes_xyxy_N4.dtype)
    return np.clip(boxes_xyxy_N4, 0, limits)


def has_area(boxes_xyxy_N4: Floats) -> Booleans:
    """(N,): left < right and top < bottom. False where a coordinate is NaN."""
    left, top, right, bottom = boxes_xyxy_N4.T
    is_right_way_round: Booleans = (left < right) & (top < bottom)
    return is_right_way_round


def shift_boxes(boxes_xyxy_N4: Floats, left: float, top: float) -> Floats:
    """Move boxes right and down by pixels: from a part of an image to the image that it was cut from."""
    return boxes_xyxy_N4 + np.array([left, top, left, top], boxes_xyxy_N4.dtype)


def to_unit_boxes(boxes_xyxy_N4: Floats, height: int, width: int) -> Floats:
    """`topX`, `topY`, `bottomX`, `bottomY` of Azure's answers, float64: fractions of the image, clipped to [0, 1]."""
    return np.clip(boxes_xyxy_N4 / np.array([width, height, width, height], np.float64), 0, 1)


def to_pixel_boxes(boxes_xyxy_unit_N4: Floats, height: int, width: int) -> Floats:
    """The inverse of `to_unit_boxes` inside the image, float64."""
    scaled: Floats = boxes_xyxy_unit_N4 * np.array([width, height, width, height], np.float64)
    return scaled
