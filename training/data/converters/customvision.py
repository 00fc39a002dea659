"""Custom Vision: a JSON list of regions in fractions of their images, or of images with regions or tags.

A region has `tag` or `tagName`, and `left`, `top`, `width`, `height`; it names its image itself (`file`), as the
samples of the service list them, or stands in an image that has `regions`, as the training API returns it.
https://learn.microsoft.com/rest/api/customvision/training/images/get-tagged-images
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from clearsight.documents.data.text import BadText, read_json
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, source_refused
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.json_values import finite_number, mappings_of
from clearsight.training.data.converters.objects import (
    MAX_FRACTION,
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.converters.shapes import suggested_task

__all__ = ["read_custom_vision"]

_NAMES: Final = ("file", "fileName", "filename", "name", "image", "id", "originalImageUri")


@dataclass(frozen=True, slots=True)
class _Image:
    """One image with the locations of its regions or tags."""

    location: str
    names: list[str]
    regions: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


def read_custom_vision(request: ConversionRequest) -> Conversion:
    """One entry per image, in the order in which the list first names them. Raises `InvalidData` with every fault."""
    notes = ConversionNotes(request)
    images = list(_images(request.source))
    has_boxes = any("left" in region for image in images for _, region in image.regions)
    task = request.task or suggested_task(False, has_boxes, (len(image.regions) for image in images))
    beside = request.source.parent
    finder = ImageFinder([beside, beside / "images"], notes)
    read = partial(_annotated, task=task, finder=finder, notes=notes)
    return notes.finish(task, to_entries(request.progress(images), lambda image: image.location, read, task, notes))


def _images(source: Path) -> Iterator[_Image]:
    try:
        items = read_json(source)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise BadText("must be a list of regions, or of images with regions or tags")
    except BadText as error:
        raise source_refused(source, str(error)) from None
    images: dict[str, _Image] = {}
    for index, item in enumerate(items, 1):
        location = f"{source}: item {index}"
        names = [str(item[key]) for key in _NAMES if item.get(key)]
        image = images.setdefault(names[0] if names else location, _Image(location, names))
        try:
            inside = mappings_of(item.get("regions"), "regions") or mappings_of(item.get("tags"), "tags")
        except BadAnnotation as error:
            image.faults.append((location, str(error)))
            continue
        if inside:
            image.regions.extend((f"{location}: region {number}", region) for number, region in enumerate(inside, 1))
        elif "left" in item or "tag" in item or "tagName" in item:
            image.regions.append((location, item))
    yield from images.values()


def _annotated(image: _Image, task: Task, finder: ImageFinder, notes: ConversionNotes) -> AnnotatedImage:
    if not image.names:
        raise BadAnnotation(f"must name an image ({', '.join(_NAMES[:4])}, …), but does not")
    path = finder.find(*image.names)
    size_wh, frame_wh = frame_size(path, None, notes)
    for location, message in image.faults:
        notes.fault(location, message)
    objects = []
    for location, region in image.regions:
        try:
            objects.append(_object(region, location, frame_wh, task))
        except BadAnnotation as error:
            notes.fault(location, str(error))
    return AnnotatedImage(path, size_wh, frame_wh, objects)


def _object(region: Mapping[str, Any], location: str, frame_wh: tuple[float, float], task: Task) -> MarkedObject:
    label = str(region.get("tagName") or region.get("tag") or "").strip()
    if not label:
        raise BadAnnotation("must have a tag (tagName), but has none")
    if task.is_classification:
        return MarkedObject(location, label)
    left, top, width, height = (finite_number(region.get(key), key) for key in ("left", "top", "width", "height"))
    if max(abs(left), abs(top), width, height) > MAX_FRACTION:
        raise BadAnnotation(
            f"must hold fractions of the picture in [0, 1], but got {left:g}, {top:g}, {width:g}, {height:g}"
        )
    across, down = frame_wh
    return MarkedObject(location, label, (left * across, top * down, (left + width) * across, (top + height) * down))
