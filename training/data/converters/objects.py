"""Objects marked on an image in pixels, turned into the label of a task.

Boxes and polygons of data folders are fractions of the upright image; see `clearsight.training.data.records`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import orjson

from clearsight.errors import BadImage
from clearsight.images.size import read_file_header
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import ConversionNotes, Entry, OnFault
from clearsight.training.data.converters.parts import Part
from clearsight.training.data.records import CLIP_TOLERANCE, Instance, is_below_one_pixel
from clearsight.vision.clipping import cut_polygon

__all__ = [
    "MAX_FRACTION",
    "PIXELS_FROM",
    "UNTOLD_ORIENTATION",
    "AnnotatedImage",
    "BadAnnotation",
    "MarkedObject",
    "frame_size",
    "to_entries",
]

SourceT = TypeVar("SourceT")

PIXELS_FROM: Final = 1.5
"""In files that may hold fractions or pixels, all numbers are fractions if the largest one is below this."""

MAX_FRACTION: Final = 2.0
"""In files of fractions, a larger number is one of pixels; smaller ones may be those of an object that reaches out of
its image."""

_DECIMALS: Final = 7
"""Decimals of fractions: a thousandth of a pixel of the largest image."""

_ROUNDING_PX: Final = 0.5
"""A coordinate outside by at most this is rounded, which is not worth a warning."""

_LARGEST: Final = 1e12
"""Pixels; a larger coordinate is no place on any image, but a mistake that clipping would hide."""

_MAX_ASPECT_CHANGE: Final = 0.02
"""Largest relative change of the aspect ratio between two sizes of one image, by rounding; turning changes it more."""


UNTOLD_ORIENTATION: Final = (
    "picture that its orientation turns or mirrors, which its size does not show; "
    "labels must be for the upright picture"
)


class BadAnnotation(ValueError):
    """An annotation cannot be used; the message says what must hold and what came."""


@dataclass(frozen=True, slots=True)
class MarkedObject:
    """One object. Coordinates are pixels from the top left corner, the image spans [0, width] x [0, height]."""

    location: str
    """Location of the annotation, for messages: `10.xml: object 2`."""
    label: str
    box_xyxy: tuple[float, float, float, float] | None = None
    polygons: Sequence[Sequence[float]] = ()
    """Polygons, each x1, y1, x2, y2, …"""
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image and the objects marked on it."""

    image: Path
    size_wh: tuple[int, int]
    """Width and height of the upright image in the file."""
    frame_wh: tuple[float, float]
    """Size that the pixels of the objects refer to: that of the file, or of a scaled copy."""
    objects: Sequence[MarkedObject]
    part: Part | None = None


