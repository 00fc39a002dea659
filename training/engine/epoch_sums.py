"""Sums over the training images of an epoch: losses, correct answers and other quantities that the objective names."""

from collections.abc import Sequence

import torch

from clearsight.errors import TrainingError
from clearsight.training.engine.checkpoint import Counters
from clearsight.training.engine.objective import StepOutput
from clearsight.training.engine.ranks import Ranks

__all__ = ["EpochSums", "diverged"]


class EpochSums:
    """Sums over an epoch, kept on the device until they are read: reading waits for the device."""

    def __init__(self, names: Sequence[str], counters: Counters, device: torch.device, ranks: Ranks) -> None:
        self._names = tuple(names)
        self._ranks = ranks
        start = [counters.num_images, *(counters.sums.get(name, 0.0) for name in self._names)]
        # The counters hold the sums of all processes: one process starts with them, the others with zero.
        self._sums = torch.tensor(start, dtype=torch.float64, device=device) * float(ranks.is_first)
        self._diverged_step = torch.tensor(-1, device=device)

    def add(self, output: StepOutput, step: int) -> None:
        """Count one batch; step counts from 0."""
        loss = output.loss.detach()
        count = torch.full_like(loss, output.num_images)
        self._sums += torch.stack([count, *(output.sums[name] for name in self._names)])
        is_first_fault = ~torch.isfinite(loss) & (self._diverged_step < 0)
        self._diverged_step = torch.where(is_first_fault, step, self._diverged_step)

    def mean_loss(self, epoch: int) -> float:
        """Mean over this process's images so far. Raises `TrainingError` when a loss was not finite."""
        num_images, loss_sum, *_ = self._read(epoch)
        return loss_sum / num_images

    def write_total(self, counters: Counters) -> None:
        """Write the sums of all processes to the counters; all processes must call it."""
        self._read(counters.epoch)
        num_images, *sums = self._ranks.all_reduce_sum(self._sums).tolist()
        counters.num_images = int(num_images)
        counters.sums = dict(zip(self._names, sums, strict=True))

    def _read(self, epoch: int) -> list[float]:
        step = int(self._diverged_step)
        if step >= 0:
            raise diverged("the loss", epoch, step + 1)
        return list(self._sums.tolist())


def diverged(what: str, epoch: int, step: int) -> TrainingError:
    """The error for sums that are not finite after `step` steps, in an epoch counted from 0."""
    return TrainingError(
        "diverged",
        f"{what} must stay finite, but did not in epoch {epoch + 1} at step {step}; lower learning_rate or raise "
        "warmup_cosine_lr_warmup_epochs",
    )
