"""The options and the components of a trial of object detection or instance segmentation, for all families."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

import torch
from torch import nn

from clearsight.catalogue.models import FAMILIES, find_row
from clearsight.documents.settings import DetectorSettings
from clearsight.images.decode import decode_image
from clearsight.networks.families.table import build_network, family_of, load_pretrained
from clearsight.networks.weights import PretrainedRecord
from clearsight.tasks import Task
from clearsight.training.charts import write_detection_charts, write_samples
from clearsight.training.charts.samples import MAX_SAMPLES
from clearsight.training.classification.datasets import ImageCache
from clearsight.training.data.records import Record
from clearsight.training.data.split import require_objects
from clearsight.training.detection.data import (
    DetectionEvaluationSet,
    DetectionTrainingSet,
    TileGrid,
    useful_side,
)
from clearsight.training.detection.family import AugmentationOptions, DetectorTraining, ProposalOptions, TrialParts
from clearsight.training.detection.metrics import GroundTruth, MetricOptions, Predictions, metrics_of_resamples
from clearsight.training.detection.objective import DetectionObjective
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

__all__ = ["DetectionOptions", "DetectionTrial", "detection_options"]

_GRADIENT_NORM: Final = 10.0
"""Largest norm of the gradient of a step, as in yolov5's recipe, whose gradients are sums over images.

The other families need the limit where nothing is pretrained: Mask R-CNN on ResNet-18 at 96 pixels, rate 0.01 after
warm-up, had mask losses of 2.6, 86 and 88 000 in its first three steps and then no finite number.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionOptions:
    """The options of a trial of object detection or instance segmentation."""

    trial: TrialOptions
    settings: DetectorSettings
    """Preprocessing of validation images and selection of their detections, also in serving."""
    proposals: ProposalOptions
    augmentation: AugmentationOptions
    metrics: MetricOptions


def detection_options(spec: TrialSpec) -> DetectionOptions:
    """Make the options of a trial. Raises `UserError`, or `InvalidDocument` for settings that no package can have."""
    values = values_of(spec)
    trial, metrics = trial_options(values), component_options(MetricOptions, values)
    settings = settings_of(spec).detection
    assert settings is not None  # noqa: S101  the task is one of detectors
    if metrics.validation_metric_type == "none":
        trial = replace(trial, early_stopping=replace(trial.early_stopping, enabled=False))
    return DetectionOptions(
        trial=replace(trial, loop=replace(trial.loop, max_gradient_norm=_GRADIENT_NORM)),
        settings=settings,
        proposals=ProposalOptions(spec.light_detector, spec.proposals_per_loss),
        augmentation=component_options(
            AugmentationOptions,
            values,
            with_geometry="apply_automl_train_augmentations",
            with_mosaic="apply_mosaic_for_yolo",
        ),
        metrics=metrics,
    )


@dataclass(frozen=True, slots=True)
class _Predictions:
    """`ValidationPredictions` of a detector."""

    records: Sequence[Record]
    truths: Sequence[GroundTruth]
    counted: Sequence[Predictions]
    """Those above the score threshold."""
    classes: tuple[str, ...]
    options: MetricOptions
    task: Task

    def intervals(self) -> dict[str, list[float]]:
        num_classes = len(self.classes)
        measure = metrics_of_resamples(self.counted, self.truths, num_classes, self.options, self.task)
        return metric_intervals(measure, len(self.truths))

    def draw_charts(self, folder: Path) -> list[Path]:
        files = write_detection_charts(folder, self.truths, self.counted, self.classes, self.options, self.task)
        shown = [
            (decode_image(record.image.read_bytes()), truth, found)
            for record, truth, found in zip(self.records[:MAX_SAMPLES], self.truths, self.counted, strict=False)
        ]
        return [*files, *write_samples(folder, shown, self.classes)]


class DetectionTrial:
    """yolov5, Faster R-CNN, RetinaNet, Mask R-CNN; the methods are those of `TrialTask`."""

    def __init__(self, options: DetectionOptions, records: TrialRecords) -> None:
        is_measured = options.metrics.validation_metric_type != "none"
        require_objects(records.training, records.validation if is_measured else None)
        self._options = options
        self._task = options.trial.task
        self._classes = records.classes
        model = options.trial.model
        row = find_row(model.name, self._task)
        self._family: DetectorTraining[Any, Any] = resolve_name(str(FAMILIES[row.family].training))()
        self.settings = options.settings
        architecture = self._family.architecture(options.settings, options.proposals)
        self.network: nn.Module = build_network(model.name, len(records.classes), architecture=architecture)
        self.frozen_prefixes = row.frozen_prefixes(model.layers_to_freeze)
        self._grid = None
        if self.settings.tile_grid_size is not None:
            self._grid = TileGrid(*self.settings.tile_grid_size, self.settings.tile_overlap_ratio)
        self._augmentation = self._family.augmentation(self.settings, options.augmentation)

    def load_weights(self, is_first: bool) -> PretrainedRecord | None:
        model, network = self._options.trial.model, self.network
        if not is_first:
            if model.pretrained:
                family_of(model.name).prepare_pretrained(network)
            return None
        return load_pretrained(network, model.name, model.weights_dir, model.pretrained)

    @property
    def largest_useful_side(self) -> int:
        return useful_side(self._augmentation, self._grid)

    def training_set(
        self, images: ImageCache, records: Sequence[Record], smallest_batch: int, ranks: Ranks
    ) -> DetectionTrainingSet:
        return DetectionTrainingSet(
            images,
            records,
            self._classes,
            self._augmentation,
            self._options.trial.batches,
            self._grid,
            smallest_batch,
            ranks.rank,
            ranks.size,
        )

    def evaluation_set(self, records: Sequence[Record], max_bytes: int) -> DetectionEvaluationSet:
        batch_size = self._options.trial.batches.validation_size
        return DetectionEvaluationSet(records, self._classes, self.settings, batch_size, max_bytes)

    def objective(
        self,
        sets: Sets[DetectionTrainingSet, DetectionEvaluationSet],
        hardware: Hardware,
        ranks: Ranks,
        publish: EventSink,
    ) -> DetectionObjective:
        options = self._options
        with_training = options.metrics.log_training_metrics == "Enable"
        return DetectionObjective(
            self._task,
            self._family.steps(
                self.network,
                self.settings,
                TrialParts(sets.training, options.trial.batches.seed, hardware, ranks, publish),
            ),
            self._classes,
            self.settings,
            options.metrics,
            sets.validation,
            training_images=self.evaluation_set(sets.training_records, max_bytes=0) if with_training else None,
        )

    def optimizer(self, num_processes: int) -> torch.optim.Optimizer:
        options = self._options.trial
        images_per_step = options.batches.training_size * num_processes * options.loop.accumulation
        parameters = self._family.parameters(self.network, options.optimizer.weight_decay, images_per_step)
        return build_optimizer(parameters, options.optimizer)

    def average(self, num_updates: int) -> WeightAverage | None:
        return WeightAverage(self.network, num_updates) if self._family.averages_weights else None

    def predict_validation(self, objective: DetectionObjective) -> _Predictions:
        predicted, options = objective.predict(self.network), objective.options
        counted = [found.above(options.box_score_threshold) for found in predicted.predictions]
        records = objective.validation.records
        return _Predictions(records, predicted.truths, counted, self._classes, options, self._task)
