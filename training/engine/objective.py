"""The task's side of training: what the loop asks for, whatever the network is to learn."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch
from torch import nn

from clearsight.training.engine.ranks import Ranks

__all__ = ["Batches", "Evaluation", "NotFinite", "Objective", "StepOutput", "WeightedBatch"]


class WeightedBatch(Protocol):
    """What the loop itself reads of a batch."""

    @property
    def weight(self) -> float:
        """Of its mean loss, see `clearsight.training.engine.batch_stream.Part`."""


BatchT = TypeVar("BatchT", bound=WeightedBatch)
BatchT_co = TypeVar("BatchT_co", bound=WeightedBatch, covariant=True)
BatchT_contra = TypeVar("BatchT_contra", bound=WeightedBatch, contravariant=True)


class Batches(Protocol[BatchT_co]):
    """A training set in batches."""

    @property
    def num_batches(self) -> int:
        """Of each epoch."""

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[BatchT_co]:
        """The batches of one epoch, from `first_batch` on; a function of its arguments alone."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What came of one batch."""

    loss: torch.Tensor
    """What to differentiate: a mean or a sum over the images, as `Objective.gradient` says."""
    num_images: int
    sums: Mapping[str, torch.Tensor]
    """Under each of `Objective.sum_names` a number summed over the images; detached, on the device."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The numbers of one validation pass."""

    metrics: dict[str, float]
    per_label: dict[str, dict[str, float]] = field(default_factory=dict)
    """Class to metrics of its own; of tasks that have such a table."""


class NotFinite(Exception):
    """The network's answers are not finite numbers. The loop says when that was."""


class Objective(Protocol[BatchT_contra]):
    """How a network learns a task, and how well it does it. Several processes ask at the same moments."""

    @property
    def primary_metric(self) -> str | None:
        """The metric to maximise; None: there is none, and the last weights are the best."""

    @property
    def gradient(self) -> Literal["mean", "sum"]:
        """Whether a step follows the mean of the losses of its images, or their sum."""

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Of what is summed over the images of an epoch and reported as their mean, the first being the loss."""

    def training_step(self, module: nn.Module, batch: BatchT_contra) -> StepOutput:
        """One forward pass in training mode. `module` is the network as the processes share it."""

    def evaluate(self, network: nn.Module, ranks: Ranks) -> Evaluation:
        """A validation pass, in float32, as the package predicts; the network is in evaluation mode afterwards.

        The processes take a part each, and all get the whole. Raises `NotFinite`, in all of them.
        """
