"""The options and the components of a classification trial."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.catalogue.models import find_row
from clearsight.documents.settings import ClassificationSettings
from clearsight.networks.families.table import build_network, load_pretrained
from clearsight.networks.weights import PretrainedRecord
from clearsight.tasks import Task
from clearsight.training.charts import write_charts
from clearsight.training.classification.augmentation import Augmentation
from clearsight.training.classification.datasets import EvaluationSet, ImageCache, TrainingSet, encode_targets
from clearsight.training.classification.losses import LossOptions, build_loss, class_weights
from clearsight.training.classification.metrics import image_ious, indicators
from clearsight.training.classification.objective import ClassificationObjective, predict
from clearsight.training.data.records import Record
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.intervals import metric_intervals
from clearsight.training.engine.optimizer import build_optimizer
from clearsight.training.engine.ranks import Ranks
from clearsight.training.engine.weight_average import WeightAverage
from clearsight.training.trial.data import Sets, TrialRecords
from clearsight.training.trial.options import (
    TrialOptions,
    component_options,
    settings_of,
    trial_options,
    values_of,
)
from clearsight.training.trial.spec import TrialSpec
from clearsight.training.trial.task import EventSink
from clearsight.vision.probabilities import probabilities

__all__ = ["ClassificationOptions", "ClassificationTrial", "classification_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationOptions:
    """The options of a multi-class or multi-label trial."""

    trial: TrialOptions
    settings: ClassificationSettings
    """Preprocessing of validation images, and of images in serving."""
    augmentation: Augmentation
    loss: LossOptions


def classification_options(spec: TrialSpec) -> ClassificationOptions:
    """Make the options of a trial. Raises `UserError`, or `InvalidDocument` for settings that no package can have."""
    values = values_of(spec)
    trial, settings = trial_options(values), settings_of(spec).classification
    assert settings is not None  # noqa: S101  the task is one of classifiers
    row = find_row(trial.model.name)
    augmentation = component_options(Augmentation, values, crop_size="training_crop_size")
    return ClassificationOptions(
        trial=trial,
        settings=replace(settings, mean=row.mean, std=row.std, interpolation=row.interpolation),
        augmentation=replace(augmentation, scale=(spec.min_crop_scale, 1.0)),
        loss=component_options(LossOptions, values),
    )


@dataclass(frozen=True, slots=True)
class _Predictions:
    """`ValidationPredictions` of a classifier."""

    targets: npt.NDArray[np.generic]
    probs_NK: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    task: Task

    def intervals(self) -> dict[str, list[float]]:
        if self.task is Task.MULTI_CLASS:
            return {}
        iou_N = image_ious(*indicators(self.targets, self.probs_NK, self.task))
        return metric_intervals(lambda positions: {"iou": float(iou_N[positions].mean())}, len(iou_N))

    def draw_charts(self, folder: Path) -> list[Path]:
        return write_charts(folder, self.targets, self.probs_NK, self.classes, self.task)


class ClassificationTrial:
    """Multi-class or multi-label; the methods are those of `TrialTask`."""

    def __init__(self, options: ClassificationOptions, records: TrialRecords) -> None:
        self._options = options
        self._task = options.trial.task
        self._classes = records.classes
        model = options.trial.model
        self.network: nn.Module = build_network(model.name, len(records.classes), options.augmentation.crop_size)
        self.settings = options.settings
        self.frozen_prefixes = find_row(model.name).frozen_prefixes(model.layers_to_freeze)

    def load_weights(self, is_first: bool) -> PretrainedRecord | None:
        if not is_first:
            return None
        model = self._options.trial.model
        return load_pretrained(self.network, model.name, model.weights_dir, model.pretrained)

    @property
    def largest_useful_side(self) -> int:
        return self._options.augmentation.largest_useful_side

    def training_set(
        self, images: ImageCache, records: Sequence[Record], smallest_batch: int, ranks: Ranks
    ) -> TrainingSet:
        targets, options = encode_targets(records, self._classes, self._task), self._options
        batches = options.trial.batches
        return TrainingSet(images, targets, options.augmentation, batches, smallest_batch, ranks.rank, ranks.size)

    def evaluation_set(self, records: Sequence[Record], max_bytes: int) -> EvaluationSet:
        targets = encode_targets(records, self._classes, self._task)
        batch_size = self._options.trial.batches.validation_size
        return EvaluationSet([record.image for record in records], targets, self.settings, batch_size, max_bytes)

    def objective(
        self, sets: Sets[TrainingSet, EvaluationSet], hardware: Hardware, ranks: Ranks, publish: EventSink
    ) -> ClassificationObjective:
        records = sets.training_records
        counts = [sum(name in record.labels for record in records) for name in self._classes]
        weights = class_weights(counts, len(records), self._options.loss.weighted_loss)
        loss = build_loss(self._task, weights)
        return ClassificationObjective(
            self._task, loss.to(hardware.device), sets.validation, self.settings.mean, self.settings.std, hardware
        )

    def optimizer(self, num_processes: int) -> torch.optim.Optimizer:
        return build_optimizer(self.network.parameters(), self._options.trial.optimizer)

    def average(self, num_updates: int) -> WeightAverage | None:
        return None

    def predict_validation(self, objective: ClassificationObjective) -> _Predictions:
        logits_NK = predict(self.network, objective.validation, objective.hardware.device)
        probs_NK = probabilities(logits_NK, self._task)
        return _Predictions(objective.validation.targets, probs_NK, self._classes, self._task)
