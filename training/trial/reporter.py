"""Writes events, metrics and status of a trial into its run folder. Of several processes only the first one writes."""

from typing import Any

from torch import nn

from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.training.engine.checkpoint import Counters, save_weights
from clearsight.training.engine.objective import Evaluation

__all__ = ["Reporter"]


class Reporter:
    """Writes events, metrics and status of a run; a silent one does nothing. Also the loop's listener."""

    def __init__(self, folder: RunFolder, is_silent: bool) -> None:
        self._folder = folder
        self._is_silent = is_silent

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event."""
        if not self._is_silent:
            self._folder.append_event(kind, **fields)

    def status(self, status: RunStatus) -> None:
        """Replace the status."""
        if not self._is_silent:
            self._folder.write_status(status)

    def progress(self, counters: Counters, num_batches: int, loss: float, learning_rate: float) -> None:
        self.event(
            "progress",
            epoch=counters.epoch,
            batch=counters.batch,
            num_batches=num_batches,
            step=counters.step,
            loss=loss,
            learning_rate=learning_rate,
        )

    def evaluated(self, counters: Counters, evaluation: Evaluation, improved: bool) -> None:
        if self._is_silent:
            return
        self._folder.append_metrics(counters.epoch, counters.step, evaluation.metrics)
        table = {"per_label": evaluation.per_label} if evaluation.per_label else {}
        self.event("evaluated", epoch=counters.epoch, improved=improved, metrics=evaluation.metrics, **table)

    def keep_weights(self, network: nn.Module, epoch: int) -> None:
        if not self._is_silent:
            save_weights(self._folder.outputs / "checkpoints" / f"model_{epoch}.safetensors", network)
