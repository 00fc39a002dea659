"""The components that a task gives to a trial: network, sets, objective, predictions. `run` puts them together."""

from collections.abc import Callable, Mapping, Sequence
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

__all__ = ["EventSink", "TrialTask", "ValidationPredictions"]

EventSink = Callable[..., None]
"""Publishes an event: name, then its fields by keyword; `Reporter.event`."""

TrainingT = TypeVar("TrainingT")
EvaluationT = TypeVar("EvaluationT", bound=Loadable)


class ValidationPredictions(Protocol):
    """The predictions of a network for the validation images, and the truth."""

    def intervals(self) -> Mapping[str, list[float]]:
        """95 % intervals of the primary metric and of those that are measured with it, but for an accuracy's."""

    def draw_charts(self, folder: Path) -> Sequence[Path]:
        """Draw the charts; return their files."""


class TrialTask(SetMaker[TrainingT, EvaluationT], Protocol[TrainingT, EvaluationT]):
    """The components of one trial. The methods are called once each, in this order."""

    network: nn.Module
    frozen_prefixes: tuple[str, ...]
    """Parameters of these names are not trained."""

    @property
    def settings(self) -> Settings:
        """Settings of serving, by which validation images are prepared too."""

    def load_weights(self, is_first: bool) -> PretrainedRecord | None:
        """Start the network from pretrained weights.

        Only the first process loads them, and the loop sends them to the others; those only change the network as
        pretrained weights require it.
        """

    def objective(
        self, sets: Sets[TrainingT, EvaluationT], hardware: Hardware, ranks: Ranks, publish: EventSink
    ) -> Objective[Any]:
        """Make the objective. Changes the network, which is on the CPU, where the data require it, such as anchors."""

    def optimizer(self, num_processes: int) -> torch.optim.Optimizer:
        """Make the optimizer of the network, which is on its device."""

    def average(self, num_updates: int) -> WeightAverage | None:
        """Make the average of the weights that is validated and kept in place of the network; None: there is none."""

    def predict_validation(self, objective: Any) -> ValidationPredictions:
        """Predict the validation images with the network, which has the best weights now."""
