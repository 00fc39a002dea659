"""The outline of a mask, along the edges of its pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray

from clearsight.vision.polygons import trace_outlines

__all__ = ["polygons_from_mask"]


def polygons_from_mask(mask_HW: NDArray[np.bool_]) -> tuple[list[list[float]], int]:
    """Return the outer outlines x1, y1, x2, y2, … in pixels, one per 8-connected region, and the number of holes.

    Coordinates lie on the pixels' edges: a single pixel at row 0, column 0 gives the square from 0 to 1. The pixels
    with their centre inside a polygon are the mask again, holes filled; a region inside a hole of another one has no
    polygon of its own. An empty mask has no polygons.
    """
    polygons = [outline_K2.astype(np.float64).ravel().tolist() for outline_K2 in trace_outlines(mask_HW)]
    # RETR_CCOMP has two levels: a contour with a parent surrounds a hole.
    _, tree_1L4 = cv2.findContours(mask_HW.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return polygons, 0 if tree_1L4 is None else int((tree_1L4[0, :, 3] >= 0).sum())
