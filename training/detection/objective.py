"""The objective of detectors: the loss of the family, and the metrics of detections as serving would make them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from clearsight.documents.settings import DetectorSettings
from clearsight.tasks import Task
from clearsight.training.detection.data import DetectionBatch, DetectionEvaluationSet
from clearsight.training.detection.family import DetectorSteps
from clearsight.training.detection.metrics import DetectionMetrics, MetricOptions, detection_metrics
from clearsight.training.detection.predict import SetPredictions, predict_set
from clearsight.training.engine.objective import Evaluation, StepOutput
from clearsight.training.engine.ranks import Ranks

__all__ = ["DetectionObjective"]


@dataclass(slots=True)
class DetectionObjective:
    """Object detection or instance segmentation; the methods are those of `Objective`."""

    task: Task
    steps: DetectorSteps
    classes: tuple[str, ...]
    settings: DetectorSettings
    options: MetricOptions
    validation: DetectionEvaluationSet
    training_images: DetectionEvaluationSet | None = None
    """Training images without augmentation, of which each pass also computes the metrics; None: it does not."""

    sum_names: ClassVar[tuple[str, ...]] = ("training_loss",)

    @property
    def gradient(self) -> Literal["mean", "sum"]:
        return self.steps.gradient

    @property
    def primary_metric(self) -> str | None:
        return None if self.options.validation_metric_type == "none" else self.task.primary_metric

    def training_step(self, module: nn.Module, batch: DetectionBatch) -> StepOutput:
        loss, num_images = self.steps.training_step(module, batch), len(batch.images_HWC)
        total: torch.Tensor = loss.detach()
        if self.gradient == "mean":
            total = total * num_images
        return StepOutput(loss, num_images, {"training_loss": total})

    def evaluate(self, network: nn.Module, ranks: Ranks) -> Evaluation:
        values: dict[str, float] = {}
        per_label: dict[str, dict[str, float]] = {}
        with_loss = self.options.log_validation_loss == "Enable"
        if self.primary_metric is not None or with_loss:
            predicted = self.predict(network, ranks, with_loss)
            measured = self._measure(predicted)
            values, per_label = dict(measured.values), measured.per_label
            if predicted.loss is not None:
                values["validation_loss"] = predicted.loss
        if self.training_images is not None and self.primary_metric is not None:
            predicted = predict_set(network, self.steps, self.training_images, self.settings, ranks)
            values |= {f"{name}_train": value for name, value in self._measure(predicted).values.items()}
        return Evaluation(values, per_label)

    def predict(self, network: nn.Module, ranks: Ranks | None = None, with_loss: bool = False) -> SetPredictions:
        """Predict the validation images."""
        return predict_set(network, self.steps, self.validation, self.settings, ranks, with_loss)

    def _measure(self, predicted: SetPredictions) -> DetectionMetrics:
        return detection_metrics(predicted.predictions, predicted.truths, self.classes, self.options, self.task)
