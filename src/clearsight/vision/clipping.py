"""Polygons of points in pixels: the part inside a rectangle.

Sutherland and Hodgman 1974, "Reentrant polygon clipping": one side of the rectangle after the other. Where a polygon
leaves and comes back, the result runs along that side to and fro, which adds no area; such runs are taken out, since
they would reach beyond the part that is inside and make its box too large.

Shapes in names: K points of a polygon, 2 their x and y.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["Points", "bounds", "cut_polygon"]

Points = npt.NDArray[np.float64]


def cut_polygon(polygon_K2: Points, height: float, width: float) -> Points:
    """The part of a polygon inside [0, width] x [0, height]: (K, 2), K is 0 where nothing with an area is left.

    Parts that hang together along a side stay one polygon. Filled by the even-odd rule it covers the pixels that the
    whole polygon covers there.
    """
    if polygon_K2.min() >= 0 and (polygon_K2 <= (width, height)).all():
        return polygon_K2
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        polygon_K2 = _cut_at(polygon_K2, axis, limit, sign)
    return _without_runs(polygon_K2)


def bounds(polygons: tuple[Points, ...]) -> npt.NDArray[np.float64]:
    """Left, top, right, bottom around all points; four zeros around none."""
    if not polygons:
        return np.zeros(4)
    points_K2 = np.concatenate(polygons)
    return np.concatenate([points_K2.min(axis=0), points_K2.max(axis=0)])


def _cut_at(polygon_K2: Points, axis: int, limit: float, sign: int) -> Points:
    """The part of a polygon where `sign` * (coordinate - `limit`) is at least 0."""
    if not len(polygon_K2):
        return polygon_K2
    depth_K = sign * (polygon_K2[:, axis] - limit)
    ends_K2, end_depth_K = np.roll(polygon_K2, -1, axis=0), np.roll(depth_K, -1)
    crosses_K = (depth_K >= 0) != (end_depth_K >= 0)
    share_K = depth_K / np.where(crosses_K, depth_K - end_depth_K, 1)
    crossings_K2 = polygon_K2 + share_K[:, None] * (ends_K2 - polygon_K2)
    crossings_K2[:, axis] = limit
    candidates_K22 = np.stack([crossings_K2, ends_K2], axis=1)
    counts_K2 = np.stack([crosses_K, end_depth_K >= 0], axis=1)
    inside_K2: Points = candidates_K22[counts_K2]
    return inside_K2


def _without_runs(polygon_K2: Points) -> Points:
    """The polygon without points between two others on one horizontal or vertical line, and without repeated ones."""
    while len(polygon_K2):
        is_new_K = (polygon_K2 != np.roll(polygon_K2, 1, axis=0)).any(axis=1)
        if is_new_K.all():
            before_K2, after_K2 = np.roll(polygon_K2, 1, axis=0), np.roll(polygon_K2, -1, axis=0)
            is_new_K = ~((polygon_K2 == before_K2) & (polygon_K2 == after_K2)).any(axis=1)
            if is_new_K.all():
                break
        polygon_K2 = polygon_K2[is_new_K]
    return polygon_K2 if len(polygon_K2) >= 3 else polygon_K2[:0]
