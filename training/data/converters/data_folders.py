"""The data folders of a job: how entries are split, copied and written.

The names are those of Azure's own converters: `training-mltable-folder/train_annotations.jsonl` and
`validation-mltable-folder/validation_annotations.jsonl`, each beside its `MLTable` file.
https://github.com/Azure/azureml-examples, sdk/python/jobs/automl-standalone-jobs/jsonl-conversion
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from clearsight.documents.data.mltable import MLTABLE_TEXT
from clearsight.documents.data.text import BadText, read_text
from clearsight.errors import Fault, InvalidData
from clearsight.files import write_atomically
from clearsight.images.size import read_file_header
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Entry, Progress
from clearsight.training.data.converters.finder import KnownImages
from clearsight.training.data.converters.parts import Part
from clearsight.training.data.records import Record
from clearsight.training.data.split import split_indices, split_warnings

__all__ = [
    "CHANGES",
    "DEFAULT_VALIDATION_FRACTION",
    "TRAINING_FOLDER",
    "VALIDATION_FOLDER",
    "copy_images",
    "split_as_given",
    "split_by_fraction",
    "split_by_lists",
    "split_every",
    "warnings_of_split",
    "write_changes",
    "write_folders",
    "write_table",
]

DEFAULT_VALIDATION_FRACTION: Final = 0.2
TRAINING_FOLDER: Final = "training-mltable-folder"
VALIDATION_FOLDER: Final = "validation-mltable-folder"
CHANGES: Final = "on-fault.txt"
"""File with what was left out or cut."""
ANNOTATIONS: Final = {TRAINING_FOLDER: "train_annotations.jsonl", VALIDATION_FOLDER: "validation_annotations.jsonl"}

_AZURE_FORMATS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "jpeg": ("jpeg", "jpg", "jpe", "jfif"),
        "png": ("png",),
        "bmp": ("bmp",),
        "tiff": ("tiff", "tif"),
    }
)
"""Values of `image_details.format` that Azure's schema lists, by the format of the file.
https://learn.microsoft.com/azure/machine-learning/reference-automl-images-schema
"""


def split_every(entries: Sequence[Entry], every: int) -> tuple[list[Entry], list[Entry]]:
    """Split entries: every `every`-th, from the first on, is for validation, as in Azure (`index % 5 == 0`)."""
    if every < 2 or len(entries) < 2:
        message = f"at least 2 pictures and a step of at least 2 are needed, but got {len(entries)} and {every}"
        raise InvalidData("split", [Fault("BAD_DATA", "--validation-every", message)])
    train = [entry for index, entry in enumerate(entries) if index % every]
    return train, [entry for index, entry in enumerate(entries) if index % every == 0]


def split_as_given(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]] | None:
    """The parts of entries that their source has split; None when it names none that validate."""
    train, validation = (
        [entry for entry in entries if entry.part is part] for part in (Part.TRAINING, Part.VALIDATION)
    )
    return (train, validation) if train and validation else None


def split_by_fraction(
    entries: Sequence[Entry], fraction: float | None, seed: int, task: Task
) -> tuple[list[Entry], list[Entry]]:
    """Split entries by a drawn share for validation, see `split_indices`.

    None: `DEFAULT_VALIDATION_FRACTION`, or more where a class with two images would not validate otherwise.
    """
    train, validation = split_indices(
        _records(entries),
        DEFAULT_VALIDATION_FRACTION if fraction is None else fraction,
        seed,
        task,
        validates_every_class=fraction is None,
    )
    return [entries[index] for index in train], [entries[index] for index in validation]


def warnings_of_split(train: Sequence[Entry], validation: Sequence[Entry]) -> list[str]:
    """Sentences on the classes of the parts, see `split_warnings`."""
    return split_warnings(_records(train), _records(validation))


def _records(entries: Sequence[Entry]) -> list[Record]:
    """Records with the classes of the entries, crowds left out, and nothing else of their labels."""
    return [Record(entry.image, _classes(entry.label), "") for entry in entries]


def _classes(label: Any) -> tuple[str, ...]:
    if isinstance(label, str):
        return (label,)
    if isinstance(label, bytes):
        label = [item["label"] for item in orjson.loads(label) if not item.get("isCrowd")]
    return tuple(dict.fromkeys(label))


def split_by_lists(
    entries: Sequence[Entry],
    validation_list: Path,
    training_list: Path | None,
    passed_over: list[str] | None = None,
) -> tuple[list[Entry], list[Entry]]:
    """Split entries by lists: one names the images for validation, the other those for training, by default all others.

    A list has one image per line, by its file name with or without suffix, as in VOC's `ImageSets`, or by a path; see
    `KnownImages`. Names of no image are faults, or go to `passed_over` if that is given. Raises `InvalidData` for
    faults, names of several images, images in both lists, and a split without images.
    """
    images = KnownImages([entry.image for entry in entries])
    faults: list[Fault] = []
    validating = _listed(validation_list, images, faults, passed_over)
    training = set(range(len(entries))) - validating
    if training_list is not None:
        training = _listed(training_list, images, faults, passed_over)
        if both := training & validating:
            message = f"must name no picture of {validation_list} too, but both name {entries[min(both)].image.name!r}"
            faults.append(Fault("BAD_DATA", str(training_list), message))
    if not faults and not (training and validating):
        message = f"both parts must have pictures, but {len(training)} train and {len(validating)} validate"
        faults.append(Fault("BAD_DATA", str(validation_list), message))
    if faults:
        raise InvalidData("split", faults)
    return [entries[index] for index in sorted(training)], [entries[index] for index in sorted(validating)]


def _listed(file: Path, images: KnownImages, faults: list[Fault], passed_over: list[str] | None) -> set[int]:
    """Indices of the images that a list names."""
    try:
        lines = enumerate(read_text(file).splitlines(), 1)
    except BadText as error:
        faults.append(Fault("BAD_DATA_REF", str(file), str(error)))
        return set()
    names = {line.strip(): number for number, line in lines if line.strip()}
    listed: set[int] = set()
    for name, number in names.items():
        found = images.find(name)
        listed.update(found)
        if len(found) == 1:
            continue
        place = f"{file}: line {number}"
        message = f"must name one labelled picture, but {len(found) or 'none'} have the name {name!r}"
        if found or passed_over is None:
            faults.append(Fault("BAD_DATA", place, message))
        else:
            passed_over.append(f"{place}: {message}")
    return listed


def copy_images(entries: Sequence[Entry], target: Path, progress: Progress = iter) -> list[Entry]:
    """Copy every image to `target`; equal file names from different folders get the folder's name in front."""
    folders: dict[str, set[Path]] = defaultdict(set)
    for entry in entries:
        folders[entry.image.name].add(entry.image.parent.resolve())
    copies, taken = [], dict[Path, Path]()
    for entry in entries:
        is_ambiguous = len(folders[entry.image.name]) > 1
        copy = target / (f"{entry.image.parent.name}_{entry.image.name}" if is_ambiguous else entry.image.name)
        if taken.setdefault(copy, entry.image) != entry.image:
            message = f"{taken[copy]} and {entry.image} would both become {copy.name}; rename one, or leave out --copy"
            raise InvalidData(f"{target}", [Fault("BAD_DATA", str(entry.image), message)])
        copies.append(replace(entry, image=copy))
    target.mkdir(parents=True, exist_ok=True)
    for copy, image in progress(list(taken.items())):
        shutil.copyfile(image, copy)
    return copies


