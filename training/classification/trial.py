"""The parts of a classification trial."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from clearsight.catalogue.models import find_row
from clearsight.documents.settings import ClassificationSettings
from clearsight.networks.families.table import build_network, load_pretrained
from clearsight.networks.weights import PretrainedRecord
from clearsight.training.charts import write_charts
from clearsight.training.classification.datasets import EvaluationSet, ImageCache, TrainingSet, encode_targets
from clearsight.training.classification.losses import build_loss
from clearsight.training.classification.objective import ClassificationObjective, predict
from clearsight.training.data.records import Record
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.loop import LoopOptions
from clearsight.training.engine.optimizer import build_optimizer
from clearsight.training.engine.ranks import Ranks
from clearsight.training.engine.weight_average import WeightAverage
from clearsight.training.trial.data import Sets, TrialRecords
from clearsight.training.trial.options import (
    augmentation_of,
    class_weights_of,
    early_stopping_of,
    loop_options_of,
    optimizer_options_of,
    settings_of,
)
from clearsight.training.trial.spec import TrialSpec
from clearsight.training.trial.task import EventSink
from clearsight.vision.probabilities import probabilities

__all__ = ["ClassificationTrial"]


class ClassificationTrial:
    """Multi-class or multi-label; `TrialTask` tells what the methods do."""

    def __init__(self, spec: TrialSpec, records: TrialRecords) -> None:
        self._spec = spec
        self._classes = records.classes
        self._model_name = str(spec.value("model_name"))
        self._augmentation = augmentation_of(spec)
        self.network: nn.Module = build_network(
            self._model_name, len(records.classes), int(spec.value("training_crop_size"))
        )
        self.settings: ClassificationSettings = settings_of(spec)
        self.frozen_prefixes = find_row(self._model_name).frozen_prefixes(int(spec.value("layers_to_freeze")))

    def load_weights(self, is_first: bool) -> PretrainedRecord | None:
        if not is_first:
            return None
        return load_pretrained(self.network, self._model_name, self._spec.weights_dir, self._spec.pretrained)

    @property
    def largest_useful_side(self) -> int:
        return self._augmentation.largest_useful_side

    def training_set(
        self, images: ImageCache, records: Sequence[Record], smallest_batch: int, ranks: Ranks
    ) -> TrainingSet:
        batch_size, seed, num_workers = (
            int(self._spec.value(name)) for name in ("training_batch_size", "random_seed", "number_of_workers")
        )
        targets = encode_targets(records, self._classes, self._spec.task)
        return TrainingSet(
            images,
            targets,
            self._augmentation,
            batch_size,
            seed,
            num_workers,
            smallest_batch,
            ranks.rank,
            ranks.size,
        )

    def evaluation_set(self, records: Sequence[Record], max_bytes: int) -> EvaluationSet:
        targets = encode_targets(records, self._classes, self._spec.task)
        batch_size = int(self._spec.value("validation_batch_size"))
        return EvaluationSet([record.image for record in records], targets, self.settings, batch_size, max_bytes)

    def objective(
        self, sets: Sets[TrainingSet, EvaluationSet], hardware: Hardware, ranks: Ranks, publish: EventSink
    ) -> ClassificationObjective:
        task = self._spec.task
        loss = build_loss(task, class_weights_of(self._spec, self._classes, sets.training_records))
        return ClassificationObjective(
            task, loss.to(hardware.device), sets.validation, self.settings.mean, self.settings.std, hardware
        )

    def optimizer(self, num_processes: int) -> torch.optim.Optimizer:
        return build_optimizer(self.network.parameters(), optimizer_options_of(self._spec))

    def average(self, num_updates: int) -> WeightAverage | None:
        return None

    def loop_options(self) -> LoopOptions:
        return loop_options_of(self._spec)

    def early_stopping(self) -> EarlyStopping:
        return early_stopping_of(self._spec)

    def draw_charts(self, folder: Path, objective: ClassificationObjective) -> list[Path]:
        logits_NK = predict(self.network, objective.validation, objective.hardware.device)
        probs_NK = probabilities(logits_NK, self._spec.task)
        return write_charts(folder, objective.validation.targets, probs_NK, self._classes, self._spec.task)
