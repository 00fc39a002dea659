"""The options that trials of all tasks have, made once from the `spec.json` of a trial.

The trial of each task adds those of its own components; past them, nothing looks at a hyperparameter by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from clearsight.documents.settings import Settings, parse_settings
from clearsight.errors import UserError
from clearsight.tasks import Task
from clearsight.training.engine.batch_stream import BatchOptions
from clearsight.training.engine.early_stopping import EarlyStoppingOptions
from clearsight.training.engine.loop import LoopOptions
from clearsight.training.engine.optimizer import OptimizerOptions
from clearsight.training.engine.schedule import SCHEDULES, Schedule, WarmupCosine
from clearsight.training.trial.spec import TrialSpec

__all__ = [
    "ModelOptions",
    "TrialOptions",
    "component_options",
    "settings_of",
    "trial_options",
    "values_of",
    "warnings_of",
]

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model is trained, from which weights, and how it is exported."""

    name: str
    """`model_name` of the job, such as `resnet18`."""
    layers_to_freeze: int
    """Number of the model's first groups of layers that are not trained."""
    pretrained: bool
    """Whether the network starts from pretrained weights."""
    weights_dir: Path | None
    """Folder with files of pretrained weights; None: the download cache."""
    enable_onnx_normalization: bool
    """Whether the ONNX graph of Azure's contract normalises its input itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOptions:
    """The options that trials of all tasks have."""

    task: Task
    model: ModelOptions
    batches: BatchOptions
    optimizer: OptimizerOptions
    schedule: Schedule
    loop: LoopOptions
    early_stopping: EarlyStoppingOptions


def trial_options(values: Mapping[str, Any]) -> TrialOptions:
    """Make the options from `values_of` a spec. Raises `UserError` with the name of a value that cannot be used."""
    scheduler = values["learning_rate_scheduler"]
    if scheduler not in SCHEDULES:
        raise _unusable("learning_rate_scheduler", scheduler, f"must be one of {', '.join(SCHEDULES)}")
    return TrialOptions(
        task=values["task"],
        model=component_options(ModelOptions, values, name="model_name"),
        batches=component_options(
            BatchOptions,
            values,
            training_size="training_batch_size",
            validation_size="validation_batch_size",
            num_workers="number_of_workers",
            seed="random_seed",
        ),
        optimizer=component_options(OptimizerOptions, values, name="optimizer"),
        schedule=component_options(
            SCHEDULES[scheduler],
            values,
            num_epochs="number_of_epochs",
            warmup_epochs="warmup_cosine_lr_warmup_epochs",
            cycles="warmup_cosine_lr_cycles",
            gamma="step_lr_gamma",
            step_size="step_lr_step_size",
        ),
        loop=component_options(
            LoopOptions,
            values,
            num_epochs="number_of_epochs",
            accumulation="gradient_accumulation_step",
            seed="random_seed",
        ),
        early_stopping=component_options(
            EarlyStoppingOptions,
            values,
            enabled="early_stopping",
            delay="early_stopping_delay",
            patience="early_stopping_patience",
        ),
    )


def values_of(spec: TrialSpec) -> dict[str, Any]:
    """The fields of a spec and its hyperparameters by their names, which differ."""
    return {**dict(spec), **{name: setting.value for name, setting in spec.hyperparameters.items()}}


def component_options(kind: type[OptionsT], values: Mapping[str, Any], **names: str) -> OptionsT:
    """Make the options of one component from `values_of` a spec.

    A field gets the value of its own name, or of the name that `names` gives for it; one without a value keeps its
    default. Raises `UserError` with the name of a value that the field cannot have.
    """
    names = {field.name: names.get(field.name, field.name) for field in fields(kind)}  # type: ignore[arg-type]
    given = {field: values[name] for field, name in names.items() if name in values}
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        [first, *_] = error.errors()
        name = names[str(first["loc"][0])]
        raise _unusable(name, values.get(name), first["msg"]) from None


def _unusable(name: str, value: object, reason: str) -> UserError:
    message = f"spec.json must hold a usable value of {name}, but got {value!r} ({reason}); create the job again"
    return UserError(message)


def settings_of(spec: TrialSpec) -> Settings:
    """The settings of validation images, and of images in serving.

    Raises `InvalidDocument` for a value that the settings of a package cannot have.
    """
    hyperparameters = {name: one.value for name, one in spec.hyperparameters.items()}
    settings, _ = parse_settings(hyperparameters, spec.task, str(hyperparameters["model_name"]))
    return settings


def warnings_of(options: TrialOptions) -> list[str]:
    """One sentence for each hyperparameter that is not followed as it was given."""
    warnings = []
    optimizer, schedule = options.optimizer, options.schedule
    if optimizer.name == "sgd" and optimizer.nesterov and optimizer.momentum == 0:
        warnings.append("nesterov needs momentum, but momentum is 0: plain sgd is used")
    if isinstance(schedule, WarmupCosine) and schedule.effective_warmup_epochs != schedule.warmup_epochs:
        warnings.append(
            f"warmup_cosine_lr_warmup_epochs must be below number_of_epochs, {schedule.num_epochs}, but is "
            f"{schedule.warmup_epochs}: {schedule.effective_warmup_epochs} is used"
        )
    return warnings
