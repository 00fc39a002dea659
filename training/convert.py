"""Labelled pictures in other layouts, written as the data folders of a job.

Layouts: one folder per class, and a CSV list (`image,labels` with space-separated labels). The output has the names of
Azure's own converters: `training-mltable-folder/train_annotations.jsonl` and
`validation-mltable-folder/validation_annotations.jsonl`, each beside its `MLTable` file.
https://github.com/Azure/azureml-examples, sdk/python/jobs/automl-standalone-jobs/jsonl-conversion
"""

import csv
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from clearsight.errors import Fault, InvalidData
from clearsight.tasks import Task
from clearsight.training.mltable import MLTABLE_TEXT
from clearsight.training.records import Record
from clearsight.training.table import split_indices
from clearsight.workspace import write_atomically

__all__ = [
    "DEFAULT_VALIDATION_EVERY",
    "TRAINING_FOLDER",
    "VALIDATION_FOLDER",
    "Entry",
    "copy_pictures",
    "read_class_folders",
    "read_csv",
    "split_by_fraction",
    "split_every",
    "write_folders",
    "write_table",
]

DEFAULT_VALIDATION_EVERY: Final = 5
TRAINING_FOLDER: Final = "training-mltable-folder"
VALIDATION_FOLDER: Final = "validation-mltable-folder"
ANNOTATIONS: Final = {TRAINING_FOLDER: "train_annotations.jsonl", VALIDATION_FOLDER: "validation_annotations.jsonl"}
SUFFIXES: Final = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture and the value of its target column, ready for JSON."""

    image: Path
    label: Any
    size_wh: tuple[int, int] | None = None


def read_class_folders(source: Path) -> list[Entry]:
    """One entry per picture in `source/<class>/`, classes and file names in sorted order; other files are passed over.

    Raises `InvalidData` when there is no class folder with pictures.
    """
    if not source.is_dir():
        raise InvalidData(f"{source}", [Fault("BAD_DATA_REF", str(source), "must be a folder with a folder per class")])
    entries = [
        Entry(picture, folder.name)
        for folder in sorted(source.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for picture in sorted(folder.iterdir())
        if picture.suffix.lower() in SUFFIXES and picture.is_file()
    ]
    if not entries:
        message = f"must hold one folder per class with pictures ({', '.join(SUFFIXES)}) in it, but there are none"
        raise InvalidData(f"{source}", [Fault("BAD_DATA", str(source), message)])
    return entries


def read_csv(source: Path, task: Task, images: Path | None = None) -> list[Entry]:
    """One entry per row of a CSV file with a header: column `image` or `filename`, and `label` or `labels`.

    Pictures are sought in `images`, or beside the file. Multi-label: labels are separated by spaces, none is allowed.
    Raises `InvalidData` with every row that is short, lacks a label, or names a picture that does not exist.
    """
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            image_column = _column(lines, ("image", "filename"), source)
            label_column = _column(lines, ("labels", "label"), source)
            rows = [(lines.line_num, row[image_column], row[label_column]) for row in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        message = f"must be a CSV file in UTF-8, but: {error}"
        raise InvalidData(f"{source}", [Fault("BAD_DATA_REF", str(source), message)]) from error
    entries, faults = [], []
    for line, name, text in rows:
        picture = (images or source.parent) / (name or "").strip()
        labels = (text or "").split() if task is Task.MULTI_LABEL else [(text or "").strip()]
        if not (name or "").strip() or not picture.is_file():
            faults.append(Fault("BAD_DATA", f"{source}:{line}", f"must name a picture, but {picture} is no file"))
        elif task is Task.MULTI_CLASS and not labels[0]:
            faults.append(Fault("BAD_DATA", f"{source}:{line}", f"must name a label, but {label_column!r} is empty"))
        else:
            entries.append(Entry(picture, labels if task is Task.MULTI_LABEL else labels[0]))
    if not rows:
        faults.append(Fault("BAD_DATA", str(source), "must hold at least one row below the header"))
    if faults:
        raise InvalidData(f"{source}", faults)
    return entries


def _column(lines: "csv.DictReader[str]", names: Sequence[str], source: Path) -> str:
    header = [name.strip().lower() for name in lines.fieldnames or []]
    for name in names:
        if name in header:
            return (lines.fieldnames or [])[header.index(name)]
    message = f"the header must name a column {' or '.join(map(repr, names))}, but got {', '.join(header) or 'nothing'}"
    raise InvalidData(f"{source}", [Fault("BAD_DATA", f"{source}:1", message)])


def split_every(entries: Sequence[Entry], every: int) -> tuple[list[Entry], list[Entry]]:
    """Every `every`-th entry, from the first on, validates; as in Azure's converters (`index % 5 == 0`)."""
    if every < 2 or len(entries) < 2:
        message = f"at least 2 pictures and a step of at least 2 are needed, but got {len(entries)} and {every}"
        raise InvalidData("split", [Fault("BAD_DATA", "--validation-every", message)])
    train = [entry for index, entry in enumerate(entries) if index % every]
    return train, [entry for index, entry in enumerate(entries) if index % every == 0]


