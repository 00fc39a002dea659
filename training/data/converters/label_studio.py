"""Label Studio: its JSON export, one file with a list of tasks.

https://labelstud.io/guide/task_format

Rectangles, polygons and ellipses are in percent of the image; choices are classes of the whole image. A turned
rectangle is the polygon of its corners, for detection the upright box around it. Of several annotations of a task the
ground truth counts, else the first that was not cancelled. Images lie beside the file or in `images/`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from clearsight.documents.data.text import BadText, read_json
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, source_refused
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.json_values import finite_number, mapping_of, mappings_of
from clearsight.training.data.converters.objects import (
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.converters.shapes import ellipse, rotated_box, suggested_task

__all__ = ["read_label_studio"]

_BOX, _POLYGON, _ELLIPSE, _BRUSH, _CHOICES = (
    "rectanglelabels",
    "polygonlabels",
    "ellipselabels",
    "brushlabels",
    "choices",
)
_USED: Final = (_BOX, _POLYGON, _ELLIPSE, _BRUSH, _CHOICES)
_UPLOAD: Final = re.compile(r"[0-9a-f]{8}-(.+)")
"""Label Studio puts eight digits in front of the name of an uploaded file."""


@dataclass(frozen=True, slots=True)
class _Annotated:
    """One task with the annotation that counts."""

    location: str
    task: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]


def read_label_studio(request: ConversionRequest) -> Conversion:
    """One entry per annotated task, in the order of the file. Raises `InvalidData` with every fault."""
    notes = ConversionNotes(request)
    annotated = list(_annotated(request.source, notes))
    types = {str(result.get("type")) for item in annotated for result in item.results}
    num_choices = (sum(len(_labels(result)) for result in item.results) for item in annotated)
    has_outlines = not types.isdisjoint((_POLYGON, _ELLIPSE, _BRUSH))
    task = request.task or suggested_task(has_outlines, _BOX in types, num_choices)
    beside = request.source.parent
    finder = ImageFinder([beside, beside / "images"], notes)
    read = partial(_image, task=task, finder=finder, notes=notes)
    return notes.finish(task, to_entries(request.progress(annotated), lambda item: item.location, read, task, notes))


def _annotated(source: Path, notes: ConversionNotes) -> Iterator[_Annotated]:
    try:
        tasks = read_json(source)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) and "data" in task for task in tasks):
            raise BadText("must be a list of tasks with data, as Label Studio exports it as JSON (not JSON-MIN)")
    except BadText as error:
        raise source_refused(source, str(error)) from None
    for index, task in enumerate(tasks, 1):
        location = f"{source}: task {task.get('id', index)}"
        try:
            annotations = [
                (annotation, mappings_of(annotation.get("result"), "result"))
                for annotation in mappings_of(task.get("annotations", task.get("completions")), "annotations")
                if not annotation.get("was_cancelled")
            ]
        except BadAnnotation as error:
            notes.fault(location, str(error))
            continue
        if not annotations:
            notes.count("task without annotation left out", location)
            continue
        if len(annotations) > 1:
            notes.count("task with several annotations, of which one is used", location)
        true = [results for annotation, results in annotations if annotation.get("ground_truth")]
        yield _Annotated(location, task, true[0] if true else annotations[0][1])


def _names(task: Mapping[str, Any]) -> list[str]:
    """What the image of a task may be called."""
    data = mapping_of(task["data"], "data")
    text = next((value for value in (data.get("image"), *data.values()) if isinstance(value, str) and value), "")
    names = [text.rpartition("?d=")[2], str(task.get("file_upload") or "")]
    uploaded = [_UPLOAD.fullmatch(name.rpartition("/")[2]) for name in names]
    return [name for name in (*names, *(match[1] for match in uploaded if match)) if name]


def _image(item: _Annotated, task: Task, finder: ImageFinder, notes: ConversionNotes) -> AnnotatedImage:
    names = _names(item.task)
    if not names:
        raise BadAnnotation("data must name an image, but does not")
    image = finder.find(*names)
    sizes = [[result.get(f"original_{side}") or 0 for side in ("width", "height")] for result in item.results]
    stated = [finite_number(side, "original_width and original_height") for side in (sizes or [[0, 0]])[0]]
    size_wh, frame_wh = frame_size(image, (stated[0], stated[1]), notes)
    objects = []
    for index, result in enumerate(item.results, 1):
        location = f"{item.location}: result {index}"
        kind = str(result.get("type"))
        if kind not in _USED or (kind == _CHOICES and not task.is_classification):
            notes.count(f"result of type {kind} that the task has no use for", location)
            continue
        try:
            objects += _objects(result, location, frame_wh, task, notes)
        except BadAnnotation as error:
            notes.fault(location, str(error))
    return AnnotatedImage(image, size_wh, frame_wh, objects)


def _labels(result: Mapping[str, Any]) -> list[str]:
    value = result.get("value")
    labels = value.get(str(result.get("type"))) if isinstance(value, dict) else None
    return [str(label).strip() for label in labels] if isinstance(labels, list) else []


def _objects(
    result: Mapping[str, Any], location: str, frame_wh: tuple[float, float], task: Task, notes: ConversionNotes
) -> list[MarkedObject]:
    labels = _labels(result)
    if not all(labels) or not labels:
        raise BadAnnotation(f"must have a label, but got {labels or 'none'}")
    if task.is_classification:
        return [MarkedObject(location, label) for label in labels]
    if len(labels) > 1:
        notes.count("object with several labels: one for each", location)
    if result.get("image_rotation"):
        raise BadAnnotation(
            f"image_rotation must be 0, but got {result['image_rotation']}; turn the picture and label it"
        )
    if result["type"] == _BRUSH:
        raise BadAnnotation("brush labels cannot be read; export them as PNG files and use --from masks")
    box, polygons = _geometry(result["type"], result["value"], frame_wh)
    return [MarkedObject(location, label, box, polygons) for label in labels]


def _geometry(
    kind: str, value: Mapping[str, Any], frame_wh: tuple[float, float]
) -> tuple[tuple[float, float, float, float] | None, list[list[float]]]:
    """The box, or the polygons, in pixels."""
    across, down = (side / 100 for side in frame_wh)
    if kind == _POLYGON:
        points = value.get("points")
        if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
            raise BadAnnotation(f"points must be a list of [x, y], but got {str(points)[:60]}")
        numbers = [finite_number(number, "a point") for point in points for number in point]
        return None, [[number * (across, down)[index % 2] for index, number in enumerate(numbers)]]
    x, y = finite_number(value.get("x"), "x") * across, finite_number(value.get("y"), "y") * down
    degrees = finite_number(value.get("rotation") or 0, "rotation")
    if kind == _ELLIPSE:
        radius_x, radius_y = (finite_number(value.get(key), key) for key in ("radiusX", "radiusY"))
        return None, [ellipse(x, y, radius_x * across, radius_y * down, degrees)]
    width, height = (finite_number(value.get(key), key) for key in ("width", "height"))
    box = (x, y, x + width * across, y + height * down)
    # Label Studio turns a rectangle about its top left corner.
    return (None, [rotated_box(box, degrees, (x, y))]) if degrees else (box, [])
