"""The data of a job: `training_data`, `validation_data`, `validation_data_size`, `target_column_name`.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification ("Training or validation
data"). Azure's loader refuses the documented `description`; it is accepted and ignored here.
"""

from dataclasses import dataclass
from typing import Final

from clearsight.documents.section import Section, number, one_of, text
from clearsight.tasks import Task

__all__ = ["DataInput", "DataSection", "read_data"]

_INPUT_MODES: Final = ("direct", "download", "ro_mount", "eval_mount", "eval_download")


@dataclass(frozen=True, slots=True)
class DataInput:
    """A data folder as the job names it: a path relative to the job file, a URL, or `azureml:<name>:<version>`."""

    path: str


@dataclass(frozen=True, slots=True)
class DataSection:
    """Everything a job says about its data."""

    task: Task
    target_column: str
    training: DataInput
    validation: DataInput | None = None
    validation_size: float | None = None
    """Share of the training records, in (0, 1), held out when there is no validation input; None: Azure's 0.2."""


def read_data(top: Section, task: Task | None, warnings: list[str]) -> DataSection | None:
    """Read the data keys of a job; None when one that is needed is missing or faulty."""
    target = top.take("target_column_name", text, required=True)
    training = _read_input(top, "training_data", required=True)
    validation = _read_input(top, "validation_data")
    size = top.take("validation_data_size", number(0, 1, low_open=True, high_open=True))
    if size is not None and validation is not None:
        warnings.append("validation_data_size: has no effect beside validation_data")
    for key in ("test_data", "test_data_size"):
        if top.raw(key) is not None:
            warnings.append(f"{key}: Azure's image jobs do not use it; ignored")
    if task is None or target is None or training is None:
        return None
    return DataSection(task, target, training, validation, size)


def _read_input(top: Section, key: str, *, required: bool = False) -> DataInput | None:
    value = top.raw(key)
    if value is None:
        if required:
            top.fault("MISSING_KEY", key, "is required")
        return None
    if isinstance(value, str) and value.strip().startswith("${{"):
        top.fault("BAD_TYPE", key, f"{value!r} is a binding of a pipeline; give the data itself: {{path: FOLDER}}")
        return None
    section = top.mapping(key)
    if section is None:
        return None
    section.take("type", one_of(("mltable",)))
    section.take("mode", one_of(_INPUT_MODES))  # every mode means the same on one machine
    path = section.take("path", text, required=True)
    section.ignore("datastore", "path_on_compute", "description")
    section.finish()
    return None if path is None else DataInput(path)