def frame_size(
    image: Path, stated_wh: tuple[float, float] | None, notes: ConversionNotes
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Upright size of an image file, and the size its annotations refer to.

    An image that is turned, without the sizes telling whether its annotations are, is counted in `notes`. Raises
    `BadAnnotation` when the file cannot be read, or when the stated size has another aspect ratio than the image:
    then it was annotated before it was turned upright, and its coordinates would be wrong.
    """
    try:
        header = read_file_header(image)
    except BadImage as error:
        raise BadAnnotation(f"{image}: {error}") from None
    height, width = header.upright_hw
    is_stated = stated_wh is not None and min(stated_wh) > 0
    if header.orientation != 1 and not (is_stated and header.is_told_by_size):
        notes.count(UNTOLD_ORIENTATION, str(image))
    if stated_wh is None or not is_stated:
        return (width, height), (width, height)
    if abs(stated_wh[0] / width / (stated_wh[1] / height) - 1) > _MAX_ASPECT_CHANGE:
        raise BadAnnotation(
            f"the annotations are for {stated_wh[0]:g}x{stated_wh[1]:g} pixels, but {image} stands upright with "
            f"{width}x{height}; turn the picture or correct the size"
        )
    return (width, height), stated_wh


def to_entries(
    sources: Iterable[SourceT],
    locate: Callable[[SourceT], str],
    read: Callable[[SourceT], AnnotatedImage],
    task: Task,
    notes: ConversionNotes,
) -> list[Entry]:
    """Make the entry of every image of a source, in its order.

    `read` returns the image of one of `sources`, such as a file or an item of a list; `locate` names its location, for
    messages. What raises `BadAnnotation`, in `read` or since the image cannot have a label of the task, becomes a fault
    at that location; `read` notes faults of single objects itself. An image with a fault has no entry.
    """
    entries = []
    for source in sources:
        location, num_faults = locate(source), len(notes.faults)
        try:
            image = read(source)
            label = _label(image, task, notes)
        except BadAnnotation as error:
            notes.fault(location, str(error))
        if len(notes.faults) == num_faults:
            entries.append(Entry(image.image, label, image.size_wh, location, image.part))
    return entries


def _label(image: AnnotatedImage, task: Task, notes: ConversionNotes) -> Any:
    names = sorted({marked.label for marked in image.objects})
    match task:
        case Task.MULTI_LABEL:
            return names
        case Task.MULTI_CLASS:
            if len(names) != 1:
                raise BadAnnotation(
                    f"multi-class takes one class per picture, but got {', '.join(names) or 'none'}; "
                    f"use --task {Task.MULTI_LABEL.value}"
                )
            return names[0]
    documents = []
    for marked in image.objects:
        try:
            geometry = _box if task is Task.DETECTION else _polygon
            document = geometry(marked, image, notes)
        except BadAnnotation as error:
            notes.fault(marked.location, str(error))
            continue
        if document is not None:
            documents.append({"label": marked.label, **document, "isCrowd": int(marked.is_crowd)})
    return orjson.dumps(documents)


def _box(marked: MarkedObject, image: AnnotatedImage, notes: ConversionNotes) -> dict[str, float] | None:
    if marked.box_xyxy is None and not marked.polygons:
        raise BadAnnotation("must have a box, but has none")
    if marked.box_xyxy is not None:
        inside = _inside([marked.box_xyxy], marked, image, notes, _cut_box)
    else:
        inside = _inside(_rings(marked, notes), marked, image, notes, _cut_polygon)
        xs, ys = ([value for ring in inside for value in ring[first::2]] for first in (0, 1))
        inside = [[min(xs), min(ys), max(xs), max(ys)]] if inside else []
    if not inside:
        return None
    left, top, right, bottom = inside[0]
    if right <= left or bottom <= top:
        notes.count("box without width or height dropped", marked.location)
        return None
    if is_below_one_pixel((left, top, right, bottom), image.size_wh):
        notes.count("box narrower than one pixel dropped", marked.location)
        return None
    return {"topX": left, "topY": top, "bottomX": right, "bottomY": bottom}


def _polygon(
    marked: MarkedObject, image: AnnotatedImage, notes: ConversionNotes
) -> dict[str, Sequence[Sequence[float]]] | None:
    if not marked.polygons:
        raise BadAnnotation(f"must have a polygon or a mask, but has none; for boxes use --task {Task.DETECTION.value}")
    rings = tuple(map(tuple, _inside(_rings(marked, notes), marked, image, notes, _cut_polygon)))
    if not rings:
        return None
    if is_below_one_pixel(Instance("", rings).xyxy_unit, image.size_wh):
        notes.count("polygon narrower than one pixel dropped", marked.location)
        return None
    return {"polygon": rings}


def _rings(marked: MarkedObject, notes: ConversionNotes) -> list[Sequence[float]]:
    """The polygons that have an area; others are counted, and so is an object without any."""
    usable = [polygon for polygon in marked.polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
    for _ in range(len(marked.polygons) - len(usable)):
        notes.count("ring with an odd count of numbers or fewer than 3 points dropped", marked.location)
    if not usable:
        notes.count("object without a usable ring dropped", marked.location)
    return usable


def _inside(
    shapes: Sequence[Sequence[float]],
    marked: MarkedObject,
    image: AnnotatedImage,
    notes: ConversionNotes,
    cut: Callable[[Sequence[float], float, float], list[float]],
) -> list[list[float]]:
    """The shapes of an object in fractions of the image; a little outside is clipped, as readers of data folders do.

    What lies farther out raises `BadAnnotation`, or is cut off where the request says so. Then shapes of which nothing
    is left are missing.
    """
    width, height = image.frame_wh
    numbers = [(value, (width, height)[index % 2]) for shape in shapes for index, value in enumerate(shape)]
    outside = [value for value, side in numbers if not -CLIP_TOLERANCE <= value / side <= 1 + CLIP_TOLERANCE]
    if not outside and any(not -_ROUNDING_PX <= value <= side + _ROUNDING_PX for value, side in numbers):
        notes.count("object up to a hundredth outside of its picture cut off at the edge", marked.location)
    if outside:
        size = f"{width:g}x{height:g}"
        if notes.request.on_fault is not OnFault.CLIP or not all(abs(value) < _LARGEST for value in outside):
            raise BadAnnotation(f"must lie inside the picture of {size} pixels, but a coordinate is {outside[0]:g}")
        shapes = [left for shape in shapes if (left := cut(shape, width, height))]
        what = "cut off at the edges of" if shapes else "left out, since all of it lies outside"
        notes.change(marked.location, f"{what} the picture of {size} pixels: a coordinate is {outside[0]:g}")
    return [
        [round(min(max(value / (width, height)[index % 2], 0.0), 1.0), _DECIMALS) for index, value in enumerate(shape)]
        for shape in shapes
    ]


def _cut_box(box_xyxy: Sequence[float], width: float, height: float) -> list[float]:
    left, top, right, bottom = box_xyxy
    is_outside = right <= 0 or bottom <= 0 or left >= width or top >= height
    return [] if is_outside else [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]


def _cut_polygon(polygon: Sequence[float], width: float, height: float) -> list[float]:
    inside: list[float] = cut_polygon(np.array(polygon, np.float64).reshape(-1, 2), height, width).ravel().tolist()
    return inside
