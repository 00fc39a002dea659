"""How a sweep samples and when it stops trials early.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification (`limits`, `sweep`) and
https://learn.microsoft.com/azure/machine-learning/how-to-tune-hyperparameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from clearsight.documents.job.search_space import Expression, SubSpace
from clearsight.documents.section import Section, boolean, integer, number, one_of

__all__ = ["EarlyTermination", "JobLimits", "Sweep", "check_sweep", "read_limits", "read_sweep"]

Algorithm = Literal["random", "grid", "bayesian"]
Policy = Literal["bandit", "median_stopping", "truncation_selection"]

_MINUTES_IN_60_DAYS: Final = 86_400
_WEEK_MINUTES: Final = 10_080
_BAYESIAN_TYPES: Final = ("choice", "uniform", "quniform")


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What a job may use. The time counts from the job's start, in minutes."""

    max_trials: int = 1
    max_concurrent_trials: int = 1
    timeout_minutes: int = _WEEK_MINUTES


@dataclass(frozen=True, slots=True)
class EarlyTermination:
    """When a trial of a sweep is stopped. An interval is one report of the primary metric."""

    type: Policy
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: float = 0.0
    slack_amount: float = 0.0
    truncation_percentage: int = 0
    exclude_finished_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Sweep:
    """How trials are drawn from the search space."""

    sampling_algorithm: Algorithm
    seed: int | None = None
    rule: Literal["random", "sobol"] = "random"
    early_termination: EarlyTermination | None = None


def read_limits(section: Section | None) -> JobLimits:
    """Read `limits`; `max_concurrent_trials` is lowered to `max_trials`."""
    if section is None:
        return JobLimits()
    max_trials = section.take("max_trials", integer(1, 1000)) or 1
    concurrent = section.take("max_concurrent_trials", integer(1, 100)) or 1
    timeout = section.take("timeout_minutes", integer(1, _MINUTES_IN_60_DAYS)) or _WEEK_MINUTES
    section.finish()
    return JobLimits(max_trials, min(concurrent, max_trials), timeout)


def read_sweep(section: Section | None) -> Sweep | None:
    """Read `sweep`; None when absent or without a usable algorithm."""
    if section is None:
        return None
    algorithms = one_of(("random", "grid", "bayesian"))
    seed, rule = None, "random"
    if isinstance(section.raw("sampling_algorithm"), Mapping):
        inner = cast(Section, section.mapping("sampling_algorithm"))
        algorithm = inner.take("type", algorithms, required=True)
        if algorithm == "random":
            seed = inner.take("seed", integer(0))
            rule = inner.take("rule", one_of(("random", "sobol"))) or "random"
            inner.ignore("logbase")
        inner.finish()
    else:
        algorithm = section.take("sampling_algorithm", algorithms, required=True)
    policy = _read_policy(section.mapping("early_termination"))
    section.finish()
    if algorithm is None:
        return None
    return Sweep(cast(Algorithm, algorithm), seed, cast(Any, rule), policy)


def _read_policy(section: Section | None) -> EarlyTermination | None:
    if section is None:
        return None
    kind = section.take("type", one_of(("bandit", "median_stopping", "truncation_selection")), required=True)
    # Azure's pages disagree on the default (0, 1); 0 can only mean "every report".
    interval = section.take("evaluation_interval", integer(0)) or 1
    delay = section.take("delay_evaluation", integer(0)) or 0
    factor = amount = 0.0
    percentage, exclude = 0, False
    if kind == "bandit":
        factor = section.take("slack_factor", number(0)) or 0.0
        amount = section.take("slack_amount", number(0)) or 0.0
        if bool(factor) == bool(amount):
            given = "both" if factor else "neither"
            section.fault(
                "BAD_SWEEP", "", f"exactly one of slack_factor and slack_amount must be above 0, but {given} is"
            )
    elif kind == "truncation_selection":
        percentage = section.take("truncation_percentage", integer(1, 99), required=True) or 0
        exclude = section.take("exclude_finished_jobs", boolean) or False
    elif kind is None:
        section.ignore(*section.present())
    section.finish()
    if kind is None:
        return None
    return EarlyTermination(cast(Policy, kind), interval, delay, factor, amount, percentage, exclude)


def check_sweep(
    sweep: Sweep | None, has_sweep: bool, spaces: tuple[SubSpace, ...], top: Section, warnings: list[str]
) -> None:
    """Check the rules that join `sweep` and `search_space`."""
    if has_sweep and not spaces and not top.raw("search_space"):
        top.fault("BAD_SWEEP", "sweep", "needs a search_space; for an automatic sweep give limits.max_trials alone")
    if spaces and not has_sweep:
        warnings.append("search_space without sweep: trials are sampled at random, none is stopped early")
    if sweep is None:
        return
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
            top.fault("BAD_SWEEP", f"search_space[{index}].{name}", message)
    if sweep.sampling_algorithm == "bayesian" and len(spaces) > 1:
        top.fault("BAD_SWEEP", "search_space", f"bayesian sampling takes one sub-space, but got {len(spaces)}")
    if sweep.sampling_algorithm == "bayesian" and sweep.early_termination is not None:
        top.fault("BAD_SWEEP", "sweep.early_termination", "cannot be combined with bayesian sampling; leave one out")
