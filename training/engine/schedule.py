"""Learning-rate schedules: a multiplier of the initial rate for each optimizer step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

__all__ = ["SCHEDULES", "Schedule", "StepDecay", "WarmupCosine"]


class Schedule(Protocol):
    """The options of a schedule, and its values."""

    def multiplier(self, step: int, steps_per_epoch: int) -> float:
        """Factor of the initial learning rate for an optimizer step, counted from 0."""


@dataclass(frozen=True, slots=True)
class WarmupCosine:
    """Linear warm-up, then a section of a cosine.

    Azure names the parameters and not the formula; this is the one that `cycles` = 0.5 makes the usual half cosine
    (`get_cosine_schedule_with_warmup` of Hugging Face transformers).
    """

    num_epochs: int
    warmup_epochs: int = 2
    """Lowered to `num_epochs` - 1 when longer, so that a job of one epoch has none."""
    cycles: float = 0.45
    """Share of a full cosine wave: 0.45 ends near 0, 1 climbs back to 1."""

    @property
    def effective_warmup_epochs(self) -> int:
        return self.warmup_epochs if self.warmup_epochs < self.num_epochs else max(0, self.num_epochs - 1)

    def multiplier(self, step: int, steps_per_epoch: int) -> float:
        warmup = self.effective_warmup_epochs * steps_per_epoch
        if step < warmup:
            return step / warmup
        progress = (step - warmup) / max(1, self.num_epochs * steps_per_epoch - warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * self.cycles * progress)))


@dataclass(frozen=True, slots=True)
class StepDecay:
    """Multiplies the rate by `gamma` every `step_size` epochs."""

    gamma: float = 0.5
    step_size: int = 5

    def multiplier(self, step: int, steps_per_epoch: int) -> float:
        return float(self.gamma ** (step // steps_per_epoch // self.step_size))


SCHEDULES: Final[Mapping[str, type[WarmupCosine] | type[StepDecay]]] = MappingProxyType(
    {"warmup_cosine": WarmupCosine, "step": StepDecay}
)
"""By the value of the hyperparameter `learning_rate_scheduler`."""
