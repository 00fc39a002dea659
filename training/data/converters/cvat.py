"""CVAT for images 1.1: one XML file of all images.

https://docs.cvat.ai/docs/other/xml_format

Boxes, polygons, ellipses and masks are objects, tags are classes of the whole image. A turned box is the polygon of its
corners, for detection the upright box around it. Images lie beside the file or in `images/`.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np

from clearsight.documents.data.text import BadText, read_xml
from clearsight.images.headers import MAX_PIXELS
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, source_refused
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.objects import (
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.converters.outlines import polygons_from_mask
from clearsight.training.data.converters.parts import TEST_LEFT_OUT, Part, part_named
from clearsight.training.data.converters.shapes import ellipse, moved, rotated_box, suggested_task

__all__ = ["read_cvat"]

_OUTLINES: Final = ("polygon", "ellipse", "mask")
_USED: Final = (*_OUTLINES, "box", "tag")


def read_cvat(request: ConversionRequest) -> Conversion:
    """One entry per image, in the order of the file; `subset` says its part, if every image names one.

    Raises `InvalidData` with every fault.
    """
    source = request.source
    try:
        root = read_xml(source)
        if root.tag != "annotations" or root.find("track") is not None:
            raise BadText("must be an XML file of CVAT for images 1.1; export it in this format, not that of videos")
    except BadText as error:
        raise source_refused(source, str(error)) from None
    notes = ConversionNotes(request)
    listed = root.findall("image")
    parts = {image: part_named(image.get("subset", "")) for image in listed}
    if None in parts.values() or Part.TRAINING not in parts.values():
        parts = {}
    for image in listed:
        if parts.get(image) is Part.TEST:
            notes.count(TEST_LEFT_OUT, _location(image, str(source)))
    images = [image for image in listed if parts.get(image) is not Part.TEST]
    tags = {element.tag for image in images for element in image}
    num_classes = (len(image.findall("tag")) for image in images)
    task = request.task or suggested_task(not tags.isdisjoint(_OUTLINES), "box" in tags, num_classes)
    beside = source.parent
    finder = ImageFinder([beside / "images", beside], notes)
    read = partial(_image, parts=parts, source=str(source), task=task, finder=finder, notes=notes)
    locate = partial(_location, source=str(source))
    return notes.finish(task, to_entries(request.progress(images), locate, read, task, notes))


def _location(image: Element, source: str) -> str:
    return f"{source}: image {image.get('name') or image.get('id')}"


def _image(
    image: Element,
    parts: Mapping[Element, Part | None],
    source: str,
    task: Task,
    finder: ImageFinder,
    notes: ConversionNotes,
) -> AnnotatedImage:
    name, subset = image.get("name", ""), image.get("subset", "")
    if not name:
        raise BadAnnotation("must have a name, but has none")
    path = finder.find(*([f"{subset}/{name}"] if subset else []), name)
    stated = (_number(image, "width", 0.0), _number(image, "height", 0.0))
    size_wh, frame_wh = frame_size(path, stated, notes)
    objects = []
    for index, element in enumerate(image, 1):
        location = f"{_location(image, source)}: object {index}"
        if element.tag not in _USED or (element.tag == "tag" and not task.is_classification):
            notes.count(f"<{element.tag}> that the task has no use for", location)
            continue
        try:
            objects.append(_object(element, location, task, notes))
        except BadAnnotation as error:
            notes.fault(location, str(error))
    return AnnotatedImage(path, size_wh, frame_wh, objects, parts.get(image))


def _object(element: Element, location: str, task: Task, notes: ConversionNotes) -> MarkedObject:
    label = element.get("label", "").strip()
    if not label:
        raise BadAnnotation("must have a label, but has none")
    if task.is_classification:
        return MarkedObject(location, label)
    degrees = _number(element, "rotation", 0.0)
    match element.tag:
        case "box":
            left, top, right, bottom = (_number(element, side) for side in ("xtl", "ytl", "xbr", "ybr"))
            if not degrees:
                return MarkedObject(location, label, (left, top, right, bottom))
            polygons = [rotated_box((left, top, right, bottom), degrees)]
        case "ellipse":
            x, y, radius_x, radius_y = (_number(element, key) for key in ("cx", "cy", "rx", "ry"))
            polygons = [ellipse(x, y, radius_x, radius_y, degrees)]
        case "polygon":
            polygons = [_points(element.get("points", ""))]
        case _:
            polygons, num_holes = _mask(element)
            if num_holes:
                notes.count("object with holes, which polygons cannot have: filled", location)
    return MarkedObject(location, label, polygons=polygons)


def _points(text: str) -> list[float]:
    try:
        return [float(value) for point in text.split(";") for value in point.split(",")]
    except ValueError:
        raise BadAnnotation(f"points must be x1,y1;x2,y2;…, but got {text[:40]!r}") from None


def _mask(element: Element) -> tuple[list[list[float]], int]:
    """The outlines of a mask, and the number of its holes.

    `rle` counts pixels of its box, row by row: first those outside of the object, then inside, and so on.
    """
    left, top, width, height = (int(_number(element, key)) for key in ("left", "top", "width", "height"))
    text = element.get("rle", "")
    try:
        runs = [int(run) for run in text.split(",")]
    except ValueError:
        raise BadAnnotation(f"rle must be numbers of pixels, but got {text[:40]!r}") from None
    if not 0 < width * height <= MAX_PIXELS or min(runs) < 0 or sum(runs) != width * height:
        raise BadAnnotation(f"rle must add up to {width} x {height} pixels, but adds up to {sum(runs)}")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    polygons, num_holes = polygons_from_mask(pixels)
    return moved(polygons, left, top), num_holes


def _number(element: Element, key: str, default: float | None = None) -> float:
    text = element.get(key, "").strip()
    if not text and default is not None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadAnnotation(f"{key} must be a number, but got {text!r}")
    return number
