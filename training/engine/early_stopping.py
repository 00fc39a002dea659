"""Ending a trial whose primary metric no longer rises."""

from dataclasses import dataclass

__all__ = ["EarlyStopping"]


@dataclass(slots=True)
class EarlyStopping:
    """Counts validation passes without improvement; the metric is maximised.

    The first `delay` passes never count. Afterwards a pass strictly better than the best so far resets the counter,
    any other adds one; at `patience` the trial stops. With delay 5 and patience 5 the earliest stop is after pass 10.
    """

    enabled: bool = True
    delay: int = 5
    patience: int = 5
    num_passes: int = 0
    num_stale: int = 0
    best: float | None = None

    def observe(self, metric: float) -> bool:
        """Count one pass; return whether it is strictly better than all before."""
        improved = self.best is None or metric > self.best
        if improved:
            self.best = metric
        self.num_passes += 1
        if self.num_passes > self.delay:
            self.num_stale = 0 if improved else self.num_stale + 1
        return improved

    @property
    def should_stop(self) -> bool:
        return self.enabled and self.num_stale >= self.patience
