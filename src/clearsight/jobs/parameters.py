"""`training_parameters`: what the user fixed, what Azure's defaults add, and which model can use what."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from clearsight.errors import Fault
from clearsight.jobs.hyperparameters import HYPERPARAMETERS, INFERENCE_ONLY, LEGACY_NAMES, Value
from clearsight.jobs.models import DEFAULT_MODELS, HUGGING_FACE_NAMES, NATIVE_MODELS, ModelFacts
from clearsight.jobs.search_space import Expression, SubSpace
from clearsight.jobs.section import Section, boolean, number, shown, text
from clearsight.tasks import Task

__all__ = [
    "AdvancedSettings",
    "Origin",
    "Resolved",
    "candidate_models",
    "check_parameters",
    "groups_of",
    "read_advanced_settings",
    "read_parameters",
    "resolve_parameters",
]

Origin = Literal["user", "azure-default", "model-default", "machine"]


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
    """Changes nothing for pictures in local folders."""
    x_pretrained: bool = True
    """False starts from random weights."""
    x_weights_dir: str | None = None
    """Folder with pretrained weights, relative to the job file; before `CLEARSIGHT_WEIGHTS`."""
    x_min_crop_scale: float = 0.08
    """Classification: smallest share of a picture's area that a training crop covers. Small data sets without
    pretrained weights learn faster from milder crops (0.5 to 0.7)."""


def groups_of(task: Task) -> tuple[str, ...]:
    """Groups of hyperparameters that a task knows."""
    return ("common", "classification" if task.is_classification else "detection")


def read_parameters(section: Section | None, task: Task) -> dict[str, Value]:
    """Read `training_parameters` without `advanced_settings`; what is unset, or set to `none`, is left out."""
    values: dict[str, Value] = {}
    if section is None:
        return values
    for key in section.present():
        row = HYPERPARAMETERS.get(key)
        if key in INFERENCE_ONLY:
            section.ignore(key)
            message = "is no training parameter; edit settings.json of the package instead"
            section.fault("BAD_PARAM_FOR_TASK", key, message)
        elif row is None or key == "advanced_settings":
            continue
        elif row.group not in groups_of(task) or (task is Task.SEGMENTATION and key.startswith("tile_")):
            section.ignore(key)
            section.fault("BAD_PARAM_FOR_TASK", key, f"is not a hyperparameter of {task.value}")
        else:
            value = section.take(key, row.read)
            if value is not None:
                values[key] = value
    section.finish(LEGACY_NAMES, also_known=HYPERPARAMETERS)
    return values


_MIN_CROP_SIZE: Final = 32
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
    section.faults += [Fault("BAD_ADVANCED_SETTINGS", fault.target, fault.message) for fault in inner.faults]
    inner.faults.clear()
    inner.finish()
    warnings += [f"{fault.target}: {fault.message}; ignored" for fault in inner.faults]
    if task.is_classification:
        ignored = [flag for flag in ("apply_mosaic_for_yolo", "apply_automl_train_augmentations") if flag in value]
        warnings += [f"{inner.target(flag)}: has no effect on classification" for flag in ignored]
    given: dict[str, Any] = {**known, "x_weights_dir": weights_dir, "x_min_crop_scale": crop_scale}
    return AdvancedSettings(**{name: setting for name, setting in given.items() if setting is not None})


def candidate_models(task: Task, parameters: Mapping[str, Value], space: SubSpace | None = None) -> tuple[str, ...]:
    """Models that a trial can get: from the sub-space, else from the fixed parameters, else the task's default."""
    chosen = (space or {}).get("model_name", parameters.get("model_name", DEFAULT_MODELS[task]))
    return tuple(str(value) for value in (chosen.values if isinstance(chosen, Expression) else (chosen,)))


