"""Outlines of the visible part of an object: a coverage image turned into a box and polygons."""

from typing import Final

import cv2
import numpy as np

from clearsight.demo.palette import Floats

__all__ = ["box_from_polygons", "polygons_from_coverage"]

ENLARGEMENT: Final = 4
"""The outline is traced on a grid this many times finer than the pixels."""

MAX_OUTLINE_ERROR_PX: Final = 0.35
"""Largest distance from the true outline that leaving out points may cause, in pixels."""

MIN_AREA_PX: Final = 12.0
"""Smaller parts are specks between other items, not parts of an object."""


def polygons_from_coverage(
    coverage_HW: Floats, corner_xy: tuple[int, int] = (0, 0), image_wh: tuple[int, int] | None = None
) -> list[list[float]]:
    """Outer outlines of the region covered at least by half, as x1, y1, x2, y2, … in [0, 1], largest first.

    Filled as a union they give the region back, to a fraction of a pixel. Holes are filled. Empty when nothing is
    covered. `coverage_HW` is the whole image, or the part of a larger one (`image_wh`) at `corner_xy`.
    """
    width, height = image_wh or coverage_HW.shape[::-1]
    rows, columns = np.nonzero(coverage_HW > 0.2)
    if not len(rows):
        return []
    top, left = max(int(rows.min()) - 2, 0), max(int(columns.min()) - 2, 0)
    crop = np.pad(coverage_HW[top : rows.max() + 3, left : columns.max() + 3], 1, mode="edge")
    fine = cv2.resize(crop, None, fx=ENLARGEMENT, fy=ENLARGEMENT, interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((fine >= 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        if cv2.contourArea(contour) < MIN_AREA_PX * ENLARGEMENT**2:
            break
        outline = cv2.approxPolyDP(contour, MAX_OUTLINE_ERROR_PX * ENLARGEMENT, closed=True)[:, 0].astype(np.float64)
        # Contours run through the centres of the fine pixels; the padding shifted them by one image pixel.
        points = (outline + 0.5) / ENLARGEMENT - 1 + [left + corner_xy[0], top + corner_xy[1]]
        if len(points) >= 3:
            unit = np.clip(points / [width, height], 0, 1)
            polygons.append(np.round(unit, 5).ravel().tolist())
    return polygons


def box_from_polygons(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    """left, top, right, bottom of the smallest box around all polygons."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)
