"""A CSV table of objects: one row for each, with its image, class and box.

The columns are known by the names that data sets give them: those of TensorFlow's and Roboflow's lists
(`filename,width,height,class,xmin,ymin,xmax,ymax`), of keras-retinanet (`path,x1,y1,x2,y2,class_name`, without a
header; a row without numbers is an image without objects), and of Open Images (`ImageID,…,LabelName,…,XMin,XMax,
YMin,YMax,…,IsGroupOf`, whose classes `class-descriptions*.csv` beside the file names; or image labels, of which those
with `Confidence` 0 are known to be absent). https://storage.googleapis.com/openimages/web/download_v7.html

A column `geometry` may hold outlines as well-known text, `POLYGON ((x y, …))`, as DeepForest writes them.
https://www.ogc.org/standards/sfa

Boxes and outlines are pixels from the top left corner; boxes are fractions when their largest number is below 1.5, as
in COCO files.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from clearsight.documents.data.text import BadText, read_text
from clearsight.tasks import Task
from clearsight.training.data.converters.csv_table import CLASS_COLUMNS, CsvRow, CsvTable
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
from clearsight.training.data.converters.parts import TEST_LEFT_OUT, Part

__all__ = ["has_objects", "read_objects"]

_SIDES: Final = (("xmin", "x1"), ("ymin", "y1"), ("xmax", "x2"), ("ymax", "y2"))
_OUTLINE: Final = ("geometry", "polygon")
_GROUP: Final = ("isgroupof", "iscrowd", "difficult")
_KERAS_HEADER: Final = ["path", "x1", "y1", "x2", "y2", "class_name"]
_POLYGON: Final = re.compile(r"\(\s*(\([^()]*\)(?:\s*,\s*\([^()]*\))*)\s*\)")
_RING: Final = re.compile(r"\(([^()]*)\)")


def has_objects(table: CsvTable) -> bool:
    """Whether a table has boxes, outlines, or the image labels of Open Images; one without a header gets its header."""
    cells = table.header[1:5]
    if len(table.header) == len(_KERAS_HEADER) and (all(map(_is_number, cells)) or not any(cells)):
        table.rows.insert(0, CsvRow(f"{table.file}:1", list(table.header)))
        table.header[:] = _KERAS_HEADER
    is_open_images = all(table.has(name) for name in ("imageid", "labelname", "confidence"))
    return is_open_images or table.has(*_OUTLINE) or all(table.has(*names) for names in _SIDES)


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of one image."""

    rows: list[CsvRow]
    part: Part | None

    def location(self) -> str:
        return self.rows[0].location


@dataclass(frozen=True, slots=True)
class _Columns:
    image: int
    label: int
    sides: Sequence[int]
    outline: int | None
    width: int | None
    height: int | None
    group: int | None
    confidence: int | None
    """Of image labels alone: a box has none, or that of a model."""


def read_objects(table: CsvTable, request: ConversionRequest) -> Conversion:
    """One entry per image, in the order of their first rows. Raises `InvalidData` with every fault."""
    notes = ConversionNotes(request)
    has_boxes = all(table.has(*names) for names in _SIDES)
    sides = [table.require(names[0], *names) for names in _SIDES] if has_boxes else []
    columns = _Columns(
        table.image_column(),
        table.require("'label' or 'class'", *CLASS_COLUMNS),
        sides,
        outline := table.column(*_OUTLINE),
        table.column("width"),
        table.column("height"),
        table.column(*_GROUP),
        None if sides or outline is not None else table.column("confidence"),
    )
    default = Task.DETECTION if sides else Task.MULTI_LABEL if outline is None else Task.SEGMENTATION
    task = request.task or default
    finder = table.finder(notes)
    groups: dict[str, _Group] = {}
    for row, part in zip(table.rows, table.parts(notes), strict=True):
        if part is Part.TEST:
            notes.count(TEST_LEFT_OUT, row.location)
            with suppress(BadAnnotation):  # an image that is named, if it is there
                table.image(row, columns.image, finder)
            continue
        # Rows of no image stay apart, each a fault.
        key = row.cells[columns.image] if columns.image < len(row.cells) else ""
        groups.setdefault(key or row.location, _Group([], part)).rows.append(row)
    is_open_images = table.has("imageid") and table.has("labelname")
    table.count_unused(notes)
    read = partial(
        _image,
        table=table,
        columns=columns,
        descriptions=_class_descriptions(table.file.parent) if is_open_images else {},
        is_fraction=_largest(table, sides) < PIXELS_FROM,
        finder=finder,
        notes=notes,
    )
    return notes.finish(task, to_entries(request.progress(list(groups.values())), _Group.location, read, task, notes))


