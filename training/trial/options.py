"""From the hyperparameters of a trial to the options of its parts."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.catalogue.models import find_row
from clearsight.documents.settings import (
    ClassificationSettings,
    DetectorSettings,
    parse_settings,
)
from clearsight.documents.settings.document import ALIASES
from clearsight.training.classification.augmentation import Augmentation
from clearsight.training.classification.losses import class_weights
from clearsight.training.data.records import Record
from clearsight.training.detection.metrics import MetricOptions
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.loop import LoopOptions
from clearsight.training.engine.optimizer import OptimizerOptions
from clearsight.training.engine.schedule import Schedule, StepDecay, WarmupCosine
from clearsight.training.trial.spec import TrialSpec

__all__ = [
    "augmentation_of",
    "class_weights_of",
    "detector_settings_of",
    "early_stopping_of",
    "loop_options_of",
    "metric_options_of",
    "model_size_of",
    "num_steps_of",
    "optimizer_options_of",
    "schedule_of",
    "settings_of",
    "warnings_of",
]

_SETTINGS: Final = (
    "min_size",
    "max_size",
    "img_size",
    "model_size",
    "box_score_thresh",
    "nms_iou_thresh",
    "box_detections_per_img",
    "tile_grid_size",
    "tile_overlap_ratio",
    "tile_predictions_nms_thresh",
)
"""Hyperparameters of detectors that serving needs too, as `settings.json` spells them."""


def settings_of(spec: TrialSpec) -> ClassificationSettings:
    """How validation images, and those of serving, become the network's input."""
    row = find_row(str(spec.value("model_name")))
    return ClassificationSettings(
        valid_resize_size=int(spec.value("validation_resize_size")),
        valid_crop_size=int(spec.value("validation_crop_size")),
        mean=row.mean,
        std=row.std,
        interpolation=row.interpolation,
    )


def augmentation_of(spec: TrialSpec) -> Augmentation:
    """How training images vary."""
    return Augmentation(crop_size=int(spec.value("training_crop_size")), scale=(spec.min_crop_scale, 1.0))


def optimizer_options_of(spec: TrialSpec) -> OptimizerOptions:
    """Options of the optimizer that the trial names."""
    return OptimizerOptions(
        name=spec.value("optimizer"),
        learning_rate=float(spec.value("learning_rate")),
        weight_decay=float(spec.value("weight_decay")),
        momentum=float(spec.value("momentum")),
        nesterov=bool(spec.value("nesterov")),
        beta1=float(spec.value("beta1")),
        beta2=float(spec.value("beta2")),
        ams_gradient=bool(spec.value("ams_gradient")),
    )


def schedule_of(spec: TrialSpec, num_batches: int) -> Schedule:
    """The learning-rate schedule for epochs of `num_batches`."""
    steps_per_epoch = -(-num_batches // int(spec.value("gradient_accumulation_step")))
    if spec.value("learning_rate_scheduler") == "step":
        gamma, step_size = float(spec.value("step_lr_gamma")), int(spec.value("step_lr_step_size"))
        return StepDecay(steps_per_epoch, gamma, step_size)
    return WarmupCosine(
        steps_per_epoch,
        num_epochs=int(spec.value("number_of_epochs")),
        warmup_epochs=int(spec.value("warmup_cosine_lr_warmup_epochs")),
        cycles=float(spec.value("warmup_cosine_lr_cycles")),
    )


def num_steps_of(spec: TrialSpec, num_batches: int) -> int:
    """Optimizer steps of the whole trial, with epochs of `num_batches`."""
    return -(-num_batches // int(spec.value("gradient_accumulation_step"))) * int(spec.value("number_of_epochs"))


def early_stopping_of(spec: TrialSpec) -> EarlyStopping:
    """When the trial may end before its last epoch."""
    return EarlyStopping(
        enabled=bool(spec.value("early_stopping")),
        delay=int(spec.value("early_stopping_delay")),
        patience=int(spec.value("early_stopping_patience")),
    )


def loop_options_of(spec: TrialSpec) -> LoopOptions:
    """How long and how often."""
    frequency = spec.value("checkpoint_frequency")
    return LoopOptions(
        num_epochs=int(spec.value("number_of_epochs")),
        accumulation=int(spec.value("gradient_accumulation_step")),
        learning_rate=float(spec.value("learning_rate")),
        evaluation_frequency=int(spec.value("evaluation_frequency")),
        checkpoint_frequency=None if frequency is None else int(frequency),
        seed=int(spec.value("random_seed")),
    )


def class_weights_of(
    spec: TrialSpec, classes: Sequence[str], records: Sequence[Record]
) -> npt.NDArray[np.float64] | None:
    """Weights of the classes in the loss over these training records; None without weighting."""
    counts = [sum(name in record.labels for record in records) for name in classes]
    return class_weights(counts, len(records), int(spec.value("weighted_loss")))


def model_size_of(spec: TrialSpec) -> str:
    """Which of the sizes of yolov5, as `settings.json` spells it; of other models, which have none, the default."""
    setting = spec.hyperparameters.get("model_size")
    size = "medium" if setting is None else str(setting.value)
    return "xlarge" if size == "extra_large" else size


def detector_settings_of(spec: TrialSpec) -> DetectorSettings:
    """How validation images, and those of serving, become the network's input, and its candidates an answer.

    Raises `InvalidDocument` for a value that a package could not have.
    """
    hyperparameters = {name: setting.value for name, setting in spec.hyperparameters.items()}
    names = {name: ALIASES.get(name, name) for name in hyperparameters}
    document = {name: hyperparameters[given] for given, name in names.items() if name in _SETTINGS}
    document = {name: value for name, value in document.items() if value is not None}
    if "model_size" in document:
        document["model_size"] = model_size_of(spec)
    settings, _ = parse_settings(document, spec.task, str(spec.value("model_name")))
    assert settings.detection is not None  # noqa: S101  the task is one of detectors
    return settings.detection


def metric_options_of(spec: TrialSpec) -> MetricOptions:
    """How detections are judged."""
    return MetricOptions(
        validation_metric_type=spec.value("validation_metric_type"),
        validation_iou_threshold=float(spec.value("validation_iou_threshold")),
        box_score_threshold=float(spec.value("box_score_threshold")),
    )


def warnings_of(spec: TrialSpec, schedule: Schedule) -> list[str]:
    """What is done otherwise than the hyperparameters say, one sentence each."""
    warnings = []
    if spec.value("optimizer") == "sgd" and spec.value("nesterov") and float(spec.value("momentum")) == 0:
        warnings.append("nesterov needs momentum, but momentum is 0: plain sgd is used")
    if isinstance(schedule, WarmupCosine) and schedule.effective_warmup_epochs != schedule.warmup_epochs:
        warnings.append(
            f"warmup_cosine_lr_warmup_epochs must be below number_of_epochs, {schedule.num_epochs}, but is "
            f"{schedule.warmup_epochs}: {schedule.effective_warmup_epochs} is used"
        )
    return warnings
