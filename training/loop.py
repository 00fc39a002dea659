"""The training loop: batches, loss, step, evaluation, checkpoint. Stops at the end, early, or when asked.

Everything that a run remembers between two optimizer steps is in the network, the optimizer, the gradient scaler and
`Counters`; a checkpoint holds exactly these, so an interrupted run ends as an undisturbed one. What is random is drawn
anew at each step from (seed, step, rank). Several processes (`Ranks`) walk through this file in step: they ask each
other at the same lines, and the first one writes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
import torch
from torch import nn

from clearsight.errors import UserError
from clearsight.tasks import Task
from clearsight.training.checkpoint import Checkpoints, Counters
from clearsight.training.datasets import Batch, EvaluationSet, TrainingSet
from clearsight.training.early_stopping import EarlyStopping
from clearsight.training.epoch_sums import EpochSums, diverged
from clearsight.training.evaluation import predict
from clearsight.training.hardware import Hardware
from clearsight.training.metrics import classification_metrics, probabilities
from clearsight.training.ranks import Ranks
from clearsight.training.schedule import Schedule

__all__ = ["Ending", "Listener", "LoopOptions", "TrainingRun", "smallest_batch", "train"]

log = logging.getLogger("clearsight.trial")

Ending = Literal["all_epochs", "early_stopping", "canceled"]

_REPORT_S: Final = 0.5
_CHECKPOINT_S: Final = 30.0  # a checkpoint of resnet18 with its momentum is 90 MB
_CHECKPOINT_SHARE: Final = 0.02  # of the time at most: that of a large network takes seconds
_BATCH_NORM: Final = nn.modules.batchnorm._BatchNorm
_SAVE, _STOP = 1, 2  # what a process may ask for between two steps; the highest wish wins


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How long and how often."""

    num_epochs: int = 15
    accumulation: int = 1
    """Batches whose gradients make one optimizer step."""
    learning_rate: float = 0.01
    evaluation_frequency: int = 1
    """Epochs between validation passes; the last epoch is always validated."""
    checkpoint_frequency: int | None = None
    """Epochs between kept weights."""
    seed: int = 0
    """Of what the network draws in training, such as dropout."""


class Listener(Protocol):
    """Hears of progress."""

    def progress(self, counters: Counters, num_batches: int, loss: float, learning_rate: float) -> None:
        """About twice a second. `loss` is the mean of the epoch so far, of this process's pictures."""

    def evaluated(self, counters: Counters, metrics: Mapping[str, float], improved: bool) -> None:
        """After each validation pass."""

    def keep_weights(self, network: nn.Module, epoch: int) -> None:
        """After every `checkpoint_frequency`-th epoch."""


@dataclass(slots=True)
class TrainingRun:
    """Everything the loop works on."""

    task: Task
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss: nn.Module
    training: TrainingSet
    validation: EvaluationSet
    early_stopping: EarlyStopping
    options: LoopOptions
    hardware: Hardware
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frozen_prefixes: tuple[str, ...]
    checkpoints: Checkpoints
    listener: Listener
    should_stop: Callable[[], bool]
    ranks: Ranks = field(default_factory=Ranks)
    counters: Counters = field(default_factory=Counters)


def train(run: TrainingRun) -> Ending:
    """Train until the last epoch, until the metric stops rising, or until `should_stop` says so.

    `run.counters` says afterwards which pass was the best; its weights are in the checkpoint folder. Raises
    `TrainingError` when the loss is no longer finite.
    """
    return _Loop(run).run_to_end()


