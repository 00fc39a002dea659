"""`training_parameters`: what the user fixed, what Azure's defaults add, and which model can use what."""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Final, Literal

from clearsight.catalogue.models import DEFAULT_MODELS, find_row, models_of
from clearsight.documents.job.hyperparameters import (
    HYPERPARAMETERS,
    Hyperparameter,
    HyperparameterSection,
    Value,
)
from clearsight.documents.job.search_space import Expression, SubSpace
from clearsight.errors import Fault
from clearsight.fields import Integer, Number, OneOf, Section, Text, Truth, read, shown
from clearsight.tasks import Task

__all__ = [
    "AdvancedSettings",
    "Origin",
    "Resolved",
    "candidate_models",
    "parameters_class",
    "read_parameters",
    "resolve_parameters",
    "used_hyperparameters",
]

Origin = Literal["user", "azure-default", "model-default", "machine"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A hyperparameter's value in a trial, and who chose it."""

    value: Value | None
    origin: Origin


_MAX_PROCESSES: Final = 64
_Flag = Annotated[bool, Truth()]


@dataclass(frozen=True, slots=True)
class AdvancedSettings(Section):
    """`advanced_settings`; names with `x_` are extensions, with which a job file stays valid for Azure."""

    apply_mosaic_for_yolo: _Flag = True
    apply_automl_train_augmentations: _Flag = True
    """Detection and segmentation only."""
    stream_image_files: _Flag = False
    """Changes nothing for images in local folders."""
    x_pretrained: _Flag = True
    """False starts from random weights."""
    x_weights_dir: Annotated[str, Text()] | None = None
    """Folder with pretrained weights, relative to the job file; takes precedence over `CLEARSIGHT_WEIGHTS`."""
    x_min_crop_scale: Annotated[float, Number(0.01, 1.0)] = 0.08
    """Classification: smallest share of an image's area that a training crop covers. Small data sets without
    pretrained weights learn faster from milder crops (0.5 to 0.7)."""
    x_light_detector: _Flag = False
    """Faster and Mask R-CNN: use few proposals per image, for images with few objects on a CPU."""
    x_proposals_per_loss: Annotated[int, Integer(4, 512)] | None = None
    """Faster and Mask R-CNN: proposals of an image that the loss of the second stage is taken over, at most a quarter
    of them on objects; default: 512, with `x_light_detector` 32."""
    x_model_size: Annotated[str, OneOf(("nano",))] | None = None
    """yolov5: `nano`, a size smaller than those of Azure's `model_size`, which it overrides."""
    x_num_processes: Annotated[int, Integer(1, _MAX_PROCESSES)] | None = None
    """On a machine without a GPU: number of processes that train a model together, each on its own batches."""


@functools.cache
def parameters_class(task: Task) -> type[HyperparameterSection]:
    """The section `training_parameters` of a task; `advanced_settings` stays as it is written."""
    keys: list[Any] = [
        (name, Annotated[Any, row.rule] | None, field(default=None))
        for name, row in HYPERPARAMETERS.items()
        if row.is_known_to(task)
    ]
    made: type[HyperparameterSection] = make_dataclass(
        "TrainingParameters", keys, bases=(HyperparameterSection,), namespace={"task": task}, frozen=True
    )
    return made


_PATH: Final = "training_parameters"
_OF_DETECTORS: Final = (
    "apply_mosaic_for_yolo",
    "apply_automl_train_augmentations",
    "x_light_detector",
    "x_proposals_per_loss",
    "x_model_size",
)


def read_parameters(
    value: Mapping[str, Any], task: Task, faults: list[Fault], warnings: list[str]
) -> tuple[dict[str, Value], AdvancedSettings]:
    """Read `training_parameters`; what is unset, or set to `none`, is left out of the first result."""
    section = read(parameters_class(task), value, _PATH, faults)
    parameters = {} if section is None else section.values(value)
    advanced = parameters.pop("advanced_settings", None)
    if advanced is None:
        return parameters, AdvancedSettings()
    return parameters, _read_advanced_settings(advanced, task, faults, warnings)


def _read_advanced_settings(value: Any, task: Task, faults: list[Fault], warnings: list[str]) -> AdvancedSettings:
    """Read `advanced_settings`: a JSON object as text, as in Azure, or a mapping. Unknown settings are warnings."""
    path = f"{_PATH}.advanced_settings"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            faults.append(Fault("BAD_ADVANCED_SETTINGS", path, f"must hold a JSON object: {error}"))
            return AdvancedSettings()
    if not isinstance(value, Mapping):
        faults.append(Fault("BAD_ADVANCED_SETTINGS", path, f"must hold a JSON object, but got {shown(value)}"))
        return AdvancedSettings()
    found: list[Fault] = []
    settings = read(AdvancedSettings, value, path, found, value_code="BAD_ADVANCED_SETTINGS")
    warnings += [f"{fault.target}: {fault.message}; ignored" for fault in found if fault.code == "UNKNOWN_KEY"]
    faults += [fault for fault in found if fault.code != "UNKNOWN_KEY"]
    if task.is_classification:
        warnings += [f"{path}.{key}: has no effect on classification" for key in _OF_DETECTORS if key in value]
    return settings or AdvancedSettings()


def candidate_models(task: Task, parameters: Mapping[str, Value], space: SubSpace | None = None) -> tuple[str, ...]:
    """Models that a trial can get: from the sub-space, else from the fixed parameters, else the task's default."""
    chosen = (space or {}).get("model_name", parameters.get("model_name", DEFAULT_MODELS[task]))
    return tuple(str(value) for value in (chosen.values if isinstance(chosen, Expression) else (chosen,)))


def used_hyperparameters(task: Task, model_name: str) -> dict[str, Hyperparameter]:
    """The rows of the hyperparameters that a trial of a model uses, by name. Raises `UnknownModel`."""
    model = find_row(model_name, task)
    rows = HYPERPARAMETERS.values()
    return {
        row.name: row
        for row in rows
        if row.is_known_to(task) and model.uses(row.used_by) and row.name != "advanced_settings"
    }


def resolve_parameters(task: Task, parameters: Mapping[str, Value], model_name: str) -> dict[str, Resolved]:
    """Every hyperparameter that a trial of `model_name` uses, with its value and origin, in the table's order."""
    facts = models_of(task)[model_name]
    multilabel_rate = facts.multilabel_learning_rate if task is Task.MULTI_LABEL else None
    derived: dict[str, tuple[Value, Origin]] = {
        "model_name": (model_name, "azure-default"),
        "number_of_epochs": (facts.number_of_epochs, "azure-default"),
        "training_batch_size": (facts.training_batch_size, "azure-default"),
        "validation_batch_size": (facts.validation_batch_size, "azure-default"),
        "learning_rate": (multilabel_rate or facts.learning_rate, "azure-default"),
        "training_crop_size": (facts.crop_size, "model-default"),
        "validation_crop_size": (facts.crop_size, "model-default"),
        "validation_resize_size": (facts.resize_size, "model-default"),
        "number_of_workers": (min(4, max(0, (os.cpu_count() or 1) - 1)), "machine"),
    }
    if facts.box_score_threshold is not None:
        derived["box_score_threshold"] = (facts.box_score_threshold, "azure-default")
    resolved = {}
    for name, row in used_hyperparameters(task, model_name).items():
        if name in parameters:
            value = parameters[name]
            if name == "image_size":
                value = -(-int(value) // facts.size_multiple) * facts.size_multiple
            resolved[name] = Resolved(value, "user")
        elif name in derived:
            resolved[name] = Resolved(*derived[name])
        else:
            resolved[name] = Resolved(row.default, "azure-default")
    return resolved
