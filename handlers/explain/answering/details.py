"""What an answer says about how an explanation came about: `explanation_details`, ours and opt-in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clearsight.handlers.explain.answering.quality import Faithfulness

__all__ = ["ExplanationDetails"]


@dataclass(frozen=True, slots=True)
class ExplanationDetails:
    """Of one explained label. `None` where something has no meaning for the algorithm or was not asked for."""

    algorithm: str
    label: str
    probability: float
    n_steps_used: int | None = None
    """Gradients along the path, per baseline."""
    approximation_method: str | None = None
    baseline: str | None = None
    convergence_delta: float | None = None
    """Sum of the attribution minus the difference of the scores at its ends."""
    relative_delta: float | None = None
    """Its absolute value over the sum of absolute attributions; below 0.002 is fine."""
    guided_rule: str | None = None
    localizer: str | None = None
    target_layer: str | None = None
    regions: int | None = None
    """Segments of all scales that XRAI ranked."""
    faithfulness: Faithfulness | None = None
    deadline_hit: bool = False
    """Whether the time ended before all steps were done; the map is that of `n_steps_used`."""
    degraded: bool = False
    """Whether less was computed than asked for."""
    warnings: tuple[str, ...] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """By phase: `gradients`, `regions`, `image`."""

    def to_document(self) -> dict[str, Any]:
        """The object of the answer, as plain data."""
        scores = self.faithfulness
        return {
            "algorithm": self.algorithm,
            "label": self.label,
            "probability": self.probability,
            "score": "logit",
            "n_steps_used": self.n_steps_used,
            "approximation_method": self.approximation_method,
            "baseline": self.baseline,
            "convergence_delta": self.convergence_delta,
            "relative_delta": self.relative_delta,
            "guided_rule": self.guided_rule,
            "localizer": self.localizer,
            "target_layer": self.target_layer,
            "regions": self.regions,
            "deletion_auc": scores.deletion_auc if scores else None,
            "insertion_auc": scores.insertion_auc if scores else None,
            "random_deletion_auc": scores.random_deletion_auc if scores else None,
            "deadline_hit": self.deadline_hit,
            "degraded": self.degraded,
            "warnings": list(self.warnings),
            "milliseconds": {phase: round(milliseconds) for phase, milliseconds in self.milliseconds.items()},
            "cached": False,
        }
