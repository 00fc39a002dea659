"""The parts of a trial of object detection or instance segmentation, for all families of detectors."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from clearsight.documents.settings import RcnnSettings, SegmentationSettings, YoloSettings
from clearsight.errors import Fault, InvalidData
from clearsight.images.decode import decode_image
from clearsight.networks.families.detectors import (
    architecture_of,
    build_detector,
    detector_frozen_prefixes,
    load_pretrained_detector,
)
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.options import DEFAULT, LIGHT
from clearsight.networks.families.yolov5.loss import LOSS_OPTIONS, Yolov5Loss
from clearsight.networks.families.yolov5.network import Yolov5
from clearsight.networks.families.yolov5.parameters import parameter_groups
from clearsight.networks.weights import PretrainedRecord
from clearsight.tasks import Task
from clearsight.training.charts import write_detection_charts, write_samples
from clearsight.training.charts.samples import MAX_SAMPLES
from clearsight.training.classification.datasets import ImageCache
from clearsight.training.data.records import Record
from clearsight.training.detection import DetectionObjective, Family, RcnnFamily, Yolov5Family, autofit_anchors_to
from clearsight.training.detection.data import (
    DetectionAugmentation,
    DetectionEvaluationSet,
    DetectionTrainingSet,
    RcnnAugmentation,
    TileGrid,
    YoloAugmentation,
    useful_side,
)
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.loop import LoopOptions
from clearsight.training.engine.optimizer import ParameterGroup, build_optimizer
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

_NOMINAL_BATCH: Final = 64
"""Images of a step for which yolov5's weight decay is meant (the published recipe)."""
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
        self._options = LIGHT if spec.light_detector else DEFAULT
        size = model_size_of(spec)
        self.architecture = architecture_of(self._model_name, model_size=size, options=self._options)
        self.network: nn.Module = build_detector(
            self._model_name, len(records.classes), model_size=size, options=self._options
        )
        self.settings: YoloSettings | RcnnSettings | SegmentationSettings = detector_settings_of(spec)
        self.frozen_prefixes = detector_frozen_prefixes(self._model_name, int(spec.value("layers_to_freeze")))
        self._grid = None
        if self.settings.tile_grid_size is not None:
            self._grid = TileGrid(*self.settings.tile_grid_size, self.settings.tile_overlap_ratio)
        self._augmentation = _augmentation(spec, self.settings)

    def load_weights(self, is_first: bool) -> PretrainedRecord | None:
        spec, network = self._spec, self.network
        assert isinstance(network, Yolov5 | Detector)  # noqa: S101  what build_detector makes
        if not is_first:
            if spec.pretrained and isinstance(network, Detector):
                network.freeze_norms()  # as loading does
            return None
        return load_pretrained_detector(network, self._model_name, spec.weights_dir, spec.pretrained)

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
            self._family(sets.training, hardware, ranks, publish),
            self._classes,
            self.settings,
            metric_options_of(self._spec),
            sets.validation,
            with_validation_loss=self._spec.value("log_validation_loss") == "Enable",
            training_images=self.evaluation_set(sets.training_records, max_bytes=0) if with_training else None,
        )

    def _family(self, data: DetectionTrainingSet, hardware: Hardware, ranks: Ranks, publish: EventSink) -> Family:
        network, settings = self.network, self.settings
        if not isinstance(network, Yolov5):
            assert isinstance(settings, RcnnSettings)  # noqa: S101  there are two kinds
            return RcnnFamily(settings, self._spec.task is Task.SEGMENTATION, hardware)
        assert isinstance(settings, YoloSettings)  # noqa: S101  as above
        if ranks.is_first:
            check = autofit_anchors_to(data, network, settings.img_size, int(self._spec.value("random_seed")))
            publish("anchors", changed=check.changed, recall_before=check.recall_before, recall=check.recall)
        [anchors, *_] = ranks.all_gather_documents(
            "anchors", network.head.anchors.tolist()
        )  # the first process's weights may have own
        network.head.anchors.copy_(torch.tensor(anchors))
        options = LOSS_OPTIONS[model_size_of(self._spec)]
        loss = Yolov5Loss(network.head.anchors, network.num_classes, settings.img_size, options)
        return Yolov5Family(loss.to(hardware.device), settings, hardware)

    def optimizer(self, num_processes: int) -> torch.optim.Optimizer:
        options = optimizer_options_of(self._spec)
        if not isinstance(self.network, Yolov5):
            return build_optimizer(self.network.parameters(), options)
        groups = parameter_groups(self.network)
        batch_size, accumulation = (
            int(self._spec.value(name)) for name in ("training_batch_size", "gradient_accumulation_step")
        )
        decay = options.weight_decay * batch_size * num_processes * accumulation / _NOMINAL_BATCH
        return build_optimizer(
            (
                ParameterGroup(groups.weights, decay),
                ParameterGroup(groups.norms, 0.0),
                ParameterGroup(groups.biases, 0.0),
            ),
            options,
        )

    def average(self, num_updates: int) -> WeightAverage | None:
        return WeightAverage(self.network, num_updates) if isinstance(self.network, Yolov5) else None

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


def _augmentation(spec: TrialSpec, settings: YoloSettings | RcnnSettings) -> DetectionAugmentation:
    if isinstance(settings, YoloSettings):
        return YoloAugmentation(
            image_size=settings.img_size,
            with_mosaic=spec.apply_mosaic_for_yolo,
            with_geometry=spec.apply_automl_train_augmentations,
            multi_scale=bool(spec.value("multi_scale")),
        )
    return RcnnAugmentation(
        min_size=settings.min_size,
        max_size=settings.max_size,
        with_geometry=spec.apply_automl_train_augmentations,
        mean=settings.mean,
    )


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
