"""COCO: one JSON file with boxes, polygons and run-length encoded masks of all images.

https://cocodataset.org/#format-data. As in Azure's converter, coordinates are taken as fractions when the largest one
is below 1.5 (judged over the whole file: an image may hold a single box at its corner), `iscrowd` becomes `isCrowd`,
and a file with a segmentation gives polygons unless boxes are asked for.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from clearsight.documents.data.text import BadText, read_json
from clearsight.images.headers import MAX_PIXELS
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, source_refused
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.objects import (
    PIXELS_FROM,
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.converters.outlines import polygons_from_mask
from clearsight.training.data.keys import likely_meant
from clearsight.vision.rle import decode_rle

__all__ = ["read_coco"]

_ANNOTATION_KEYS: Final = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")


def read_coco(request: ConversionRequest) -> Conversion:
    """Read a COCO file: one entry per image, in the order of the file. Raises `InvalidData` with every fault."""
    file = _load(request.source)
    task = request.task or (Task.SEGMENTATION if file.has_masks else Task.DETECTION)
    notes = ConversionNotes(request)
    finder = ImageFinder(_image_folders(file.path), notes)
    for image_id, annotations in file.annotations.items():
        for annotation in annotations if image_id not in file.names else ():
            message = f"must name a picture that is among images, but got image_id {annotation.get('image_id')!r}"
            notes.fault(f"{file.path}: annotation {annotation.get('id')}", message)
    numbered = list(enumerate(file.images))
    entries = to_entries(
        request.progress(numbered),
        lambda item: f"{file.path}: images[{item[0]}]",
        lambda item: _image(item[1], file, finder, task, notes),
        task,
        notes,
    )
    return notes.finish(task, entries)


def _image_folders(file: Path) -> list[Path]:
    """Beside the file, or for `annotations/instances_train2017.json` in `train2017/` beside its folder, as COCO has it.

    https://cocodataset.org/#download
    """
    beside = [file.parent, file.parent / "images"]
    if file.parent.name != "annotations":
        return beside
    top, name = file.parent.parent, file.stem.rpartition("_")[2]
    return [top / name, top / "images" / name, *beside, top, top / "images"]


@dataclass(frozen=True, slots=True)
class _CocoFile:
    path: Path
    images: Sequence[Mapping[str, Any]]
    names: Mapping[str, Any]
    """File name of the first image of each id."""
    annotations: Mapping[str, list[Mapping[str, Any]]]
    """Annotations by id of the image, in file order."""
    categories: Mapping[str, str]
    has_masks: bool
    is_fraction: bool


def _load(source: Path) -> _CocoFile:
    try:
        document = read_json(source)
    except BadText as error:
        raise source_refused(source, str(error)) from None
    parts: dict[str, list[dict[str, Any]]] = {}
    for key in ("images", "annotations", "categories"):
        part = document.get(key) if isinstance(document, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, dict) for item in part):
            raise source_refused(
                source, f"must hold the lists images, annotations and categories of COCO; {key} is none"
            )
        parts[key] = part
    annotations: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    largest: float | None = None
    for annotation in parts["annotations"]:
        annotations[_id(annotation.get("image_id"))].append(annotation)
        for value in _coordinates(annotation):
            largest = value if largest is None else max(largest, value)
    return _CocoFile(
        source,
        parts["images"],
        {_id(image.get("id")): image.get("file_name") for image in reversed(parts["images"])},
        annotations,
        _categories(source, parts["categories"]),
        any(annotation.get("segmentation") for annotation in parts["annotations"]),
        largest is not None and largest < PIXELS_FROM,
    )


def _name(category: Mapping[str, Any]) -> str:
    """Name of a category; 0 and false are names, null and nothing are none."""
    name = category.get("name")
    return ("" if name is None else name if isinstance(name, str) else orjson.dumps(name).decode()).strip()


def _categories(source: Path, categories: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Names by id. One id for two names would give objects the wrong class."""
    names: dict[str, str] = {}
    for category in categories:
        category_id, name = category.get("id"), _name(category)
        if (other := names.setdefault(_id(category_id), name)) != name:
            raise source_refused(
                source, f"each category must have an id of its own, but {category_id!r} is {other!r} and {name!r}"
            )
    return names


