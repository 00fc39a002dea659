"""`training_parameters`: what the user fixed, what Azure's defaults add, and which model can use what."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from clearsight.catalogue.models import DEFAULT_MODELS, NATIVE_MODELS
from clearsight.documents.job.hyperparameters import (
    HYPERPARAMETERS,
    INFERENCE_ONLY,
    LEGACY_NAMES,
    NOT_FOR_TRAINING,
    Value,
)
from clearsight.documents.job.search_space import Expression, SubSpace
from clearsight.documents.section import Section, boolean, integer, number, one_of, shown, text
from clearsight.errors import Fault
from clearsight.tasks import Task

__all__ = [
    "YOLO_STRIDE",
    "AdvancedSettings",
    "Origin",
    "Resolved",
    "candidate_models",
    "read_advanced_settings",
    "read_parameters",
    "resolve_parameters",
]

Origin = Literal["user", "azure-default", "model-default", "machine"]

YOLO_STRIDE: Final = 32
"""`image_size` of yolov5 is rounded up to a multiple of this, the size of a cell of its coarsest grid in pixels."""
_YOLO_SCORE_THRESHOLD: Final = 0.1
"""Default of `box_score_threshold` for yolov5, whose score is objectness times class probability."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A hyperparameter's value in a trial, and who chose it."""

    value: Value | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class AdvancedSettings:
    """`advanced_settings`; names with `x_` are ours and keep a job file valid for Azure."""

    apply_mosaic_for_yolo: bool = True
    apply_automl_train_augmentations: bool = True
    """Detection and segmentation only."""
    stream_image_files: bool = False
    """Changes nothing for images in local folders."""
    x_pretrained: bool = True
    """False starts from random weights."""
    x_weights_dir: str | None = None
    """Folder with pretrained weights, relative to the job file; before `CLEARSIGHT_WEIGHTS`."""
    x_min_crop_scale: float = 0.08
    """Classification: smallest share of an image's area that a training crop covers. Small data sets without
    pretrained weights learn faster from milder crops (0.5 to 0.7)."""
    x_light_detector: bool = False
    """Faster and Mask R-CNN: look at few proposals of an image, for images with few objects on a CPU."""
    x_model_size: str | None = None
    """yolov5: `nano`, a size smaller than those that Azure's `model_size` knows; before it."""
    x_num_processes: int | None = None
    """On a machine without a GPU: how many processes train a model together, each on batches of its own."""


def read_parameters(section: Section | None, task: Task) -> dict[str, Value]:
    """Read `training_parameters` without `advanced_settings`; what is unset, or set to `none`, is left out."""
    values: dict[str, Value] = {}
    if section is None:
        return values
    for key in section.present():
        row = HYPERPARAMETERS.get(key)
        if key in INFERENCE_ONLY:
            section.ignore(key)
            section.fault("BAD_PARAM_FOR_TASK", key, NOT_FOR_TRAINING)
        elif row is None or key == "advanced_settings":
            continue
        elif not row.is_known_to(task):
            section.ignore(key)
            section.fault("BAD_PARAM_FOR_TASK", key, f"is not a hyperparameter of {task.value}")
        else:
            value = section.take(key, row.read)
            if value is not None:
                values[key] = value
    section.finish(LEGACY_NAMES, also_known=HYPERPARAMETERS)
    return values


_MAX_PROCESSES: Final = 64
_OF_DETECTORS: Final = (
    "apply_mosaic_for_yolo",
    "apply_automl_train_augmentations",
    "x_light_detector",
    "x_model_size",
)
_FLAGS: Final = tuple(field.name for field in fields(AdvancedSettings) if isinstance(field.default, bool))


def read_advanced_settings(section: Section | None, task: Task, warnings: list[str]) -> AdvancedSettings:
    """Read `advanced_settings`: a JSON object as text, as in Azure, or a mapping."""
    value = None if section is None else section.raw("advanced_settings")
    if section is None or value is None:
        return AdvancedSettings()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            section.fault("BAD_ADVANCED_SETTINGS", "advanced_settings", f"must hold a JSON object: {error}")
            return AdvancedSettings()
    if not isinstance(value, Mapping):
        message = f"must hold a JSON object, but got {shown(value)}"
        section.fault("BAD_ADVANCED_SETTINGS", "advanced_settings", message)
        return AdvancedSettings()
    inner = Section(value, section.target("advanced_settings"), [])
    known = {flag: inner.take(flag, boolean) for flag in _FLAGS}
    weights_dir = inner.take("x_weights_dir", text)
    crop_scale = inner.take("x_min_crop_scale", number(0.01, 1.0))
    model_size = inner.take("x_model_size", one_of(("nano",)))
    num_processes = inner.take("x_num_processes", integer(1, _MAX_PROCESSES))
    section.faults += [Fault("BAD_ADVANCED_SETTINGS", fault.target, fault.message) for fault in inner.faults]
    inner.faults.clear()
    inner.finish()
    warnings += [f"{fault.target}: {fault.message}; ignored" for fault in inner.faults]
    if task.is_classification:
        warnings += [f"{inner.target(key)}: has no effect on classification" for key in _OF_DETECTORS if key in value]
    given: dict[str, Any] = {
        **known,
        "x_weights_dir": weights_dir,
        "x_min_crop_scale": crop_scale,
        "x_model_size": model_size,
        "x_num_processes": num_processes,
    }
    return AdvancedSettings(**{name: setting for name, setting in given.items() if setting is not None})


def candidate_models(task: Task, parameters: Mapping[str, Value], space: SubSpace | None = None) -> tuple[str, ...]:
    """Models that a trial can get: from the sub-space, else from the fixed parameters, else the task's default."""
    chosen = (space or {}).get("model_name", parameters.get("model_name", DEFAULT_MODELS[task]))
    return tuple(str(value) for value in (chosen.values if isinstance(chosen, Expression) else (chosen,)))


def resolve_parameters(task: Task, parameters: Mapping[str, Value], model_name: str) -> dict[str, Resolved]:
    """Every hyperparameter that a trial of `model_name` uses, with its value and origin, in the table's order."""
    facts = NATIVE_MODELS[task][model_name]
    multilabel = task is Task.MULTI_LABEL
    derived: dict[str, tuple[Value, Origin]] = {
        "model_name": (model_name, "azure-default"),
        "number_of_epochs": (facts.number_of_epochs, "azure-default"),
        "training_batch_size": (facts.training_batch_size, "azure-default"),
        "validation_batch_size": (facts.validation_batch_size, "azure-default"),
        "learning_rate": (facts.multilabel_learning_rate if multilabel else facts.learning_rate, "azure-default"),
        "training_crop_size": (facts.crop_size, "model-default"),
        "validation_crop_size": (facts.crop_size, "model-default"),
        "validation_resize_size": (facts.resize_size, "model-default"),
        "number_of_workers": (min(4, max(0, (os.cpu_count() or 1) - 1)), "machine"),
    }
    if facts.family == "yolov5":
        derived["box_score_threshold"] = (_YOLO_SCORE_THRESHOLD, "azure-default")
    resolved = {}
    for name, row in HYPERPARAMETERS.items():
        if not row.is_known_to(task) or facts.family not in row.families or name == "advanced_settings":
            continue
        if name in parameters:
            value = parameters[name]
            if name == "image_size":
                value = -(-int(value) // YOLO_STRIDE) * YOLO_STRIDE
            resolved[name] = Resolved(value, "user")
        elif name in derived:
            resolved[name] = Resolved(*derived[name])
        else:
            resolved[name] = Resolved(row.default, "azure-default")
    return resolved
