"""What an answer says about how an explanation came about: `explanation_details`, our addition, opt-in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from clearsight.handlers.explain.algorithms.context import Computation
from clearsight.handlers.explain.answering.quality import Faithfulness

__all__ = ["ExplanationDetails"]


@dataclass(frozen=True, slots=True)
class ExplanationDetails(Computation):
    """How the explanation of one label came about. None: has no meaning for the algorithm, or was not asked for."""

    algorithm: str
    label: str
    probability: float
    approximation_method: str | None = None
    baseline: str | None = None
    faithfulness: Faithfulness | None = None
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """By phase: `gradients`, `regions`, `picture`."""

    @classmethod
    def of(cls, computation: Computation, **more: Any) -> Self:
        """Details with the fields of a computation, but for those in `more`."""
        return cls(**{item.name: getattr(computation, item.name) for item in fields(Computation)} | more)

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
            "rise": self.rise,
            "delta_over_rise": self.delta_over_rise,
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
