"""Outlines of masks, and masks of outlines.

Outlines run along the edges of pixels: the rectangle of the pixels a to b has its corners at a and b + 1, so that a
filled outline has the mask's area. Azure's answers and label files hold polygons as x0, y0, x1, y1, … in fractions of
the image, one polygon per region of an instance; a polygon cannot express a hole.

Shapes in names: K points of a polygon, L steps of a contour, 2 their x and y, H height, W width.
"""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.vision.masks import CroppedMask

__all__ = ["mask_to_polygons", "polygons_to_mask", "trace_outlines"]

Points = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_FIRST_TOLERANCE_PX: Final = 0.5
_TOLERANCE_GROWTH: Final = 1.3


def mask_to_polygons(mask: CroppedMask, height: int, width: int, max_points: int = 100) -> list[list[float]]:
    """Azure's `polygon` of a mask in a `height` x `width` image: fractions in [0, 1], the largest region first.

    One polygon per 8-connected region, holes filled; no polygons for an empty mask. A region keeps every corner when it
    has at most `max_points` (3 or more) of them; else Douglas-Peucker with a growing tolerance reduces it to that.
    """
    if max_points < 3:
        raise ValueError(f"max_points must be at least 3, but got {max_points}")
    outlines = trace_outlines(mask.bitmap_HW)
    outlines.sort(key=cv2.contourArea, reverse=True)
    size_wh = np.array([width, height], np.float64)
    corner = np.array([mask.left, mask.top], np.float64)
    return [((_simplify(outline_K2, max_points) + corner) / size_wh).ravel().tolist() for outline_K2 in outlines]


def trace_outlines(bitmap_HW: npt.NDArray[np.bool_]) -> list[Points]:
    """The outline (K, 2) along the edges of the pixels of each 8-connected region that lies in no hole of another.

    The pixels whose centre is inside (even-odd) are the region, its holes filled.
    """
    contours, _ = cv2.findContours(bitmap_HW.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [_along_edges(np.asarray(contour_L12[:, 0], np.int32)) for contour_L12 in contours]


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> CroppedMask:
    """The pixels of a `height` x `width` image whose centre lies in any of the polygons (fractions of the image).

    Inside a single polygon that crosses itself, even-odd decides. A centre on a left or an upper edge is inside, on a
    right or a lower one outside. Parts outside the image are cut off; no polygons give an empty mask.
    """
    size_wh = np.array([width, height], np.float64)
    outlines = [np.asarray(polygon, np.float64).reshape(-1, 2) * size_wh for polygon in polygons if len(polygon)]
    if not outlines:
        return CroppedMask(0, 0, np.zeros((0, 0), np.bool_))
    points = np.concatenate(outlines)
    left, top = np.clip(np.floor(points.min(axis=0)), 0, size_wh).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, size_wh).astype(int).tolist()
    bitmap_HW = np.zeros((bottom - top, right - left), np.bool_)
    for polygon_K2 in outlines:
        bitmap_HW |= _fill(polygon_K2 - (left, top), *bitmap_HW.shape)
    return CroppedMask(left, top, bitmap_HW)


# Directions are numbered counter-clockwise on the screen in steps of 45 degrees, from 0 = right.
_DIRECTION_OF_STEP: Final = np.array([3, 2, 1, 4, -1, 0, 5, 6, 7])
"""[3 * dy + dx + 4] of a step from a pixel to its neighbour."""
_CORNER_OF_DIRECTION: Final = {1: (1, 0), 3: (0, 0), 5: (0, 1), 7: (1, 1)}
"""x, y of a pixel's corner in each odd direction."""


def _passed_corners() -> tuple[Points, npt.NDArray[np.bool_]]:
    """By 8 * incoming + outgoing direction: 4 corners, (64 * 4, 2), and which of them are passed, (64, 4).

    A contour keeps the region on its left, so that the edge goes counter-clockwise around each pixel's outside: from
    behind (the incoming direction turned by 180 degrees) to the outgoing direction. A corner that two pixels share
    counts for the first of them; those in the middle of a straight run are left out.
    """
    corners, counts = np.zeros((64, 4, 2), np.int32), np.zeros((64, 4), np.bool_)
    for incoming in range(8):
        for outgoing in range(8):
            if incoming == outgoing and incoming % 2 == 0:
                continue
            start = incoming + (6 if incoming % 2 else 7)
            stop = incoming + 4 + ((outgoing - incoming - 4) % 8 or 8)  # a step straight back passes all corners
            for number, direction in enumerate(range(start, stop + 1, 2)):
                corners[8 * incoming + outgoing, number] = _CORNER_OF_DIRECTION[direction % 8]
                counts[8 * incoming + outgoing, number] = True
    return corners.reshape(256, 2), counts


