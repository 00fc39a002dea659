"""A CSV list of images with their classes, or with their boxes.

The header says which. `image` or `filename`, and `label` (one class) or `labels` (several, separated by spaces or by
`--label-separator`); or a column of 0 and 1 for each class. Tables with boxes are in
`clearsight.training.data.converters.csv_boxes`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from clearsight.errors import Fault, InvalidData
from clearsight.tasks import Task
from clearsight.training.data.converters.csv_boxes import has_objects, read_objects
from clearsight.training.data.converters.csv_table import CLASS_COLUMNS, CsvRow, CsvTable
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, Entry
from clearsight.training.data.converters.objects import BadAnnotation
from clearsight.training.data.converters.parts import TEST_LEFT_OUT, Part

__all__ = ["read_csv"]

_SEVERAL_LABELS: Final = ("labels",)
_MARKS: Final[Mapping[str, bool]] = MappingProxyType({"0": False, "1": True, "0.0": False, "1.0": True})


def read_csv(request: ConversionRequest) -> Conversion:
    """One entry per row, or per image for a table of objects, in file order.

    The task is detection for boxes; multi-label for a column `labels`, a label separator, or columns of 0 and 1;
    else multi-class; unless the request names one. Multi-label: a row may hold no label. Raises `InvalidData` with
    every row that has surplus cells, lacks a label, or names an image that does not exist.
    """
    table = CsvTable.read(request.source)
    if has_objects(table):
        return read_objects(table, request)
    notes = ConversionNotes(request)
    image_column = table.image_column()
    parts = table.parts(notes)
    task, labels_of = _labels(table, request)
    table.count_unused(notes)
    finder = table.finder(notes)
    entries = []
    for row, part in request.progress(list(zip(table.rows, parts, strict=True))):
        try:
            image = table.image(row, image_column, finder)
            label = labels_of(row)
        except BadAnnotation as error:
            notes.fault(row.location, str(error))
            continue
        if part is Part.TEST:
            notes.count(TEST_LEFT_OUT, row.location)
        else:
            entries.append(Entry(image, label, location=row.location, part=part))
    if task is Task.MULTI_LABEL and request.label_separator is None:
        _count_split_names(entries, notes)
    if not table.rows:
        notes.source_fault(str(request.source), "must hold at least one row below the header")
    return notes.finish(task, entries)


def _labels(table: CsvTable, request: ConversionRequest) -> tuple[Task, Callable[[CsvRow], str | list[str]]]:
    """The task of a list, and what reads the label of a row, which may raise `BadAnnotation`.

    Raises `InvalidData` when the header names no labels, or the task is one of objects.
    """
    if request.task is not None and not request.task.is_classification:
        rule = f"the header must name xmin, ymin, xmax and ymax for --task {request.task}"
        message = f"{rule}, but got {', '.join(table.header)}"
        raise InvalidData(str(table.file), [Fault("BAD_DATA", f"{table.file}:1", message)])
    if columns := _class_columns(table):
        task = request.task or Task.MULTI_LABEL
        return task, partial(_marked_classes, table=table, columns=columns, task=task)
    several = table.column(*_SEVERAL_LABELS)
    column = table.require("'labels' or 'label'", *CLASS_COLUMNS) if several is None else several
    separator = request.label_separator
    task = request.task or (Task.MULTI_CLASS if several is None and separator is None else Task.MULTI_LABEL)
    if task is Task.MULTI_CLASS:
        return task, partial(_one_class, table=table, column=column)
    return task, partial(_separated_classes, table=table, column=column, separator=separator)


def _class_columns(table: CsvTable) -> list[int]:
    """The columns of a table that has one of 0 and 1 for each class; none for another table."""
    if table.column(*_SEVERAL_LABELS, *CLASS_COLUMNS) is not None or not table.rows:
        return []
    columns = [index for index, name in enumerate(table.header) if name and index not in table.used]
    first = table.rows[0].cells
    if len(columns) < 2 or not all(index < len(first) and first[index] in _MARKS for index in columns):
        return []
    table.used.update(columns)
    return columns


def _marked_classes(row: CsvRow, table: CsvTable, columns: list[int], task: Task) -> str | list[str]:
    names = []
    for column in columns:
        cell = table.cell(row, column)
        if cell not in _MARKS:
            rule = f"column {table.header[column]!r} must hold 0 or 1, as in the first row"
            raise BadAnnotation(f"{rule}, but got {cell!r}")
        if _MARKS[cell]:
            names.append(table.header[column])
    if task is Task.MULTI_LABEL:
        return names
    if len(names) != 1:
        shown = ", ".join(names) or "none"
        raise BadAnnotation(f"multi-class takes one class per picture, but got {shown}; use --task {Task.MULTI_LABEL}")
    return names[0]


def _one_class(row: CsvRow, table: CsvTable, column: int) -> str:
    name = table.cell(row, column)
    if not name:
        raise BadAnnotation(f"must name a label, but {table.header[column]!r} is empty")
    return name


def _separated_classes(row: CsvRow, table: CsvTable, column: int, separator: str | None) -> list[str]:
    names = (name.strip() for name in table.cell(row, column).split(separator))
    return [name for name in names if name]


def _count_split_names(entries: Sequence[Entry], notes: ConversionNotes) -> None:
    """Count pairs of words that are likely one class name with a space in it, such as `milk bottle`.

    The first word has the second one behind it wherever it stands, and the second word stands behind such words alone,
    and never at the beginning.
    """
    followers: dict[str, set[str]] = defaultdict(set)
    predecessors: dict[str, set[str]] = defaultdict(set)
    locations: dict[tuple[str, str], str] = {}
    for entry in entries:
        for word, following in pairwise(["", *entry.label, ""]):
            followers[word].add(following)
            predecessors[following].add(word)
            locations.setdefault((word, following), entry.location)
    bound = {word for word, others in followers.items() if word and len(others) == 1 and "" not in others}
    for word in sorted(bound):
        [following] = followers[word]
        if predecessors[following] <= bound:
            location = f"{locations[word, following]}: {word} {following}"
            notes.count("words that always follow one another, a class with a space? --label-separator", location)
