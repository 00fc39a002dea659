"""Ending a trial whose primary metric no longer rises."""

from dataclasses import dataclass, field

__all__ = ["EarlyStopping", "EarlyStoppingOptions"]


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
    """Counts validation passes without improvement; the metric is maximised.

    The first `delay` passes never count. Afterwards a pass strictly better than the best so far resets the counter,
    any other adds one; at `patience` the trial stops. With delay 5 and patience 5 the earliest stop is after pass 10.
    """

    options: EarlyStoppingOptions = field(default_factory=EarlyStoppingOptions)
    num_passes: int = 0
    num_stale: int = 0
    best: float | None = None

    def observe(self, metric: float) -> bool:
        """Count one pass; return whether it is strictly better than all before."""
        improved = self.best is None or metric > self.best
        if improved:
            self.best = metric
        self.num_passes += 1
        if self.num_passes > self.options.delay:
            self.num_stale = 0 if improved else self.num_stale + 1
        return improved

    @property
    def should_stop(self) -> bool:
        return self.options.enabled and self.num_stale >= self.options.patience
