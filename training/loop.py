"""The training loop: batches, loss, step, evaluation, checkpoint. Stops at the end, early, or when asked.

Everything that a run remembers between two optimizer steps is in the network, the optimizer, torch's random state and
`Counters`; a checkpoint holds exactly these, so an interrupted run ends as an undisturbed one.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.errors import TrainingError
from clearsight.tasks import Task
from clearsight.training.checkpoint import Checkpoints, Counters
from clearsight.training.datasets import Batch, EvaluationSet, TrainingSet
from clearsight.training.early_stopping import EarlyStopping
from clearsight.training.hardware import Hardware
from clearsight.training.metrics import classification_metrics, probabilities
from clearsight.training.schedule import Schedule

__all__ = ["Ending", "Listener", "LoopOptions", "TrainingRun", "evaluate", "train"]

Ending = Literal["all_epochs", "early_stopping", "canceled"]

_REPORT_S: Final = 0.5
_CHECKPOINT_S: Final = 30.0  # a checkpoint of resnet18 with its momentum is 90 MB


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


class Listener(Protocol):
    """Hears of progress."""

    def progress(self, counters: Counters, num_batches: int, loss: float, learning_rate: float) -> None:
        """About twice a second. `loss` is the mean of the epoch so far."""

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
    counters: Counters = field(default_factory=Counters)


def train(run: TrainingRun) -> Ending:
    """Train until the last epoch, until the metric stops rising, or until `should_stop` says so.

    `run.counters` says afterwards which pass was the best; its weights are in the checkpoint folder. Raises
    `TrainingError` when the loss is no longer finite.
    """
    _restore(run)
    counters, options = run.counters, run.options
    saved_at = time.monotonic()
    while counters.epoch < options.num_epochs and not run.early_stopping.should_stop:
        if not _train_epoch(run):
            run.checkpoints.save_last(run.network, run.optimizer, counters)
            return "canceled"
        epoch = counters.epoch
        is_last = epoch == options.num_epochs - 1
        if (epoch + 1) % options.evaluation_frequency == 0 or is_last:
            _validate(run)
        if options.checkpoint_frequency is not None and (epoch + 1) % options.checkpoint_frequency == 0:
            run.listener.keep_weights(run.network, epoch)
        counters.start_epoch(epoch + 1)
        if is_last or run.early_stopping.should_stop or time.monotonic() - saved_at > _CHECKPOINT_S:
            run.checkpoints.save_last(run.network, run.optimizer, counters)
            saved_at = time.monotonic()
    return "all_epochs" if counters.epoch >= options.num_epochs else "early_stopping"


def evaluate(network: nn.Module, data: EvaluationSet, task: Task, device: torch.device) -> dict[str, float]:
    """Metrics of one pass over the validation set, in float32."""
    probs_NK = probabilities(_predict(network, data, device), task)
    return classification_metrics(data.targets, probs_NK, task)


def _restore(run: TrainingRun) -> None:
    counters = run.checkpoints.load_last(run.network, run.optimizer)
    if counters is None:
        return
    run.counters = counters
    stopping = run.early_stopping
    stopping.best, stopping.num_passes, stopping.num_stale = (
        counters.best_metric,
        counters.num_passes,
        counters.num_stale,
    )


def _train_epoch(run: TrainingRun) -> bool:
    """Finish the present epoch; False when stopped before its end, on a step boundary."""
    counters, accumulation = run.counters, run.options.accumulation
    _set_training_mode(run.network, run.frozen_prefixes)
    num_batches = run.training.num_batches
    sums = _Sums(counters, run.hardware.device)
    reported_at = time.monotonic()
    batches = run.training.epoch(counters.epoch, first_batch=counters.batch)
    for group in _groups(batches, accumulation):
        if run.should_stop():
            sums.write()
            return False
        learning_rate = run.options.learning_rate * run.schedule.multiplier(counters.step)
        for parameters in run.optimizer.param_groups:
            parameters["lr"] = learning_rate
        run.optimizer.zero_grad(set_to_none=True)
        for batch in group:
            _accumulate_gradients(run, batch, sums)
        run.optimizer.step()
        counters.step += 1
        counters.batch += len(group)
        if time.monotonic() - reported_at > _REPORT_S or counters.batch == num_batches:
            sums.write()
            _require_finite(counters)
            run.listener.progress(counters, num_batches, counters.loss_sum / counters.num_images, learning_rate)
            reported_at = time.monotonic()
    sums.write()
    return True


def _accumulate_gradients(run: TrainingRun, batch: Batch, sums: "_Sums") -> None:
    device = run.hardware.device
    images_NCHW = _to_network_input(batch.images_NPPC, run.mean, run.std, device)
    targets = torch.from_numpy(batch.targets).to(device)
    with run.hardware.training_pass():
        logits_NK = run.network(images_NCHW).float()
    loss = run.loss(logits_NK, targets)
    (loss / run.options.accumulation).backward()
    sums.add(loss.detach(), logits_NK.detach(), targets, run.task)


class _Sums:
    """Sums over an epoch, kept on the device until they are read."""

    def __init__(self, counters: Counters, device: torch.device) -> None:
        self._counters = counters
        self._num_images = counters.num_images
        start = [counters.loss_sum, counters.log_loss_sum, counters.num_correct]
        self._sums = torch.tensor(start, dtype=torch.float64, device=device)

    def add(self, loss: torch.Tensor, logits_NK: torch.Tensor, targets: torch.Tensor, task: Task) -> None:
        count = len(targets)
        if task is Task.MULTI_CLASS:
            log_loss = nn.functional.cross_entropy(logits_NK, targets)
            correct = (logits_NK.argmax(dim=1) == targets).sum()
        else:
            log_loss = nn.functional.binary_cross_entropy_with_logits(logits_NK, targets)
            correct = ((logits_NK >= 0) == (targets > 0.5)).all(dim=1).sum()
        self._sums += torch.stack([loss.double() * count, log_loss.double() * count, correct.double()])
        self._num_images += count

    def write(self) -> None:
        """Bring the counters up to date; waits for the device."""
        counters = self._counters
        counters.loss_sum, counters.log_loss_sum, counters.num_correct = self._sums.tolist()
        counters.num_images = self._num_images


def _validate(run: TrainingRun) -> None:
    counters = run.counters
    metrics = evaluate(run.network, run.validation, run.task, run.hardware.device)
    metrics["training_loss"] = counters.loss_sum / counters.num_images
    metrics["accuracy_train"] = counters.num_correct / counters.num_images
    metrics["log_loss_train"] = counters.log_loss_sum / counters.num_images
    improved = run.early_stopping.observe(metrics[run.task.primary_metric])
    if improved:
        counters.best_epoch, counters.best_metric = counters.epoch, run.early_stopping.best
        run.checkpoints.save_best(run.network, counters.epoch)
    counters.num_passes, counters.num_stale = run.early_stopping.num_passes, run.early_stopping.num_stale
    run.listener.evaluated(counters, metrics, improved)


def _predict(network: nn.Module, data: EvaluationSet, device: torch.device) -> npt.NDArray[np.float32]:
    network.eval()
    outputs = []
    with torch.inference_mode():
        for images in data.batches():
            images_NCHW = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
            outputs.append(network(images_NCHW).float())
        return np.asarray(torch.cat(outputs).cpu().numpy(), np.float32)


def _to_network_input(
    images_NPPC: npt.NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> torch.Tensor:
    """Normalise float32 (N, C, P, P) as a view of channels-last memory, which is how the pictures lie."""
    images = torch.from_numpy(images_NPPC).to(device).float()
    scale = 255.0 * torch.tensor(std, device=device)
    shift = 255.0 * torch.tensor(mean, device=device)
    return images.sub_(shift).div_(scale).permute(0, 3, 1, 2)


def _set_training_mode(network: nn.Module, frozen_prefixes: tuple[str, ...]) -> None:
    """Training mode, but for the batch norms of frozen layers, whose statistics stay."""
    network.train()
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.".startswith(frozen_prefixes or ("\0",)):
            module.eval()


def _groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _require_finite(counters: Counters) -> None:
    if not math.isfinite(counters.loss_sum):
        raise TrainingError(
            "diverged",
            f"the loss must stay finite, but it is not at epoch {counters.epoch + 1}, step {counters.step}; "
            "lower learning_rate or raise warmup_cosine_lr_warmup_epochs",
        )
