"""What a task brings to a trial: network, sets, objective, charts. `trial` tells the story that uses them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from clearsight.documents.settings import Settings
from clearsight.networks.weights import PretrainedRecord
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.objective import Objective
from clearsight.training.engine.ranks import Ranks
from clearsight.training.engine.weight_average import WeightAverage
from clearsight.training.trial.data import Loadable, SetMaker, Sets

__all__ = ["EventSink", "TrialTask"]

EventSink = Callable[..., None]
"""Tells of an event: `Reporter.event`."""

TrainingT = TypeVar("TrainingT")
EvaluationT = TypeVar("EvaluationT", bound=Loadable)


class TrialTask(SetMaker[TrainingT, EvaluationT], Protocol[TrainingT, EvaluationT]):
    """One trial's parts. The methods are called once each, in this order."""

    network: nn.Module
    frozen_prefixes: tuple[str, ...]
    """Parameters of these names are not trained."""

    @property
    def settings(self) -> Settings:
        """Of serving, and so of validation."""

    def load_weights(self, is_first: bool) -> PretrainedRecord | None:
        """Start the network from pretrained weights.

        The first process loads them and the loop hands them to the others, which only do what else they ask for.
        """

    def objective(
        self, sets: Sets[TrainingT, EvaluationT], hardware: Hardware, ranks: Ranks, publish: EventSink
    ) -> Objective[Any]:
        """What is to be learnt. Changes the network where the data ask for it; it is on the device only afterwards."""

    def optimizer(self, num_processes: int) -> torch.optim.Optimizer:
        """For the network, which is on its device."""

    def average(self, num_updates: int) -> WeightAverage | None:
        """What is validated and kept in place of the network, if anything is."""

    def draw_charts(self, folder: Path, objective: Any) -> Sequence[Path]:
        """Draw what the best weights, which the network has now, answer."""
