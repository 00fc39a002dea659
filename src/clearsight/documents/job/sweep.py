"""The sampler and the early-termination policy of a sweep, and the limits of a job.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification (`limits`, `sweep`) and
https://learn.microsoft.com/azure/machine-learning/how-to-tune-hyperparameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from clearsight.documents.job.search_space import Expression, SubSpace
from clearsight.errors import Fault
from clearsight.fields import (
    ByShape,
    ByType,
    Integer,
    Number,
    OneOf,
    Section,
    Truth,
    broken_rule,
    given_values,
)

__all__ = ["EarlyTermination", "JobLimits", "Sweep", "SweepSection", "check_sweep"]

Algorithm = Literal["random", "grid", "bayesian"]
Policy = Literal["bandit", "median_stopping", "truncation_selection"]

_MINUTES_IN_60_DAYS: Final = 86_400
_WEEK_MINUTES: Final = 10_080
_BAYESIAN_TYPES: Final = ("choice", "uniform", "quniform")


@dataclass(frozen=True, slots=True)
class JobLimits(Section):
    """Limits of a job."""

    max_trials: Annotated[int, Integer(1, 1000)] = 1
    max_concurrent_trials: Annotated[int, Integer(1, 100)] = 1
    """At most `max_trials` in a job that was read from a file."""
    timeout_minutes: Annotated[int, Integer(1, _MINUTES_IN_60_DAYS)] = _WEEK_MINUTES
    """Time from the job's start until it is stopped."""


@dataclass(frozen=True, slots=True)
class EarlyTermination:
    """The policy that stops trials of a sweep early. An interval is one report of the primary metric."""

    type: Policy
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: float = 0.0
    slack_amount: float = 0.0
    truncation_percentage: int = 0
    exclude_finished_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Sweep:
    """The sampler of a sweep and its options."""

    sampling_algorithm: Algorithm
    seed: int | None = None
    rule: Literal["random", "sobol"] = "random"
    early_termination: EarlyTermination | None = None


@dataclass(frozen=True, slots=True)
class _Random(Section):
    ignored_keys: ClassVar[tuple[str, ...]] = ("logbase",)

    type: Annotated[Literal["random"], OneOf(("random",))]
    seed: Annotated[int, Integer(0)] | None = None
    rule: Annotated[Literal["random", "sobol"], OneOf(("random", "sobol"))] = "random"


@dataclass(frozen=True, slots=True)
class _Grid(Section):
    type: Annotated[Literal["grid"], OneOf(("grid",))]


@dataclass(frozen=True, slots=True)
class _Bayesian(Section):
    type: Annotated[Literal["bayesian"], OneOf(("bayesian",))]


@dataclass(frozen=True, slots=True)
class _Policy(Section):
    type: Annotated[Policy, OneOf(("median_stopping",))]
    evaluation_interval: Annotated[int, Integer(0)] = 1
    """Azure's pages disagree on the default (0, 1); 0 can only mean "every report"."""
    delay_evaluation: Annotated[int, Integer(0)] = 0


@dataclass(frozen=True, slots=True)
class _Bandit(_Policy):
    type: Annotated[Policy, OneOf(("bandit",))]
    slack_factor: Annotated[float, Number(0)] = 0.0
    slack_amount: Annotated[float, Number(0)] = 0.0

    def __post_init__(self) -> None:
        if bool(self.slack_factor) == bool(self.slack_amount):
            given = "both" if self.slack_factor else "neither"
            message = f"exactly one of slack_factor and slack_amount must be above 0, but {given} is"
            raise broken_rule("BAD_SWEEP", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truncation(_Policy):
    type: Annotated[Policy, OneOf(("truncation_selection",))]
    truncation_percentage: Annotated[int, Integer(1, 99)]
    exclude_finished_jobs: Annotated[bool, Truth()] = False


_ALGORITHMS: Final = {"random": _Random, "grid": _Grid, "bayesian": _Bayesian}
_AlgorithmName = Annotated[Algorithm, OneOf(tuple(_ALGORITHMS))]
_AlgorithmOptions = Annotated[_Random | _Grid | _Bayesian, ByType(_ALGORITHMS)]
_POLICIES: Final = {"bandit": _Bandit, "median_stopping": _Policy, "truncation_selection": _Truncation}


@dataclass(frozen=True, slots=True)
class SweepSection(Section):
    """`sweep`. An algorithm is a word, or an object that also holds its options."""

    required_keys: ClassVar[tuple[str, ...]] = ("sampling_algorithm",)

    sampling_algorithm: (
        Annotated[
            Annotated[Algorithm, OneOf(tuple(_ALGORITHMS))]
            | Annotated[_Random | _Grid | _Bayesian, ByType(_ALGORITHMS)],
            ByShape(),
        ]
        | None
    ) = None
    early_termination: Annotated[_Bandit | _Policy | _Truncation, ByType(_POLICIES)] | None = None

    def to_sweep(self) -> Sweep | None:
        """The sweep of the job; None without a usable algorithm."""
        if self.sampling_algorithm is None:
            return None
        policy = None
        if self.early_termination is not None:
            values = given_values(self.early_termination)
            policy = EarlyTermination(**{**values, "evaluation_interval": values["evaluation_interval"] or 1})
        if isinstance(self.sampling_algorithm, str):
            return Sweep(self.sampling_algorithm, early_termination=policy)
        options: dict[str, Any] = given_values(self.sampling_algorithm)
        return Sweep(options.pop("type"), **options, early_termination=policy)


def check_sweep(
    sweep: Sweep | None, has_sweep: bool, has_space: bool, spaces: Sequence[SubSpace], warnings: list[str]
) -> list[Fault]:
    """Faults of the rules that join `sweep` and `search_space`."""
    faults = []
    if has_sweep and not has_space:
        message = "needs a search_space; for an automatic sweep give limits.max_trials alone"
        faults.append(Fault("BAD_SWEEP", "sweep", message))
    if spaces and not has_sweep:
        warnings.append("search_space without sweep: trials are sampled at random, none is stopped early")
    if sweep is None:
        return faults
    expressions = [
        (index, name, expression)
        for index, space in enumerate(spaces)
        for name, expression in space.items()
        if isinstance(expression, Expression)
    ]
    allowed = {"grid": ("choice",), "bayesian": _BAYESIAN_TYPES}.get(sweep.sampling_algorithm)
    for index, name, expression in expressions:
        if allowed is not None and expression.type not in allowed:
            message = (
                f"{sweep.sampling_algorithm} sampling takes {', '.join(allowed)} only, but got {expression.type!r}"
            )
            faults.append(Fault("BAD_SWEEP", f"search_space[{index}].{name}", message))
    if sweep.sampling_algorithm == "bayesian" and len(spaces) > 1:
        faults.append(
            Fault("BAD_SWEEP", "search_space", f"bayesian sampling takes one sub-space, but got {len(spaces)}")
        )
    if sweep.sampling_algorithm == "bayesian" and sweep.early_termination is not None:
        faults.append(
            Fault("BAD_SWEEP", "sweep.early_termination", "cannot be combined with bayesian sampling; leave one out")
        )
    return faults