def _id(value: Any) -> str:
    """The same text for an id as a number and as text: tools mix both."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _coordinates(annotation: Mapping[str, Any]) -> Iterator[float]:
    polygons = annotation.get("segmentation")
    for numbers in (annotation.get("bbox"), *(polygons if isinstance(polygons, list) else ())):
        if isinstance(numbers, list):
            yield from (value for value in numbers if isinstance(value, (int, float)))


def _image(
    image: Mapping[str, Any], file: _CocoFile, finder: ImageFinder, task: Task, notes: ConversionNotes
) -> AnnotatedImage:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise BadAnnotation(f"file_name must be the name of a picture, but got {name!r}")
    if image.get("id") is None or file.names[_id(image["id"])] != name:
        other = "" if image.get("id") is None else f", which {file.names[_id(image['id'])]!r} has too"
        raise BadAnnotation(f"id must be the number of this picture alone, but got {image.get('id')!r}{other}")
    path = finder.find(name)
    width, height = image.get("width"), image.get("height")
    stated = None
    if isinstance(width, (int, float)) and isinstance(height, (int, float)):
        stated = (float(width), float(height))
    size_wh, frame_wh = frame_size(path, stated, notes)
    scale_wh = frame_wh if file.is_fraction else (1.0, 1.0)
    objects = []
    for annotation in file.annotations.get(_id(image.get("id")), []):
        where = f"{file.path}: annotation {annotation.get('id')}"
        for key, meant in likely_meant(tuple(annotation), _ANNOTATION_KEYS):
            notes.count(f"annotation with the unknown key {key!r}, which is ignored; is {meant!r} meant?", where)
        try:
            objects.append(_object(annotation, where, file.categories, scale_wh, frame_wh, task, notes))
        except BadAnnotation as error:
            notes.fault(where, str(error))
    return AnnotatedImage(path, size_wh, frame_wh, objects)


def _object(
    annotation: Mapping[str, Any],
    where: str,
    categories: Mapping[str, str],
    scale_wh: tuple[float, float],
    frame_wh: tuple[float, float],
    task: Task,
    notes: ConversionNotes,
) -> MarkedObject:
    label = categories.get(_id(annotation.get("category_id")))
    if not label:
        raise BadAnnotation(f"category_id must be one of categories, but got {annotation.get('category_id')!r}")
    is_crowd = annotation.get("iscrowd") in (1, True)
    if task.is_classification:
        return MarkedObject(where, label)
    box = _box(annotation.get("bbox"), scale_wh)
    needs_polygons = task is Task.SEGMENTATION or box is None
    polygons = _polygons(annotation.get("segmentation"), scale_wh, frame_wh, where, notes) if needs_polygons else []
    if task is Task.SEGMENTATION and not polygons and annotation.get("segmentation"):
        notes.count("object with an empty mask dropped", where)
        polygons = [[]]
    return MarkedObject(where, label, box, polygons, is_crowd)


def _box(bbox: Any, scale_wh: tuple[float, float]) -> tuple[float, float, float, float] | None:
    if bbox is None or bbox == []:
        return None
    left, top, width, height = _numbers(bbox, "bbox", 4)
    return (
        left * scale_wh[0],
        top * scale_wh[1],
        (left + width) * scale_wh[0],
        (top + height) * scale_wh[1],
    )


def _polygons(
    segmentation: Any, scale_wh: tuple[float, float], frame_wh: tuple[float, float], where: str, notes: ConversionNotes
) -> list[list[float]]:
    if isinstance(segmentation, dict):
        return _polygons_from_rle(segmentation, frame_wh, where, notes)
    if not isinstance(segmentation, list):
        return []
    polygons = segmentation if all(isinstance(polygon, list) for polygon in segmentation) else [segmentation]
    return [
        [value * scale_wh[index % 2] for index, value in enumerate(_numbers(polygon, "segmentation"))]
        for polygon in polygons
    ]


def _polygons_from_rle(
    rle: Mapping[str, Any], frame_wh: tuple[float, float], where: str, notes: ConversionNotes
) -> list[list[float]]:
    height, width = (int(side) for side in _numbers(rle.get("size"), "segmentation.size", 2))
    if (width, height) != frame_wh or not 0 < width * height <= MAX_PIXELS:
        size = f"{frame_wh[1]:g}, {frame_wh[0]:g}"
        raise BadAnnotation(f"segmentation.size must be the picture's height and width, {size}, but got {rle['size']}")
    try:
        polygons, num_holes = polygons_from_mask(decode_rle(rle.get("counts"), height, width))
    except ValueError as error:
        raise BadAnnotation(f"segmentation: {error}") from None
    if num_holes:
        notes.count("object with holes, which polygons cannot have: filled", where)
    return polygons


def _numbers(value: Any, name: str, count: int | None = None) -> list[float]:
    if (
        not isinstance(value, list)
        or not all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value)
        or (count is not None and len(value) != count)
    ):
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "…"
        raise BadAnnotation(f"{name} must be a list of {'' if count is None else f'{count} '}numbers, but got {shown}")
    return value
