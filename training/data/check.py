"""The check of a data folder: every fault of its label files and images, and a summary of its contents."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clearsight.errors import BadImage, Fault, InvalidData
from clearsight.files import real_paths
from clearsight.images.decode import decode_image
from clearsight.images.size import read_file_header
from clearsight.tasks import Task
from clearsight.training.data.class_names import doubtful_names
from clearsight.training.data.records import Box, Instance, Record
from clearsight.training.data.split import learnable_names, overlap_warnings, split_warnings
from clearsight.training.data.table import Table, load_table, read_table

__all__ = ["DataReport", "Survey", "check_folder", "survey_images"]


@dataclass(frozen=True, slots=True)
class Survey:
    """Sizes and faults of the images of a table, from their headers."""

    sizes_wh: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Upright size in pixels of each readable image."""
    turned: set[Path] = field(default_factory=set)
    """Images that their orientation turns or mirrors without their size showing it."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    """Reason for each missing or unreadable image."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """The result of a check. `faults` is empty for good data."""

    table: Table | None
    survey: Survey
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """The report as plain data, for `--output json`."""
        document: dict[str, Any] = {"valid": not self.faults}
        if self.table is not None:
            document |= _summary(self.table, self.survey)
        faults = [{"code": fault.code, "target": fault.target, "message": fault.message} for fault in self.faults]
        return {**document, "warnings": list(self.warnings), "faults": faults}


def check_folder(
    folder: Path,
    task: Task,
    target_column: str,
    datastores: Mapping[str, Path],
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
    is_decoded: bool = False,
    validation: Path | None = None,
) -> DataReport:
    """Check a data folder as a job would read it, and open the header of every image, or decode it whole.

    `progress` wraps the list of images while it is walked. Of the folder `validation`, whose records validate what
    those of `folder` train, the label files alone are read.
    """
    try:
        table, faults = read_table(folder, task, target_column, datastores)
        other = None if validation is None else load_table(validation, task, target_column, datastores)
    except InvalidData as error:
        return DataReport(None, Survey(), error.faults, ())
    survey = survey_images(table.records, progress, is_decoded)
    sources = {record.image: record.source for record in table.records}
    faults += [Fault("BAD_DATA", sources[image], f"{image}: {why}") for image, why in survey.unreadable.items()]
    about_split: list[str] = []
    if other is not None:
        about_split = [
            warning
            for warnings in (split_warnings, overlap_warnings)
            for warning in warnings(table.records, other.records)
        ]
    return DataReport(table, survey, tuple(faults), (*table.warnings, *_warnings(table, survey), *about_split))


def survey_images(
    records: Iterable[Record],
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
    is_decoded: bool = False,
) -> Survey:
    """Read every image once: its header, or all of it, which finds files that were cut off."""
    survey = Survey()
    for image in progress(list(dict.fromkeys(record.image for record in records))):
        try:
            header = read_file_header(image)
            if is_decoded:
                decode_image(image.read_bytes())
        except (OSError, BadImage) as error:
            survey.unreadable[image] = str(error)
        else:
            height, width = header.upright_hw
            survey.sizes_wh[image] = (width, height)
            if header.orientation != 1 and not header.is_told_by_size:
                survey.turned.add(image)
    return survey


def _warnings(table: Table, survey: Survey) -> list[str]:
    """Sentences on facts that no job refuses and that the author of the data should know."""
    wrong = [
        record.source
        for record in table.records
        if (size_wh := survey.sizes_wh.get(record.image)) is not None
        for hint in [(record.size_hint.width, record.size_hint.height)]
        if any(stated not in (None, side) for stated, side in zip(hint, size_wh, strict=True))
    ]
    warnings = []
    if wrong:
        warnings.append(f"image_details disagree with the file in {len(wrong)} record(s), first {wrong[0]}: files win")
    turned = [
        record for record in table.records if record.image in survey.turned and (record.boxes or record.instances)
    ]
    if turned:
        warnings.append(
            f"{len(turned)} record(s), first {turned[0].source}, have a picture that its orientation turns or mirrors, "
            "which its size does not show: labels must be for the upright picture"
        )
    warnings += doubtful_names(name for record in table.records for name in record.labels)
    counts = Counter(real_paths(record.image for record in table.records))
    repeated = [image for image, count in counts.items() if count > 1]
    if repeated:
        warnings.append(f"{len(repeated)} picture(s) stand in several records, first {repeated[0]}")
    if table.records and not any(map(learnable_names, table.records)):
        warnings.append("no picture shows anything to learn: no labels, or crowds alone")
    return warnings


def _summary(table: Table, survey: Survey) -> dict[str, Any]:
    counts = Counter(label for record in table.records for label in record.labels)
    document: dict[str, Any] = {
        "task": table.task,
        "num_records": len(table.records),
        "records_per_class": dict(sorted(counts.items())),
    }
    if not table.task.is_classification:
        objects: list[Box | Instance] = []
        for record in table.records:
            objects += [*record.boxes, *record.instances]
        document["num_objects"] = len(objects)
        document["objects_per_class"] = dict(sorted(Counter(item.label for item in objects).items()))
        document["num_crowd_objects"] = sum(item.is_crowd for item in objects)
    if not all(record.labels for record in table.records):
        document["num_records_without_label"] = sum(not record.labels for record in table.records)
    sizes = sorted(survey.sizes_wh.values(), key=lambda size: size[0] * size[1])
    if sizes:
        document["image_sizes"] = {
            name: f"{width}x{height}"
            for name, (width, height) in (
                ("smallest", sizes[0]),
                ("median", sizes[len(sizes) // 2]),
                ("largest", sizes[-1]),
            )
        }
    return document