def check_parameters(
    task: Task,
    parameters: Mapping[str, Value],
    spaces: Sequence[SubSpace],
    faults: list[Fault],
    warnings: list[str],
) -> None:
    """Check every branch of a job (each sub-space, or the fixed parameters alone) against its candidate models."""
    branches: list[tuple[str, SubSpace]] = [(f"search_space[{index}]", space) for index, space in enumerate(spaces)]
    users: dict[str, bool] = {}
    for path, space in branches or [("training_parameters", {})]:
        models = candidate_models(task, parameters, space)
        where = f"{path}.model_name" if "model_name" in space or not spaces else "training_parameters.model_name"
        faults += [Fault("BAD_MODEL", where, message) for name in models if (message := _model_fault(task, name))]
        known = [NATIVE_MODELS[task][name] for name in models if name in NATIVE_MODELS[task]]
        if not known:
            continue
        for key in space:
            if not any(facts.family in HYPERPARAMETERS[key].families for facts in known):
                faults.append(Fault("BAD_PARAM_FOR_MODEL", f"{path}.{key}", f"no model of {list(models)} uses it"))
        for key in parameters:
            users[key] = users.get(key, False) or any(facts.family in HYPERPARAMETERS[key].families for facts in known)
        for facts in known:
            faults += _model_rules(path, facts, {**parameters, **space})
        for key in space.keys() & parameters.keys():
            warnings.append(f"{path}.{key}: overrides training_parameters.{key}")
    faults += [
        Fault("BAD_PARAM_FOR_MODEL", f"training_parameters.{key}", "no model of this job uses it")
        for key, used in users.items()
        if not used
    ]


def _model_fault(task: Task, name: str) -> str | None:
    if name in NATIVE_MODELS[task]:
        return None
    if task.is_classification and (
        "/" in name or name in [curated.replace("/", "-") for curated in HUGGING_FACE_NAMES]
    ):
        return None  # a Hugging Face id; whether it can be trained is not the document's matter
    if not task.is_classification and name.startswith("mmd-3x-"):
        return f"{name!r} needs the MMDetection backend, which is not installed"
    return f"must be one of {', '.join(NATIVE_MODELS[task])}, but got {name!r}"


def _model_rules(path: str, facts: ModelFacts, chosen: Mapping[str, Value | Expression]) -> list[Fault]:
    """Rules that join values and model; a value that is drawn per trial is checked when it is drawn."""
    faults: list[Fault] = []

    def fixed(key: str, default: int) -> int | None:
        value = chosen.get(key, default)
        return None if isinstance(value, Expression) else int(value)

    def fault(key: str, message: str) -> None:
        faults.append(Fault("BAD_PARAM_FOR_MODEL", f"{path}.{key}", f"{message} for {facts.model_name}"))

    freeze = fixed("layers_to_freeze", 0)
    if freeze is not None and freeze > facts.num_freeze_groups:
        fault("layers_to_freeze", f"must be at most {facts.num_freeze_groups}, but got {freeze},")
    if facts.family not in ("cnn", "vit"):
        return faults
    train = fixed("training_crop_size", facts.crop_size)
    validation = fixed("validation_crop_size", facts.crop_size)
    resize = fixed("validation_resize_size", facts.resize_size)
    if resize is not None and validation is not None and resize < validation:
        own = "" if "validation_resize_size" in chosen else " (the model's own)"
        fault("validation_resize_size", f"must be at least validation_crop_size, {validation}, but is {resize}{own}")
    if facts.family == "vit" and None not in (train, validation) and train != validation:
        fault("training_crop_size", f"must equal validation_crop_size, {validation}, but got {train},")
    step = {"vit": 16, "cnn": 32 if facts.model_name == "seresnext" else 1}[facts.family]
    for key, size in (("training_crop_size", train), ("validation_crop_size", validation)):
        if size is not None and size % step:
            fault(key, f"must be a multiple of {step}, but got {size},")
        elif size is not None and size < _MIN_CROP_SIZE:
            fault(key, f"must be at least {_MIN_CROP_SIZE}, since the network halves it five times, but got {size},")
    return faults


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
    resolved = {}
    for name, row in HYPERPARAMETERS.items():
        if row.group not in groups_of(task) or facts.family not in row.families or name == "advanced_settings":
            continue
        if name in parameters:
            resolved[name] = Resolved(parameters[name], "user")
        elif name in derived:
            resolved[name] = Resolved(*derived[name])
        else:
            resolved[name] = Resolved(row.default, "azure-default")
    return resolved
