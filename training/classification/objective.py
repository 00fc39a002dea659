"""The objective of classifiers: cross-entropy of logits, and scikit-learn's metrics of a validation set."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.tasks import Task
from clearsight.training.classification.datasets import Batch, EvaluationSet
from clearsight.training.classification.metrics import classification_metrics
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.objective import Evaluation, NotFinite, StepOutput
from clearsight.training.engine.ranks import Ranks
from clearsight.vision.probabilities import probabilities

__all__ = ["ClassificationObjective", "predict"]


@dataclass(slots=True)
class ClassificationObjective:
    """Multi-class or multi-label; the methods are those of `Objective`."""

    task: Task
    loss: nn.Module
    """Loss of logits and targets: a mean over the images, weighted by class where the job asks for it."""
    validation: EvaluationSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hardware: Hardware

    gradient: ClassVar[Literal["mean"]] = "mean"
    sum_names: ClassVar[tuple[str, ...]] = ("training_loss", "log_loss_train", "accuracy_train")

    @property
    def primary_metric(self) -> str:
        return self.task.primary_metric

    def training_step(self, module: nn.Module, batch: Batch) -> StepOutput:
        device = self.hardware.device
        images_NCHW = _to_network_input(batch, self.mean, self.std, device)
        targets = torch.from_numpy(batch.targets).to(device)
        with self.hardware.training_pass():
            logits_NK = module(images_NCHW).float()
        loss = self.loss(logits_NK, targets)
        return StepOutput(loss, len(targets), self._sums(loss.detach(), logits_NK.detach(), targets))

    def _sums(self, loss: torch.Tensor, logits_NK: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss that is minimised, the log loss without class weights, and the correct answers."""
        if self.task is Task.MULTI_CLASS:
            log_loss = nn.functional.cross_entropy(logits_NK, targets)
            correct = (logits_NK.argmax(dim=1) == targets).sum()
        else:
            log_loss = nn.functional.binary_cross_entropy_with_logits(logits_NK, targets)
            correct = ((logits_NK >= 0) == (targets > 0.5)).all(dim=1).sum()
        count = torch.full_like(loss, len(targets))
        return dict(zip(self.sum_names, (loss * count, log_loss * count, correct.to(loss.dtype)), strict=True))

    def evaluate(self, network: nn.Module, ranks: Ranks) -> Evaluation:
        logits_NK = predict(network, self.validation, self.hardware.device, ranks)
        if not np.isfinite(logits_NK).all():
            raise NotFinite
        probs_NK = probabilities(logits_NK, self.task)
        return Evaluation(classification_metrics(self.validation.targets, probs_NK, self.task))


def predict(
    network: nn.Module, data: EvaluationSet, device: torch.device, ranks: Ranks | None = None
) -> npt.NDArray[np.float32]:
    """Logits (N, K) in the order of the set; each of several processes predicts its share, and all get the result."""
    ranks = ranks or Ranks()
    share = ranks.share(len(data))
    network.eval()
    outputs = []
    with torch.inference_mode():
        for images in data.batches(share or range(1)):  # without a share, one image tells the number of classes
            images_NCHW = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
            outputs.append(network(images_NCHW).float())
        own_NK = np.asarray(torch.cat(outputs).cpu().numpy(), np.float32)[: len(share)]
    return ranks.all_gather_rows(own_NK, len(data))


def _to_network_input(
    batch: Batch, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> torch.Tensor:
    """Normalise float32 (N, C, P, P) as a view of channels-last memory, the memory order of the images."""
    images = torch.from_numpy(batch.images_NPPC).to(device).float()
    scale = 255.0 * torch.tensor(std, device=device)
    shift = 255.0 * torch.tensor(mean, device=device)
    return images.sub_(shift).div_(scale).permute(0, 3, 1, 2)
