"""LabelMe: one JSON file per image, with shapes in pixels.

https://github.com/wkentaro/labelme

Polygons, circles and masks are outlines, rectangles are boxes; shapes of one label and `group_id` are one object. Flags
of the image are its classes, for classification. Files lie beside their images, or anywhere below SOURCE.
"""

import base64
import binascii
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from clearsight.documents.data.text import BadText, read_json
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import (
    Conversion,
    ConversionNotes,
    ConversionRequest,
    is_of_system,
    source_refused,
)
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.json_values import finite_number, list_of
from clearsight.training.data.converters.objects import (
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.converters.outlines import polygons_from_mask
from clearsight.training.data.converters.shapes import ellipse, moved, suggested_task

__all__ = ["read_labelme"]

_OUTLINES: Final = ("polygon", "circle", "mask")
_UNUSED: Final = ("line", "linestrip", "point", "points")
_Document = Mapping[str, Any]


def read_labelme(request: ConversionRequest) -> Conversion:
    """One entry per JSON file with shapes, in the order of their paths. Raises `InvalidData` with every fault."""
    notes = ConversionNotes(request)
    files = sorted(request.source.rglob("*.json")) if request.source.is_dir() else [request.source]
    documents = dict(_documents([file for file in request.progress(files) if not is_of_system(file)], notes))
    if not documents and not notes.faults:
        message = "must hold JSON files of LabelMe, with shapes, but there are none"
        raise source_refused(request.source, message)
    types = {_kind(shape) for document in documents.values() for shape in document["shapes"]}
    num_flags = (len(_flags(document)) for document in documents.values())
    task = request.task or suggested_task(not types.isdisjoint(_OUTLINES), "rectangle" in types, num_flags)
    top = request.source if request.source.is_dir() else request.source.parent
    finder = ImageFinder([top, top / "images"], notes)
    read = partial(_image, documents=documents, task=task, finder=finder, notes=notes)
    return notes.finish(task, to_entries(list(documents), str, read, task, notes))


def _documents(files: list[Path], notes: ConversionNotes) -> Iterator[tuple[Path, _Document]]:
    for file in files:
        try:
            document = read_json(file)
        except BadText as error:
            notes.fault(str(file), str(error))
            continue
        shapes = document.get("shapes") if isinstance(document, dict) else None
        if isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes):
            document.pop("imageData", None)  # a copy of the image, megabytes of text
            yield file, document
        else:
            notes.pass_over("JSON file without shapes", [file])


def _flags(document: _Document) -> list[str]:
    flags = document.get("flags")
    return [name for name, is_set in flags.items() if is_set is True] if isinstance(flags, dict) else []


def _image(
    file: Path, documents: Mapping[Path, _Document], task: Task, finder: ImageFinder, notes: ConversionNotes
) -> AnnotatedImage:
    document = documents[file]
    name = document.get("imagePath")
    image = finder.find(*([f"{file.parent}/{name}", name] if isinstance(name, str) and name else []), file.stem)
    width, height = (finite_number(document.get(key) or 0, key) for key in ("imageWidth", "imageHeight"))
    size_wh, frame_wh = frame_size(image, (width, height), notes)
    objects: dict[tuple[str, Any], MarkedObject] = {}
    for index, shape in enumerate(document["shapes"], 1):
        location = f"{file}: shape {index}"
        try:
            marked = _object(shape, location, task, notes)
        except BadAnnotation as error:
            notes.fault(location, str(error))
            continue
        if marked is None:
            continue
        group = shape.get("group_id") if marked.polygons else None
        key = marked.label, index if group is None else f"group {group}"
        first = objects.setdefault(key, marked)
        if first is not marked:
            objects[key] = replace(first, polygons=[*first.polygons, *marked.polygons])
    flags = [MarkedObject(str(file), name) for name in _flags(document)] if task.is_classification else []
    return AnnotatedImage(image, size_wh, frame_wh, [*objects.values(), *flags])


def _object(shape: _Document, location: str, task: Task, notes: ConversionNotes) -> MarkedObject | None:
    """The object of a shape; None for one that is counted."""
    label, kind = str(shape.get("label") or "").strip(), _kind(shape)
    if kind in _UNUSED:
        notes.count(f"shape of type {kind} dropped", location)
        return None
    if kind not in (*_OUTLINES, "rectangle"):
        raise BadAnnotation(f"shape_type must be rectangle, {', '.join(_OUTLINES)}, but got {kind!r}")
    if not label:
        raise BadAnnotation("must have a label, but has none")
    if task.is_classification:
        return MarkedObject(location, label)
    points = _points(shape.get("points"))
    match kind:
        case "rectangle":
            xs, ys = zip(*points, strict=True)
            return MarkedObject(location, label, (min(xs), min(ys), max(xs), max(ys)))
        case "polygon":
            return MarkedObject(location, label, polygons=[[value for point in points for value in point]])
        case "circle" if len(points) == 2:
            radius = math.dist(*points)
            return MarkedObject(location, label, polygons=[ellipse(*points[0], radius, radius)])
        case "mask":
            polygons, num_holes = polygons_from_mask(_mask(shape.get("mask")))
            if num_holes:
                notes.count("object with holes, which polygons cannot have: filled", location)
            if not polygons:
                notes.count("object with an empty mask dropped", location)
                return None
            return MarkedObject(location, label, polygons=moved(polygons, round(points[0][0]), round(points[0][1])))
        case _:
            raise BadAnnotation(f"a circle must have 2 points, its centre and one on it, but has {len(points)}")


def _kind(shape: _Document) -> str:
    """The type of a shape; the first versions of LabelMe knew polygons alone, and wrote none."""
    return str(shape.get("shape_type") or "polygon")


def _points(value: Any) -> list[tuple[float, float]]:
    points = list_of(value, "points")
    if not points or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise BadAnnotation(f"points must be a list of [x, y], but got {str(value)[:60]}")
    return [(finite_number(x, "a point"), finite_number(y, "a point")) for x, y in points]


def _mask(text: Any) -> np.typing.NDArray[np.bool_]:
    """The pixels of a mask, a PNG file as base64 text, of the box whose corners are the points of the shape."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(text), validate=True)), formats=["PNG"]) as image:
            return np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadAnnotation(f"mask must be a PNG file as base64 text, but: {error}") from None