def split_by_fraction(
    entries: Sequence[Entry], fraction: float, seed: int, task: Task
) -> tuple[list[Entry], list[Entry]]:
    """A drawn share of the entries validates; multi-class keeps the share of each class."""
    labels = [(entry.label,) if isinstance(entry.label, str) else () for entry in entries]
    records = [Record(entry.image, label, "") for entry, label in zip(entries, labels, strict=True)]
    train, validation = split_indices(records, fraction, seed, task)
    return [entries[index] for index in train], [entries[index] for index in validation]


def copy_pictures(entries: Sequence[Entry], target: Path) -> list[Entry]:
    """Copy every picture to `target`; equal file names from different folders get the folder's name in front."""
    folders: dict[str, set[Path]] = defaultdict(set)
    for entry in entries:
        folders[entry.image.name].add(entry.image.parent.resolve())
    target.mkdir(parents=True, exist_ok=True)
    copied, taken = [], dict[Path, Path]()
    for entry in entries:
        is_ambiguous = len(folders[entry.image.name]) > 1
        copy = target / (f"{entry.image.parent.name}_{entry.image.name}" if is_ambiguous else entry.image.name)
        if taken.setdefault(copy, entry.image) != entry.image:
            message = f"{taken[copy]} and {entry.image} would both become {copy.name}; rename one, or leave out --copy"
            raise InvalidData(f"{target}", [Fault("BAD_DATA", str(entry.image), message)])
        shutil.copyfile(entry.image, copy)
        copied.append(Entry(copy, entry.label, entry.size_wh))
    return copied


def write_folders(output: Path, train: Sequence[Entry], validation: Sequence[Entry]) -> dict[str, int]:
    """Write both data folders below `output`; return the number of records of each."""
    write_table(output / TRAINING_FOLDER, train)
    write_table(output / VALIDATION_FOLDER, validation)
    return {TRAINING_FOLDER: len(train), VALIDATION_FOLDER: len(validation)}


def write_table(folder: Path, entries: Sequence[Entry]) -> None:
    """Write one data folder: the label file, then the `MLTable` that makes it complete.

    Picture paths are relative to the folder where possible, so that the tree can be moved as a whole.
    """
    file_name = ANNOTATIONS[folder.name]
    lines = [orjson.dumps(_document(folder, entry)) for entry in entries]
    write_atomically(folder / file_name, b"".join(line + b"\n" for line in lines))
    write_atomically(folder / "MLTable", MLTABLE_TEXT.format(file_name=file_name))


def _document(folder: Path, entry: Entry) -> Mapping[str, Any]:
    document: dict[str, Any] = {"image_url": _location(folder, entry.image)}
    if entry.size_wh is not None:
        width, height = entry.size_wh
        document["image_details"] = {"format": entry.image.suffix[1:].lower(), "width": width, "height": height}
    return {**document, "label": entry.label}


def _location(folder: Path, image: Path) -> str:
    try:
        path = os.path.relpath(image.resolve(), folder.resolve())
    except ValueError:  # another drive
        return str(image.resolve())
    # A first segment with a colon would read as the scheme of a URL.
    return path if ":" not in path.split("/")[0] else f"./{path}"