_CORNERS_OF_TURN, _COUNTS = _passed_corners()


def _along_edges(contour_L2: Points) -> Points:
    """Corners (K, 2) of the edge around the pixels of an OpenCV contour, which runs counter-clockwise on the screen."""
    if len(contour_L2) == 1:
        return contour_L2 + np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.int32)
    places_L = contour_L2[:, 0] + 3 * contour_L2[:, 1]
    outgoing_L = _DIRECTION_OF_STEP.take(_next(places_L) - places_L + 4)
    turns_L = 8 * np.concatenate([outgoing_L[-1:], outgoing_L[:-1]]) + outgoing_L
    # `take` along an axis is several times as fast as an index on these small arrays.
    passed_K = np.flatnonzero(_COUNTS.take(turns_L, axis=0))
    pixels_K, numbers_K = passed_K >> 2, passed_K & 3
    corners_K2 = _CORNERS_OF_TURN.take(4 * turns_L.take(pixels_K) + numbers_K, axis=0)
    points_K2 = contour_L2.take(pixels_K, axis=0) + corners_K2
    # Edges run up and down or left and right: where two in a row run the same way, there is no corner.
    is_vertical_K = points_K2[:, 0] == _next(points_K2[:, 0])
    corners = np.flatnonzero(is_vertical_K != _next(is_vertical_K))
    return _next(points_K2).take(corners, axis=0)


def _next(array_K: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows shifted by one: the first row comes last."""
    return np.concatenate([array_K[1:], array_K[:1]])


def _simplify(outline_K2: Points, max_points: int) -> Points:
    """Choose at most `max_points` of the corners, at least 3, that enclose an area."""
    simple_K2, tolerance = outline_K2, _FIRST_TOLERANCE_PX
    while len(simple_K2) > max_points:
        simple_K2 = np.asarray(cv2.approxPolyDP(outline_K2, tolerance, closed=True), np.int32)[:, 0]
        tolerance *= _TOLERANCE_GROWTH
    if len(simple_K2) >= 3 and cv2.contourArea(simple_K2) > 0:
        return simple_K2
    return _inside_hull(outline_K2, max_points)


def _inside_hull(outline_K2: Points, max_points: int) -> Points:
    """Corners of the convex hull without those of the smallest triangles; they always enclose an area."""
    hull_K2 = np.asarray(cv2.convexHull(outline_K2), np.int32)[:, 0]
    while len(hull_K2) > max_points:
        to_next = np.roll(hull_K2, -1, axis=0) - hull_K2
        from_last = np.roll(to_next, 1, axis=0)
        triangles = np.abs(from_last[:, 0] * to_next[:, 1] - from_last[:, 1] * to_next[:, 0])
        hull_K2 = np.delete(hull_K2, int(triangles.argmin()), axis=0)
    return hull_K2


def _fill(polygon_K2: Floats, height: int, width: int) -> npt.NDArray[np.bool_]:
    """(height, width): the pixels whose centre is inside a polygon in pixels.

    Every edge toggles, in each row whose middle it crosses, all pixels from the crossing on.
    """
    ends_K2 = np.roll(polygon_K2, -1, axis=0)
    lower, upper = np.minimum(polygon_K2[:, 1], ends_K2[:, 1]), np.maximum(polygon_K2[:, 1], ends_K2[:, 1])
    first_rows = np.clip(np.ceil(lower - 0.5), 0, height).astype(np.int64)
    num_rows = np.clip(np.ceil(upper - 0.5), 0, height).astype(np.int64) - first_rows
    edges = np.repeat(np.arange(len(polygon_K2)), num_rows)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(num_rows) - num_rows, num_rows) + first_rows[edges]
    x, y = polygon_K2[edges].T
    run, rise = (ends_K2 - polygon_K2)[edges].T
    crossings = x + (rows + 0.5 - y) * run / rise
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    cells, times = np.unique(rows * (width + 1) + columns, return_counts=True)
    toggles = np.zeros((height, width + 1), np.bool_)
    toggles.ravel()[cells[times % 2 == 1]] = True
    filled: npt.NDArray[np.bool_] = np.logical_xor.accumulate(toggles, axis=1)[:, :width]
    return filled
