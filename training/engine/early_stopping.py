"""Ending a trial whose primary metric no longer rises."""

from dataclasses import dataclass, field
from typing import Final

__all__ = ["VALIDATION_LOSSES", "EarlyStopping", "EarlyStoppingOptions"]

VALIDATION_LOSSES: Final = ("log_loss", "validation_loss")
"""Names under which the validation loss of classification and of detection stands among the metrics."""


@dataclass(frozen=True, slots=True)
class EarlyStoppingOptions:
    """When a trial may end before its last epoch, see `EarlyStopping`."""

    enabled: bool = True
    delay: int = 5
    """Number of first validation passes that never count."""
    patience: int = 5
    """Number of validation passes without improvement after which the trial stops."""


@dataclass(slots=True)
class EarlyStopping:
    """Finds the best validation pass and counts passes without improvement; the metric is maximised.

    Of passes with the same metric, the one with the lower validation loss is the best, then the later one: on a small
    set many passes reach the same metric, and the first of them is the least trained.

    The first `delay` passes never count towards stopping. Afterwards a pass whose metric is strictly above the best so
    far resets the counter, any other adds one; at `patience` the trial stops. With delay 5 and patience 5 the earliest
    stop is after pass 10.
    """

    options: EarlyStoppingOptions = field(default_factory=EarlyStoppingOptions)
    num_passes: int = 0
    num_stale: int = 0
    best: float | None = None
    best_loss: float | None = None
    """Validation loss of the best pass, where it is measured."""

    def observe(self, metric: float, loss: float | None = None) -> bool:
        """Count one pass; return whether it is the best so far."""
        has_risen = self.best is None or metric > self.best
        is_lower = loss is None or self.best_loss is None or loss <= self.best_loss
        is_best = has_risen or (metric == self.best and is_lower)
        if is_best:
            self.best, self.best_loss = metric, loss
        self.num_passes += 1
        if self.num_passes > self.options.delay:
            self.num_stale = 0 if has_risen else self.num_stale + 1
        return is_best

    @property
    def should_stop(self) -> bool:
        return self.options.enabled and self.num_stale >= self.options.patience
