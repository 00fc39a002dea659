"""Objects marked on an image in pixels, turned into the label of a task.

Boxes and polygons of data folders are fractions of the upright image; see `clearsight.training.data.records`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from clearsight.errors import BadImage
from clearsight.images.size import read_file_header
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import ConversionNotes, Entry
from clearsight.training.data.converters.parts import Part
from clearsight.training.data.records import CLIP_TOLERANCE, Instance, is_below_one_pixel

__all__ = [
    "UNTOLD_ORIENTATION",
    "AnnotatedImage",
    "BadAnnotation",
    "MarkedObject",
    "frame_size",
    "to_entries",
]

SourceT = TypeVar("SourceT")

_DECIMALS: Final = 7
"""Decimals of fractions: a thousandth of a pixel of the largest image."""

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
    at that location; `read` notes faults of single objects itself.
    """
    entries = []
    for source in sources:
        location = locate(source)
        try:
            image = read(source)
            entries.append(Entry(image.image, _label(image, task, notes), image.size_wh, location, image.part))
        except BadAnnotation as error:
            notes.fault(location, str(error))
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
    box_xyxy = marked.box_xyxy
    if box_xyxy is None and marked.polygons:
        xs = [x for polygon in marked.polygons for x in polygon[0::2]]
        ys = [y for polygon in marked.polygons for y in polygon[1::2]]
        box_xyxy = (min(xs), min(ys), max(xs), max(ys))
    if box_xyxy is None:
        raise BadAnnotation("must have a box, but has none")
    left, top, right, bottom = _unit(box_xyxy, image.frame_wh)
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
    usable = [polygon for polygon in marked.polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
    for _ in range(len(marked.polygons) - len(usable)):
        notes.count("ring with an odd count of numbers or fewer than 3 points dropped", marked.location)
    if not usable:
        notes.count("object without a usable ring dropped", marked.location)
        return None
    rings = tuple(tuple(_unit(polygon, image.frame_wh)) for polygon in usable)
    if is_below_one_pixel(Instance("", rings).xyxy_unit, image.size_wh):
        notes.count("polygon narrower than one pixel dropped", marked.location)
        return None
    return {"polygon": rings}


def _unit(pixels: Sequence[float], frame_wh: tuple[float, float]) -> list[float]:
    """Fractions of the image; a little outside is clipped, as readers of data folders do."""
    fractions = [value / frame_wh[index % 2] for index, value in enumerate(pixels)]
    for value, fraction in zip(pixels, fractions, strict=True):
        if not -CLIP_TOLERANCE <= fraction <= 1 + CLIP_TOLERANCE:
            size = f"{frame_wh[0]:g}x{frame_wh[1]:g}"
            raise BadAnnotation(f"must lie inside the picture of {size} pixels, but a coordinate is {value:g}")
    return [round(min(max(fraction, 0.0), 1.0), _DECIMALS) for fraction in fractions]
