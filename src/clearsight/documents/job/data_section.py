"""The data of a job: `training_data`, `validation_data`, `validation_data_size`, `target_column_name`.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification ("Training or validation
data"). Azure's loader refuses the documented `description`; it is accepted and ignored here.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic_core import PydanticCustomError

from clearsight.fields import OneOf, Section, Text, broken_rule, refused
from clearsight.tasks import Task

__all__ = ["DataInput", "DataSection", "InputSection"]

_INPUT_MODES: Final = ("direct", "download", "ro_mount", "eval_mount", "eval_download")


@dataclass(frozen=True, slots=True)
class DataInput:
    """A data folder as the job names it: a path relative to the job file, a URL, or `azureml:<name>:<version>`."""

    path: str


@dataclass(frozen=True, slots=True)
class DataSection:
    """The data of a job, and the column and task that it is used for."""

    task: Task
    target_column: str
    training: DataInput
    validation: DataInput | None = None
    validation_size: float | None = None
    """Share of the training records, in (0, 1), held out when there is no validation input; None: Azure's 0.2."""


@dataclass(frozen=True, slots=True)
class InputSection(Section):
    """`training_data` or `validation_data`. On one machine every `mode` means the same."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("datastore", "path_on_compute", "description")

    path: Annotated[str, Text()]
    type: Annotated[str, OneOf(("mltable",))] = "mltable"
    mode: Annotated[str, OneOf(_INPUT_MODES)] = "direct"

    @classmethod
    def no_mapping(cls, value: Any) -> PydanticCustomError:
        if isinstance(value, str) and value.strip().startswith("${{"):
            message = f"{value!r} is a binding of a pipeline; give the data itself: {{path: FOLDER}}"
            return broken_rule("BAD_TYPE", message)
        return refused("BAD_TYPE", "must be a mapping")
