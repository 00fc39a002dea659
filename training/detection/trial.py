"""The parts of a trial of object detection or instance segmentation, for all families of detectors."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

import torch
from torch import nn

from clearsight.catalogue.models import FAMILIES, find_row
from clearsight.documents.settings import DetectorSettings
from clearsight.errors import Fault, InvalidData
from clearsight.images.decode import decode_image
from clearsight.networks.families.table import build_network, family_of, load_pretrained
from clearsight.networks.weights import PretrainedRecord
from clearsight.training.charts import write_detection_charts, write_samples
from clearsight.training.charts.samples import MAX_SAMPLES
from clearsight.training.classification.datasets import ImageCache
from clearsight.training.data.records import Record
from clearsight.training.detection.data import (
    DetectionEvaluationSet,
    DetectionTrainingSet,
    TileGrid,
    useful_side,
)
from clearsight.training.detection.family import DetectorTraining, TrialParts
from clearsight.training.detection.objective import DetectionObjective
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.loop import LoopOptions
from clearsight.training.engine.optimizer import build_optimizer
from clearsight.training.engine.ranks import Ranks
from clearsight.training.engine.weight_average import WeightAverage
from clearsight.training.trial.data import Sets, TrialRecords
from clearsight.training.trial.options import (
    detector_settings_of,
    early_stopping_of,
    loop_options_of,
    metric_options_of,
    model_size_of,
    optimizer_options_of,
)
from clearsight.training.trial.spec import TrialSpec
from clearsight.training.trial.task import EventSink

__all__ = ["DetectionTrial"]

_GRADIENT_NORM: Final = 10.0
"""Longer gradients of a step are shortened to this: yolov5's recipe, whose gradients are sums over images.

The others need it where nothing is pretrained: Mask R-CNN on ResNet-18 at 96 pixels, rate 0.01 after warm-up, had mask
losses of 2.6, 86 and 88 000 in its first three steps and then no finite number.
"""


class DetectionTrial:
    """yolov5, Faster R-CNN, RetinaNet, Mask R-CNN; `TrialTask` tells what the methods do."""

    def __init__(self, spec: TrialSpec, records: TrialRecords) -> None:
        _require_objects(records, needs_validation=spec.value("validation_metric_type") != "none")
        self._spec = spec
        self._classes = records.classes
        self._model_name = str(spec.value("model_name"))
        row = find_row(self._model_name, spec.task)
        self._family: DetectorTraining[Any, Any] = resolve_name(str(FAMILIES[row.family].training))()
        architecture = self._family.architecture(model_size_of(spec), spec.light_detector)
        self.network: nn.Module = build_network(self._model_name, len(records.classes), architecture=architecture)
        self.settings: DetectorSettings = detector_settings_of(spec)
        self.frozen_prefixes = row.frozen_prefixes(int(spec.value("layers_to_freeze")))
        self._grid = None
        if self.settings.tile_grid_size is not None:
            self._grid = TileGrid(*self.settings.tile_grid_size, self.settings.tile_overlap_ratio)
        multi_scale = spec.hyperparameters.get("multi_scale")
        self._augmentation = self._family.augmentation(
            self.settings,
            with_geometry=spec.apply_automl_train_augmentations,
            with_mosaic=spec.apply_mosaic_for_yolo,
            multi_scale=multi_scale is not None and bool(multi_scale.value),
        )

    def load_weights(self, is_first: bool) -> PretrainedRecord | None:
        spec, network = self._spec, self.network
        if not is_first:
            if spec.pretrained:
                family_of(self._model_name).prepare_pretrained(network)
            return None
        return load_pretrained(network, self._model_name, spec.weights_dir, spec.pretrained)

    @property
    def largest_useful_side(self) -> int:
        return useful_side(self._augmentation, self._grid)

    def training_set(
        self, images: ImageCache, records: Sequence[Record], smallest_batch: int, ranks: Ranks
    ) -> DetectionTrainingSet:
        batch_size, seed, num_workers = (
            int(self._spec.value(name)) for name in ("training_batch_size", "random_seed", "number_of_workers")
        )
        return DetectionTrainingSet(
            images,
            records,
            self._classes,
            self._augmentation,
            batch_size,
            seed,
            num_workers,
            self._grid,
            smallest_batch,
            ranks.rank,
            ranks.size,
        )

    def evaluation_set(self, records: Sequence[Record], max_bytes: int) -> DetectionEvaluationSet:
        batch_size = int(self._spec.value("validation_batch_size"))
        return DetectionEvaluationSet(records, self._classes, self.settings, batch_size, max_bytes)

    def objective(
        self,
        sets: Sets[DetectionTrainingSet, DetectionEvaluationSet],
        hardware: Hardware,
        ranks: Ranks,
        publish: EventSink,
    ) -> DetectionObjective:
        with_training = self._spec.value("log_training_metrics") == "Enable"
        return DetectionObjective(
            self._spec.task,
            self._family.steps(
                self.network,
                self.settings,
                TrialParts(sets.training, int(self._spec.value("random_seed")), hardware, ranks, publish),
            ),
            self._classes,
            self.settings,
            metric_options_of(self._spec),
            sets.validation,
            with_validation_loss=self._spec.value("log_validation_loss") == "Enable",
            training_images=self.evaluation_set(sets.training_records, max_bytes=0) if with_training else None,
        )

    def optimizer(self, num_processes: int) -> torch.optim.Optimizer:
        options = optimizer_options_of(self._spec)
        batch_size, accumulation = (
            int(self._spec.value(name)) for name in ("training_batch_size", "gradient_accumulation_step")
        )
        images_per_step = batch_size * num_processes * accumulation
        return build_optimizer(self._family.parameters(self.network, options.weight_decay, images_per_step), options)

    def average(self, num_updates: int) -> WeightAverage | None:
        return WeightAverage(self.network, num_updates) if self._family.averages_weights else None

    def loop_options(self) -> LoopOptions:
        return replace(loop_options_of(self._spec), max_gradient_norm=_GRADIENT_NORM)

    def early_stopping(self) -> EarlyStopping:
        stopping = early_stopping_of(self._spec)
        if self._spec.value("validation_metric_type") == "none":
            stopping.enabled = False
        return stopping

    def draw_charts(self, folder: Path, objective: DetectionObjective) -> list[Path]:
        findings = objective.find(self.network)
        options, classes = objective.options, self._classes
        files = write_detection_charts(folder, findings.truths, findings.predictions, classes, options, self._spec.task)
        shown = [
            (decode_image(record.image.read_bytes()), truth, found.above(options.box_score_threshold))
            for record, truth, found in zip(
                objective.validation.records[:MAX_SAMPLES], findings.truths, findings.predictions, strict=False
            )
        ]
        return [*files, *write_samples(folder, shown, classes)]


def _require_objects(records: TrialRecords, needs_validation: bool) -> None:
    """Images without objects take part, but some must have one."""
    parts = {"training": records.training, **({"validation": records.validation} if needs_validation else {})}
    for name, part in parts.items():
        if not any(not one.is_crowd for record in part for one in record.instances or record.boxes):
            remedy = "" if name == "training" else ", or set validation_metric_type to none"
            message = (
                f"at least one {name} picture must show an object that is no crowd, but none of {len(part)} does; "
                f"label some{remedy}"
            )
            raise InvalidData(f"{name} data", [Fault("BAD_DATA", name, message)])
