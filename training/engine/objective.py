"""The interface between the training loop and a task: batches, losses and evaluation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch
from torch import nn

from clearsight.training.engine.early_stopping import VALIDATION_LOSSES
from clearsight.training.engine.ranks import Ranks

__all__ = ["Batches", "Evaluation", "NotFinite", "Objective", "StepOutput", "WeightedBatch"]


class WeightedBatch(Protocol):
    """The attributes of a batch that the training loop reads."""

    @property
    def weight(self) -> float:
        """Factor of the batch's mean loss, see `clearsight.training.engine.batch_stream.BatchShare`."""


BatchT = TypeVar("BatchT", bound=WeightedBatch)
BatchT_co = TypeVar("BatchT_co", bound=WeightedBatch, covariant=True)
BatchT_contra = TypeVar("BatchT_contra", bound=WeightedBatch, contravariant=True)


class Batches(Protocol[BatchT_co]):
    """A training set in batches."""

    @property
    def num_batches(self) -> int:
        """Number of batches of each epoch."""

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[BatchT_co]:
        """The batches of one epoch, from `first_batch` on; a function of its arguments alone."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Result of the forward pass of one batch."""

    loss: torch.Tensor
    """The loss to differentiate: a mean or a sum over the images, as `Objective.gradient` says."""
    num_images: int
    sums: Mapping[str, torch.Tensor]
    """One number per name of `Objective.sum_names`, summed over the images; detached, on the device."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The numbers of one validation pass."""

    metrics: dict[str, float]
    per_label: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metrics of each class; empty for tasks without such a table."""

    @property
    def loss(self) -> float | None:
        """Loss on the validation images; None where it is not measured."""
        return next((self.metrics[name] for name in VALIDATION_LOSSES if name in self.metrics), None)


class NotFinite(Exception):
    """The network's outputs are not finite numbers. The loop adds the epoch and the step."""


class Objective(Protocol[BatchT_contra]):
    """Loss and evaluation of a task. In a group of processes, all call its methods at the same steps."""

    @property
    def primary_metric(self) -> str | None:
        """The metric to maximise; None: there is none, and the last weights are the best."""

    @property
    def gradient(self) -> Literal["mean", "sum"]:
        """Whether a step follows the mean of the losses of its images, or their sum."""

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of the quantities summed over an epoch's images and reported as means; the loss is first."""

    def training_step(self, module: nn.Module, batch: BatchT_contra) -> StepOutput:
        """One forward pass in training mode. `module` is the network as the processes share it."""

    def evaluate(self, network: nn.Module, ranks: Ranks) -> Evaluation:
        """A validation pass, in float32, as the package predicts; the network is in evaluation mode afterwards.

        Each process evaluates its share, and all return the whole result. Raises `NotFinite`, in all of them.
        """
