"""The shapes of labelling tools as polygons, and the task that a set of them is for.

Coordinates are pixels from the top left corner; angles are degrees clockwise, as the y axis points down.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from clearsight.tasks import Task

__all__ = ["ellipse", "moved", "rotated_box", "suggested_task"]

_ELLIPSE_CORNERS: Final = 64
"""A polygon of so many corners on a circle has 99.8 % of its area."""


def rotated_box(box_xyxy: Sequence[float], degrees: float, pivot: tuple[float, float] | None = None) -> list[float]:
    """The corners x1, y1, … of a box that is turned about a point, by default its centre."""
    left, top, right, bottom = box_xyxy
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return _turned(corners, degrees, pivot or ((left + right) / 2, (top + bottom) / 2))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> list[float]:
    """A polygon with its corners on an ellipse, turned about its centre x, y."""
    angles = (2 * math.pi * index / _ELLIPSE_CORNERS for index in range(_ELLIPSE_CORNERS))
    points = [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]
    return _turned(points, degrees, (x, y))


def moved(polygons: Iterable[Sequence[float]], left: float, top: float) -> list[list[float]]:
    """Polygons of a part of an image, which begins at `left`, `top`, as those of the image."""
    return [[value + (left, top)[index % 2] for index, value in enumerate(polygon)] for polygon in polygons]


def suggested_task(has_outlines: bool, has_boxes: bool, num_classes: Iterable[int]) -> Task:
    """Segmentation if there is an outline, else detection if there is a box, else classification.

    `num_classes` counts the classes of each image: multi-class if all have one.
    """
    if has_outlines or has_boxes:
        return Task.SEGMENTATION if has_outlines else Task.DETECTION
    return Task.MULTI_CLASS if all(count == 1 for count in num_classes) else Task.MULTI_LABEL


def _turned(points: Iterable[tuple[float, float]], degrees: float, pivot: tuple[float, float]) -> list[float]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = []
    for x, y in points:
        across, down = x - pivot[0], y - pivot[1]
        turned += [pivot[0] + across * cos - down * sin, pivot[1] + across * sin + down * cos]
    return turned
