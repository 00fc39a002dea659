"""A table of labelled images: loading it, and its classes.

`load_table` turns a data folder (label files + `MLTable`) into records and raises every fault at once.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clearsight.documents.data.label_lines import Row
from clearsight.documents.data.locations import BadLocation, resolve_location
from clearsight.documents.data.mltable import MLTableRows, read_mltable
from clearsight.errors import BadImage, Fault, InvalidData
from clearsight.images.size import read_size
from clearsight.tasks import Task
from clearsight.training.data.keys import likely_meant
from clearsight.training.data.records import BadRecord, Box, Instance, Record, parse_labels, parse_size_hint

__all__ = [
    "MAX_LISTED_FAULTS",
    "MAX_UNREADABLE_SHARE",
    "MIN_TRAINING_IMAGES",
    "Box",
    "Instance",
    "Record",
    "Table",
    "class_names",
    "load_table",
    "read_table",
    "require_trainable",
]

MAX_LISTED_FAULTS: Final = 20
MAX_UNREADABLE_SHARE: Final = 0.05
"""Share of the images of a table, or of a split of it, that may be missing or damaged; a trial leaves them out."""

MIN_TRAINING_IMAGES: Final = 10
"""Azure refuses a job with fewer training images.
https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-image-models
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Labelled images of one data folder, in file order."""

    folder: Path
    task: Task
    image_column: str
    target_column: str
    records: list[Record]
    warnings: tuple[str, ...] = ()
    """One sentence for each kind of repaired, dropped or ignored value."""


def load_table(folder: Path, task: Task, target_column: str, datastores: Mapping[str, Path]) -> Table:
    """Load a data folder; image files are not opened, except for the headers of those with boxes or polygons.

    Raises `InvalidData` with the first `MAX_LISTED_FAULTS` faults and the number of the others.
    """
    table, faults = read_table(folder, task, target_column, datastores)
    if faults:
        listed = list(faults[:MAX_LISTED_FAULTS])
        if len(faults) > len(listed):
            rest = f"and {len(faults) - len(listed)} more faults; `clearsight data check {folder}` lists all"
            listed.append(Fault("BAD_DATA", str(folder), rest))
        raise InvalidData(f"data folder {folder}", listed)
    return table


def read_table(
    folder: Path, task: Task, target_column: str, datastores: Mapping[str, Path]
) -> tuple[Table, list[Fault]]:
    """Load what can be loaded, and list all faults, in file order.

    Raises `InvalidData` when there is nothing to read: no folder, no `MLTable` file, or an unusable one.
    """
    rows = read_mltable(folder, datastores)
    faults = list(rows.faults)
    records: list[Record] = []
    tally: Counter[str] = Counter()
    if rows.rows and not any(target_column in row.values for row in rows.rows):
        faults.append(_absent_target(folder, target_column, rows))
    else:
        for row in rows.rows:
            record = _parse_row(row, rows.image_column, task, target_column, datastores, tally, faults)
            if record is not None:
                records.append(record)
    if not rows.rows and not faults:
        faults.append(Fault("BAD_DATA", str(folder), "must hold at least one record, but the label files are empty"))
    warnings = [*rows.warnings, *(f"{folder}: {what}: {count}" for what, count in tally.items())]
    return Table(folder, task, rows.image_column, target_column, records, tuple(warnings)), faults


def _absent_target(folder: Path, target_column: str, rows: MLTableRows) -> Fault:
    columns = sorted({key for row in rows.rows for key in row.values} - {rows.image_column})
    message = f"the target column {target_column!r} is in no record; columns are {', '.join(columns) or 'none'}"
    return Fault("BAD_DATA", str(folder), message)


def _parse_row(
    row: Row,
    image_column: str,
    task: Task,
    target_column: str,
    datastores: Mapping[str, Path],
    tally: Counter[str],
    faults: list[Fault],
) -> Record | None:
    """One record, or None after its faults were listed: a row can have one per column."""
    num_faults = len(faults)
    image: Path | None = None
    try:
        image = _image_path(row, image_column, datastores)
    except BadLocation as error:
        faults.append(Fault(error.code, row.source, str(error)))
    try:
        if target_column not in row.values:
            raise BadRecord(f"the target column {target_column!r} is missing")
        labels = parse_labels(row.values[target_column], task, functools.cache(lambda: _size_wh(image)), tally)
    except BadRecord as error:
        faults.append(Fault("BAD_DATA", row.source, str(error)))
    if len(faults) > num_faults or image is None:
        return None
    hint = parse_size_hint(row.values.get("image_details"))
    return Record(image, labels.names, row.source, labels.boxes, labels.instances, hint)


def _image_path(row: Row, image_column: str, datastores: Mapping[str, Path]) -> Path:
    url = row.values.get(image_column)
    if not isinstance(url, str):
        meant = likely_meant(tuple(row.values), (image_column,))
        hint = "".join(f"; the record has {key!r}, is {image_column!r} meant?" for key, _ in meant[:1])
        raise BadLocation("BAD_DATA", f"{image_column} must be the path or URL of a picture, but got {url!r}{hint}")
    return resolve_location(url, row.file.parent, datastores)


def _size_wh(image: Path | None) -> tuple[int, int] | None:
    """Size in pixels from the file's header; None when it cannot be read."""
    if image is None:
        return None
    try:
        return read_size(image)
    except BadImage:
        return None


def class_names(train: Table, validation: Table | None = None) -> tuple[str, ...]:
    """The classes of both tables, sorted by code point; the position of a name is its class id."""
    tables = [train] if validation is None else [train, validation]
    return tuple(sorted({label for table in tables for record in table.records for label in record.labels}))


def require_trainable(train: Table, validation: Table | None = None, min_images: int = MIN_TRAINING_IMAGES) -> None:
    """Raise `InvalidData` unless there are enough images (before any split) and classes to train on."""
    faults = []
    if len(train.records) < min_images:
        message = f"training needs at least {min_images} pictures, but got {len(train.records)}"
        faults.append(Fault("BAD_DATA", str(train.folder), message))
    names = class_names(train, validation)
    min_classes = 2 if train.task is Task.MULTI_CLASS else 1
    if len(names) < min_classes:
        found = ", ".join(names) or "none"
        message = f"{train.task} needs at least {min_classes} different labels, but got {found}"
        faults.append(Fault("BAD_DATA", str(train.folder), message))
    if faults:
        raise InvalidData(f"data folder {train.folder}", faults)