def _image(
    group: _Group,
    table: CsvTable,
    columns: _Columns,
    descriptions: Mapping[str, str],
    is_fraction: bool,
    finder: ImageFinder,
    notes: ConversionNotes,
) -> AnnotatedImage:
    first = group.rows[0]
    image = table.image(first, columns.image, finder)
    stated = [
        _number(table.cell(first, column) or "0", "width and height") for column in (columns.width, columns.height)
    ]
    size_wh, frame_wh = frame_size(image, (stated[0], stated[1]), notes)
    objects = []
    for row in group.rows:
        try:
            marked = _object(row, table, columns, descriptions, frame_wh if is_fraction else (1.0, 1.0), notes)
            objects += [marked] if marked is not None else []
        except BadAnnotation as error:
            notes.fault(row.location, str(error))
    return AnnotatedImage(image, size_wh, frame_wh, objects, group.part)


def _object(
    row: CsvRow,
    table: CsvTable,
    columns: _Columns,
    descriptions: Mapping[str, str],
    scale_wh: tuple[float, float],
    notes: ConversionNotes,
) -> MarkedObject | None:
    """The object of a row; None for a row that says that its image has none, or not this one."""
    name = table.cell(row, columns.label)
    texts = [table.cell(row, column) for column in columns.sides]
    outline = table.cell(row, columns.outline)
    if columns.confidence is None and not any((name, outline, *texts)):
        return None
    if columns.confidence is not None and _number(table.cell(row, columns.confidence), "Confidence") == 0:
        return None
    if not name:
        raise BadAnnotation(f"must name a class, but {table.header[columns.label]!r} is empty")
    if descriptions and name not in descriptions:
        raise BadAnnotation(f"the class {name!r} must be one of class-descriptions, but is none")
    label = descriptions.get(name, name)
    is_crowd = table.cell(row, columns.group).lower() in ("1", "true")
    polygons = _polygons(outline, row.location, notes) if outline else []
    if not columns.sides:
        return MarkedObject(row.location, label, polygons=polygons, is_crowd=is_crowd)
    left, top, right, bottom = (
        _number(text, table.header[column]) * scale_wh[index % 2]
        for index, (text, column) in enumerate(zip(texts, columns.sides, strict=True))
    )
    return MarkedObject(row.location, label, (left, top, right, bottom), polygons, is_crowd)


def _polygons(text: str, location: str, notes: ConversionNotes) -> list[list[float]]:
    """The outer rings of a polygon or of several, without their last point, which is the first one again."""
    rings = [_RING.findall(polygon) for polygon in _POLYGON.findall(text)]
    if not text.upper().startswith(("POLYGON", "MULTIPOLYGON")) or not rings:
        raise BadAnnotation(f"an outline must be POLYGON ((x y, …)), but got {text[:40]!r}")
    if any(len(holes) for _, *holes in rings):
        notes.count("object with holes, which polygons cannot have: filled", location)
    points = [[point.split() for point in outer.split(",")] for outer, *_ in rings]
    return [[_number(value, "a coordinate") for point in ring[:-1] for value in point[:2]] for ring in points]


def _class_descriptions(folder: Path) -> dict[str, str]:
    """Class names by their ids: `/m/011k07,Tortoise`."""
    names: dict[str, str] = {}
    for file in sorted(folder.glob("*class-descriptions*.csv")):
        try:
            lines = csv.reader(io.StringIO(read_text(file), newline=""))
            names |= {cells[0].strip(): cells[1].strip() for cells in lines if len(cells) > 1}
        except (BadText, csv.Error) as error:
            message = f"must be a CSV file, but: {error}"
            raise source_refused(file, message) from error
    return names


def _largest(table: CsvTable, columns: Sequence[int]) -> float:
    """The largest number in columns of boxes; what is no number is a fault in its turn."""
    cells = (row.cells[column] for row in table.rows for column in columns if column < len(row.cells))
    return max((float(cell) for cell in cells if _is_number(cell)), default=0.0)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(text: str, name: str) -> float:
    if not _is_number(text):
        raise BadAnnotation(f"{name} must be a number, but got {text!r}")
    return float(text)