class _Loop:
    """The run at work."""

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._scaler = run.hardware.gradient_scaler()
        self._restore()
        self._module = run.ranks.wrap(run.network, run.hardware.device)
        self._saved_at = time.monotonic()
        self._pause_s = _CHECKPOINT_S

    def run_to_end(self) -> Ending:
        run, counters, options = self._run, self._run.counters, self._run.options
        while counters.epoch < options.num_epochs and not run.early_stopping.should_stop:
            if not self._train_epoch():
                return "canceled"
            epoch = counters.epoch
            is_last = epoch == options.num_epochs - 1
            if (epoch + 1) % options.evaluation_frequency == 0 or is_last:
                self._validate()
            if options.checkpoint_frequency is not None and (epoch + 1) % options.checkpoint_frequency == 0:
                run.listener.keep_weights(run.network, epoch)
            counters.start_epoch(epoch + 1)
        self._save()
        return "all_epochs" if counters.epoch >= options.num_epochs else "early_stopping"

    def _restore(self) -> None:
        run, stopping = self._run, self._run.early_stopping
        counters = run.checkpoints.load_last(run.network, run.optimizer, self._scaler)
        if counters is None:
            run.counters.num_processes = run.ranks.size
            return
        if counters.num_processes != run.ranks.size:
            raise UserError(
                f"a run must go on with as many processes as it began with, {counters.num_processes}, but got "
                f"{run.ranks.size}"
            )
        run.counters = counters
        stopping.best, stopping.num_passes, stopping.num_stale = (
            counters.best_metric,
            counters.num_passes,
            counters.num_stale,
        )

    def _train_epoch(self) -> bool:
        """Finish the present epoch; False when stopped before its end, on a step boundary, with a checkpoint."""
        run, counters = self._run, self._run.counters
        _set_training_mode(run.network, run.frozen_prefixes)
        num_batches = run.training.num_batches
        sums = EpochSums(run.task, counters, run.hardware.device, run.ranks)
        reported_at = time.monotonic()
        batches = run.training.epoch(counters.epoch, first_batch=counters.batch)
        for group in _groups(batches, run.options.accumulation):
            wish = run.ranks.highest(self._wish())
            if wish:
                sums.write_total(counters)
                self._save()
            if wish == _STOP:
                return False
            learning_rate = self._step(group, sums)
            counters.step += 1
            counters.batch += len(group)
            if time.monotonic() - reported_at > _REPORT_S or counters.batch == num_batches:
                run.listener.progress(counters, num_batches, sums.mean_loss(counters.epoch), learning_rate)
                reported_at = time.monotonic()
        sums.write_total(counters)
        return True

    def _wish(self) -> int:
        run = self._run
        if run.should_stop():
            return _STOP
        is_due = run.ranks.is_first and time.monotonic() - self._saved_at > self._pause_s
        return _SAVE if is_due else 0

    def _step(self, group: list[Batch], sums: EpochSums) -> float:
        """One optimizer step; return its learning rate."""
        run, step = self._run, self._run.counters.step
        learning_rate = run.options.learning_rate * run.schedule.multiplier(step)
        for parameters in run.optimizer.param_groups:
            parameters["lr"] = learning_rate
        run.optimizer.zero_grad(set_to_none=True)
        draw = np.random.SeedSequence((run.options.seed, step, run.ranks.rank))
        torch.manual_seed(int(draw.generate_state(1, np.uint64)[0] >> 1))
        for batch in group[:-1]:
            with run.ranks.without_averaging(self._module):
                self._accumulate_gradients(batch, sums)
        self._accumulate_gradients(group[-1], sums)
        self._scaler.step(run.optimizer)
        self._scaler.update()
        return learning_rate

    def _accumulate_gradients(self, batch: Batch, sums: EpochSums) -> None:
        run, device = self._run, self._run.hardware.device
        images_NCHW = _to_network_input(batch, run.mean, run.std, device)
        targets = torch.from_numpy(batch.targets).to(device)
        with run.hardware.training_pass():
            logits_NK = self._module(images_NCHW).float()
        loss = run.loss(logits_NK, targets)
        self._scaler.scale(loss * (batch.weight / run.options.accumulation)).backward()
        sums.add(loss.detach(), logits_NK.detach(), targets, run.counters.step)

    def _validate(self) -> None:
        run, counters = self._run, self._run.counters
        run.ranks.equalize_buffers(run.network)
        logits_NK = predict(run.network, run.validation, run.hardware.device, run.ranks)
        if not np.isfinite(logits_NK).all():
            raise diverged("the network's answers", counters.epoch, counters.step)
        metrics = classification_metrics(run.validation.targets, probabilities(logits_NK, run.task), run.task)
        metrics["training_loss"] = counters.loss_sum / counters.num_images
        metrics["accuracy_train"] = counters.num_correct / counters.num_images
        metrics["log_loss_train"] = counters.log_loss_sum / counters.num_images
        improved = run.early_stopping.observe(metrics[run.task.primary_metric])
        if improved:
            counters.best_epoch, counters.best_metric = counters.epoch, run.early_stopping.best
            if run.ranks.is_first:
                run.checkpoints.save_best(run.network, counters.epoch)
        counters.num_passes, counters.num_stale = run.early_stopping.num_passes, run.early_stopping.num_stale
        if run.ranks.is_first:
            name = run.task.primary_metric
            log.info("epoch %d: %s %.4f", counters.epoch + 1, name, metrics[name])
        run.listener.evaluated(counters, metrics, improved)

    def _save(self) -> None:
        run, began_at = self._run, time.monotonic()
        if run.ranks.is_first:
            run.checkpoints.save_last(run.network, run.optimizer, self._scaler, run.counters)
        self._saved_at = time.monotonic()
        self._pause_s = max(_CHECKPOINT_S, (self._saved_at - began_at) / _CHECKPOINT_SHARE)


def smallest_batch(network: nn.Module, frozen_prefixes: tuple[str, ...]) -> int:
    """How many pictures a batch needs: 2 when a batch norm learns from it, else 1."""
    _set_training_mode(network, frozen_prefixes)
    learns = any(isinstance(module, _BATCH_NORM) and module.training for module in network.modules())
    return 2 if learns else 1


def _set_training_mode(network: nn.Module, frozen_prefixes: tuple[str, ...]) -> None:
    """Training mode, but for the batch norms of frozen layers, whose statistics stay."""
    network.train()
    for name, module in network.named_modules():
        if isinstance(module, _BATCH_NORM) and f"{name}.".startswith(frozen_prefixes):
            module.eval()


def _to_network_input(
    batch: Batch, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> torch.Tensor:
    """Normalise float32 (N, C, P, P) as a view of channels-last memory, which is how the pictures lie."""
    images = torch.from_numpy(batch.images_NPPC).to(device).float()
    scale = 255.0 * torch.tensor(std, device=device)
    shift = 255.0 * torch.tensor(mean, device=device)
    return images.sub_(shift).div_(scale).permute(0, 3, 1, 2)


def _groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
