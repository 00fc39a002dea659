"""The training loop: batches, loss, step, evaluation, checkpoint. Stops at the last epoch, early, or on request.

The `Objective` defines the loss and the evaluation. All state of a run between two optimizer steps is in the network,
the average of its weights, the optimizer, the gradient scaler and `Counters`; a checkpoint holds exactly these, so an
interrupted run ends with the same weights as an undisturbed one. Random numbers are drawn anew at each step from (seed,
step, rank). Several processes (`Ranks`) execute this file in lockstep: they communicate at the same lines, and only the
first one writes.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from clearsight.errors import UserError
from clearsight.training.engine.checkpoint import Checkpoints, Counters
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.epoch_sums import EpochSums, diverged
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.objective import Batches, Evaluation, NotFinite, Objective, WeightedBatch
from clearsight.training.engine.ranks import Ranks
from clearsight.training.engine.schedule import Schedule
from clearsight.training.engine.weight_average import WeightAverage

__all__ = ["Ending", "Listener", "LoopOptions", "TrainingRun", "smallest_batch", "train"]

log = logging.getLogger("clearsight.trial")

Ending = Literal["all_epochs", "early_stopping", "canceled"]

_REPORT_S: Final = 0.5
_CHECKPOINT_S: Final = 30.0  # a checkpoint of resnet18 with its momentum is 90 MB
_CHECKPOINT_SHARE: Final = 0.02  # of the time at most: that of a large network takes seconds
BatchT = TypeVar("BatchT", bound=WeightedBatch)

_BATCH_NORM: Final = nn.modules.batchnorm._BatchNorm


class _Control(IntEnum):
    """What a process requests between two optimizer steps; the highest request of all processes applies."""

    CONTINUE = 0
    SAVE = 1
    """Write a checkpoint."""
    STOP = 2
    """Write a checkpoint and end the run."""


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Number of epochs, length of steps, and how often there are validation passes and kept weights."""

    num_epochs: int = 15
    accumulation: int = 1
    """Batches whose gradients make one optimizer step."""
    max_gradient_norm: float | None = None
    """Largest norm of the gradient of a step, to which a longer one is scaled down; None: no limit."""
    learning_rate: float = 0.01
    evaluation_frequency: int = 1
    """Epochs between validation passes; the last epoch is always validated."""
    checkpoint_frequency: int | None = None
    """Epochs between kept weights."""
    seed: int = 0
    """Seed of the random numbers that the network draws in training, such as dropout."""

    def steps_per_epoch(self, num_batches: int) -> int:
        """Number of optimizer steps in an epoch of `num_batches`; the last step may accumulate fewer batches."""
        return -(-num_batches // self.accumulation)


class Listener(Protocol):
    """Receives events of progress."""

    def progress(self, counters: Counters, num_batches: int, loss: float, learning_rate: float) -> None:
        """About twice a second. `loss` is the mean of the epoch so far, of this process's images."""

    def evaluated(self, counters: Counters, evaluation: Evaluation, improved: bool) -> None:
        """After each validation pass."""

    def keep_weights(self, network: nn.Module, epoch: int) -> None:
        """After every `checkpoint_frequency`-th epoch."""


@dataclass(slots=True)
class TrainingRun(Generic[BatchT]):
    """The objects that the loop works with."""

    objective: Objective[BatchT]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    training: Batches[BatchT]
    early_stopping: EarlyStopping
    options: LoopOptions
    hardware: Hardware
    frozen_prefixes: tuple[str, ...]
    checkpoints: Checkpoints
    listener: Listener
    should_stop: Callable[[], bool]
    average: WeightAverage | None = None
    """Moving average of the weights, validated and saved instead of the network; None: no average."""
    ranks: Ranks = field(default_factory=Ranks)
    counters: Counters = field(default_factory=Counters)

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and saved: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.network


def train(run: TrainingRun[BatchT]) -> Ending:
    """Train until the last epoch, until the metric stops rising, or until `should_stop` returns True.

    Afterwards `run.counters` names the best pass; its weights are in the checkpoint folder. Raises
    `TrainingError` when the loss is no longer finite.
    """
    return _Loop(run).run_to_end()


class _Loop(Generic[BatchT]):
    """State of the loop while a run is training."""

    def __init__(self, run: TrainingRun[BatchT]) -> None:
        self._run = run
        self._scaler = run.hardware.gradient_scaler()
        self._steps_per_epoch = run.options.steps_per_epoch(run.training.num_batches)
        self._restore()
        self._module = run.ranks.wrap(run.network, run.hardware.device)
        if run.average is not None and run.counters.step == 0:
            run.average.start_from(run.network)  # which has only now the weights of the first process
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
                run.listener.keep_weights(run.eval_model, epoch)
            counters.start_epoch(epoch + 1)
        self._save()
        return "all_epochs" if counters.epoch >= options.num_epochs else "early_stopping"

    def _restore(self) -> None:
        run, stopping = self._run, self._run.early_stopping
        average = None if run.average is None else run.average.network
        counters = run.checkpoints.load_last(run.network, run.optimizer, self._scaler, average)
        if counters is None:
            run.counters.num_processes = run.ranks.size
            return
        if counters.num_processes != run.ranks.size:
            raise UserError(
                f"a run must go on with as many processes as it began with, {counters.num_processes}, but got "
                f"{run.ranks.size}"
            )
        run.counters = counters
        stopping.best, stopping.best_loss = counters.best_metric, counters.best_loss
        stopping.num_passes, stopping.num_stale = counters.num_passes, counters.num_stale

    def _train_epoch(self) -> bool:
        """Finish the current epoch; False when stopped before its end, between two steps, with a checkpoint."""
        run, counters = self._run, self._run.counters
        _set_training_mode(run.network, run.frozen_prefixes)
        num_batches = run.training.num_batches
        sums = EpochSums(run.objective.sum_names, counters, run.hardware.device, run.ranks)
        reported_at = time.monotonic()
        batches = run.training.epoch(counters.epoch, first_batch=counters.batch)
        for group in _groups(batches, run.options.accumulation):
            control = run.ranks.all_reduce_max(self._own_control())
            if control != _Control.CONTINUE:
                sums.write_total(counters)
                self._save()
            if control == _Control.STOP:
                return False
            learning_rate = self._step(group, sums)
            counters.step += 1
            counters.batch += len(group)
            if time.monotonic() - reported_at > _REPORT_S or counters.batch == num_batches:
                run.listener.progress(counters, num_batches, sums.mean_loss(counters.epoch), learning_rate)
                reported_at = time.monotonic()
        sums.write_total(counters)
        return True

    def _own_control(self) -> _Control:
        run = self._run
        if run.should_stop():
            return _Control.STOP
        is_due = run.ranks.is_first and time.monotonic() - self._saved_at > self._pause_s
        return _Control.SAVE if is_due else _Control.CONTINUE

    def _step(self, group: list[BatchT], sums: EpochSums) -> float:
        """One optimizer step; return its learning rate."""
        run, step = self._run, self._run.counters.step
        learning_rate = run.options.learning_rate * run.schedule.multiplier(step, self._steps_per_epoch)
        for parameters in run.optimizer.param_groups:
            parameters["lr"] = learning_rate
        run.optimizer.zero_grad(set_to_none=True)
        draw = np.random.SeedSequence((run.options.seed, step, run.ranks.rank))
        torch.manual_seed(int(draw.generate_state(1, np.uint64)[0] >> 1))
        for batch in group[:-1]:
            with run.ranks.no_sync(self._module):
                self._accumulate_gradients(batch, sums)
        self._accumulate_gradients(group[-1], sums)
        if run.options.max_gradient_norm is not None:
            self._scaler.unscale_(run.optimizer)
            nn.utils.clip_grad_norm_(run.network.parameters(), run.options.max_gradient_norm)
        self._scaler.step(run.optimizer)
        self._scaler.update()
        if run.average is not None:
            run.average.update(run.network, step + 1)
        return learning_rate

    def _accumulate_gradients(self, batch: BatchT, sums: EpochSums) -> None:
        run = self._run
        output = run.objective.training_step(self._module, batch)
        # The gradients of the processes are averaged, so a sum is multiplied by their number first.
        is_mean = run.objective.gradient == "mean"
        share = batch.weight / run.options.accumulation if is_mean else float(run.ranks.size)
        self._scaler.scale(output.loss * share).backward()  # type: ignore[no-untyped-call]
        sums.add(output, run.counters.step)

    def _validate(self) -> None:
        run, counters, stopping = self._run, self._run.counters, self._run.early_stopping
        run.ranks.broadcast_buffers(run.eval_model)
        try:
            evaluation = run.objective.evaluate(run.eval_model, run.ranks)
        except NotFinite:
            raise diverged("the network's answers", counters.epoch, counters.step) from None
        metrics, name = evaluation.metrics, run.objective.primary_metric
        metrics |= counters.means()
        improved = name is None or stopping.observe(metrics[name], evaluation.loss)
        if improved:
            counters.best_epoch, counters.best_metric = counters.epoch, stopping.best
            counters.best_loss = stopping.best_loss
        counters.num_passes, counters.num_stale = stopping.num_passes, stopping.num_stale
        if improved and run.ranks.is_first:
            run.checkpoints.save_best(run.eval_model, counters)
        if run.ranks.is_first:
            shown = name or "training_loss"
            log.info("epoch %d: %s %.4f", counters.epoch + 1, shown, metrics[shown])
        run.listener.evaluated(counters, evaluation, improved)

    def _save(self) -> None:
        run, began_at = self._run, time.monotonic()
        if run.ranks.is_first:
            average = None if run.average is None else run.average.network
            run.checkpoints.save_last(run.network, run.optimizer, self._scaler, run.counters, average)
        self._saved_at = time.monotonic()
        self._pause_s = max(_CHECKPOINT_S, (self._saved_at - began_at) / _CHECKPOINT_SHARE)


def smallest_batch(network: nn.Module, frozen_prefixes: tuple[str, ...]) -> int:
    """Smallest number of images in a batch: 2 when a batch norm is trained, else 1."""
    _set_training_mode(network, frozen_prefixes)
    learns = any(isinstance(module, _BATCH_NORM) and module.training for module in network.modules())
    return 2 if learns else 1


def _set_training_mode(network: nn.Module, frozen_prefixes: tuple[str, ...]) -> None:
    """Set training mode, except for the batch norms of frozen layers, whose statistics stay as they are."""
    network.train()
    for name, module in network.named_modules():
        if isinstance(module, _BATCH_NORM) and f"{name}.".startswith(frozen_prefixes):
            module.eval()


def _groups(batches: Iterator[BatchT], size: int) -> Iterator[list[BatchT]]:
    group: list[BatchT] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