def write_folders(output: Path, train: Sequence[Entry], validation: Sequence[Entry]) -> dict[str, int]:
    """Write both data folders below `output`; return the number of records of each."""
    write_table(output / TRAINING_FOLDER, train)
    write_table(output / VALIDATION_FOLDER, validation)
    return {TRAINING_FOLDER: len(train), VALIDATION_FOLDER: len(validation)}


def write_changes(output: Path, changes: Sequence[str]) -> None:
    """Write the list of what was left out or cut, one per line; remove that of an earlier conversion."""
    if changes:
        write_atomically(output / CHANGES, "".join(f"{change}\n" for change in changes))
    else:
        (output / CHANGES).unlink(missing_ok=True)


def write_table(folder: Path, entries: Sequence[Entry]) -> None:
    """Write one data folder: the label file, then the `MLTable` that makes it complete.

    Image paths are relative to the folder where possible, so that the tree can be moved as a whole.
    """
    file_name = ANNOTATIONS[folder.name]
    lines = [orjson.dumps(_document(folder, entry)) for entry in entries]
    write_atomically(folder / file_name, b"".join(line + b"\n" for line in lines))
    write_atomically(folder / "MLTable", MLTABLE_TEXT.format(file_name=file_name))


def _document(folder: Path, entry: Entry) -> Mapping[str, Any]:
    document: dict[str, Any] = {"image_url": _location(folder, entry.image)}
    if entry.size_wh is not None:
        width, height = entry.size_wh
        details = {"width": width, "height": height}
        image_format = _format(entry.image)
        document["image_details"] = details if image_format is None else {"format": image_format, **details}
    label = orjson.Fragment(entry.label) if isinstance(entry.label, bytes) else entry.label
    return {**document, "label": label}


def _format(image: Path) -> str | None:
    """The suffix of a file, or the name of its format where the suffix is of another one.

    None for formats that Azure's schema does not list: its readers refuse them.
    """
    suffix, image_format = image.suffix[1:].lower(), read_file_header(image).format
    names = _AZURE_FORMATS.get(image_format)
    return None if names is None else suffix if suffix in names else names[0]


def _location(folder: Path, image: Path) -> str:
    try:
        path = os.path.relpath(image.resolve(), folder.resolve())
    except ValueError:  # the image is on another drive
        return str(image.resolve())
    # A first segment with a colon would read as the scheme of a URL.
    return path if ":" not in path.split("/")[0] else f"./{path}"
