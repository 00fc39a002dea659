"""Sampling and early termination. https://learn.microsoft.com/azure/machine-learning/how-to-tune-hyperparameters"""

from collections.abc import Callable
from typing import Any

import pytest

from clearsight.documents.job import read_job
from clearsight.documents.job.sweep import EarlyTermination, Sweep

Make = Callable[..., dict[str, Any]]
RANGE = {"learning_rate": {"type": "uniform", "min_value": 0.001, "max_value": 0.01}}
CHOICE = {"learning_rate": {"type": "choice", "values": [0.001, 0.01]}}


def swept(document: Make, algorithm: Any, space: Any = None, **policy: Any) -> dict[str, Any]:
    sweep = {"sampling_algorithm": algorithm, **({"early_termination": policy} if policy else {})}
    return document(sweep=sweep, search_space=[CHOICE] if space is None else space)


def faults(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(fault.code, fault.target) for fault in read_job(document).faults]


def test_no_sweep_is_no_sweep(document: Make) -> None:
    job = read_job(document()).job
    assert job is not None
    assert job.sweep is None


@pytest.mark.parametrize("written", ["random", "Random", "RANDOM", {"type": "random"}, {"type": "Random"}])
def test_an_algorithm_is_a_word_or_an_object(written: Any, document: Make) -> None:
    job = read_job(swept(document, written)).job
    assert job is not None
    assert job.sweep == Sweep("random")


def test_random_sampling_takes_a_seed_a_rule_and_a_base(document: Make) -> None:
    job = read_job(swept(document, {"type": "random", "seed": "7", "rule": "Sobol", "logbase": "e"})).job
    assert job is not None
    assert job.sweep == Sweep("random", seed=7, rule="sobol")


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (None, ("MISSING_KEY", "sweep.sampling_algorithm")),
        ("genetic", ("BAD_ENUM", "sweep.sampling_algorithm")),
        ({}, ("MISSING_KEY", "sweep.sampling_algorithm.type")),
        ({"type": "random", "rule": "halton"}, ("BAD_ENUM", "sweep.sampling_algorithm.rule")),
        ({"type": "random", "seed": 0.5}, ("BAD_TYPE", "sweep.sampling_algorithm.seed")),
        ({"type": "grid", "seed": 1}, ("UNKNOWN_KEY", "sweep.sampling_algorithm.seed")),
    ],
)
def test_faulty_algorithms_are_named(algorithm: Any, expected: tuple[str, str], document: Make) -> None:
    assert faults(swept(document, algorithm)) == [expected]


def test_a_space_without_a_sweep_is_sampled_at_random_with_a_warning(document: Make) -> None:
    reading = read_job(document(search_space=[RANGE]))
    assert reading.faults == ()
    assert any("random" in warning for warning in reading.warnings)


@pytest.mark.parametrize("space", [[], None])
def test_a_sweep_needs_a_space(space: Any, document: Make) -> None:
    assert faults(document(sweep={"sampling_algorithm": "random"}, search_space=space)) == [("BAD_SWEEP", "sweep")]


# Azure's grid sampler takes choices; its Bayesian sampler takes choice, uniform and quniform, in one space.
OTHERS = {
    "randint": {"type": "randint", "upper": 3},
    "uniform": {"type": "uniform", "min_value": 0, "max_value": 1},
    "quniform": {"type": "quniform", "min_value": 0, "max_value": 1, "q": 1},
    "loguniform": {"type": "loguniform", "min_value": -3, "max_value": 0},
    "qloguniform": {"type": "qloguniform", "min_value": -3, "max_value": 0, "q": 1},
    "normal": {"type": "normal", "mu": 0, "sigma": 1},
    "qnormal": {"type": "qnormal", "mu": 0, "sigma": 1, "q": 1},
    "lognormal": {"type": "lognormal", "mu": 0, "sigma": 1},
    "qlognormal": {"type": "qlognormal", "mu": 0, "sigma": 1, "q": 1},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_grid_and_bayesian_take_some_distributions(kind: str, document: Make) -> None:
    space = [{"momentum": OTHERS[kind]}]
    refused = [("BAD_SWEEP", "search_space[0].momentum")]
    assert faults(swept(document, "random", space)) == []
    assert faults(swept(document, "grid", space)) == refused
    assert faults(swept(document, "Bayesian", space)) == ([] if kind in ("uniform", "quniform") else refused)


def test_grid_takes_fixed_values_and_several_spaces(document: Make) -> None:
    assert faults(swept(document, "grid", [CHOICE, {"momentum": 0.5, **CHOICE}])) == []


def test_bayesian_takes_one_space_and_no_policy(document: Make) -> None:
    assert faults(swept(document, "bayesian", [CHOICE])) == []
    assert faults(swept(document, "bayesian", [CHOICE, CHOICE])) == [("BAD_SWEEP", "search_space")]
    stopped = swept(document, "bayesian", [CHOICE], type="median_stopping")
    assert faults(stopped) == [("BAD_SWEEP", "sweep.early_termination")]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"type": "median_stopping"}, EarlyTermination("median_stopping", 1, 0)),
        ({"type": "MedianStopping", "evaluation_interval": 0}, EarlyTermination("median_stopping", 1, 0)),
        ({"type": "median_stopping", "evaluation_interval": None}, EarlyTermination("median_stopping", 1, 0)),
        (
            {"type": "median_stopping", "evaluation_interval": 2, "delay_evaluation": 5},
            EarlyTermination("median_stopping", 2, 5),
        ),
        ({"type": "Bandit", "slack_factor": "0.2"}, EarlyTermination("bandit", slack_factor=0.2)),
        ({"type": "bandit", "slack_factor": 0.2, "slack_amount": 0}, EarlyTermination("bandit", slack_factor=0.2)),
        ({"type": "bandit", "slack_factor": 0.0, "slack_amount": 0.1}, EarlyTermination("bandit", slack_amount=0.1)),
        (
            {"type": "truncation_selection", "truncation_percentage": 99},
            EarlyTermination("truncation_selection", truncation_percentage=99),
        ),
        (
            {"type": "TruncationSelection", "truncation_percentage": "20", "exclude_finished_jobs": True},
            EarlyTermination("truncation_selection", truncation_percentage=20, exclude_finished_jobs=True),
        ),
    ],
)
def test_policies_are_read(policy: dict[str, Any], expected: EarlyTermination, document: Make) -> None:
    job = read_job(swept(document, "random", **policy)).job
    assert job is not None
    assert job.sweep is not None
    assert job.sweep.early_termination == expected


@pytest.mark.parametrize(
    ("policy", "code", "key"),
    [
        ({"slack_factor": 0.1}, "MISSING_KEY", ".type"),
        ({"type": "hyperband"}, "BAD_ENUM", ".type"),
        ({"type": "bandit"}, "BAD_SWEEP", ""),
        ({"type": "bandit", "slack_factor": 0}, "BAD_SWEEP", ""),
        ({"type": "bandit", "slack_factor": 0.1, "slack_amount": 0.1}, "BAD_SWEEP", ""),
        ({"type": "bandit", "slack_factor": 0.1, "truncation_percentage": 5}, "UNKNOWN_KEY", ".truncation_percentage"),
        ({"type": "median_stopping", "slack_factor": 0.1}, "UNKNOWN_KEY", ".slack_factor"),
        ({"type": "median_stopping", "evaluation_interval": -1}, "OUT_OF_RANGE", ".evaluation_interval"),
        ({"type": "median_stopping", "delay_evaluation": -1}, "OUT_OF_RANGE", ".delay_evaluation"),
        ({"type": "median_stopping", "delay_evaluation": 0.5}, "BAD_TYPE", ".delay_evaluation"),
        ({"type": "truncation_selection"}, "MISSING_KEY", ".truncation_percentage"),
        ({"type": "truncation_selection", "truncation_percentage": 0}, "OUT_OF_RANGE", ".truncation_percentage"),
        ({"type": "truncation_selection", "truncation_percentage": 100}, "OUT_OF_RANGE", ".truncation_percentage"),
        ({"type": "truncation_selection", "truncation_percentage": 2.5}, "BAD_TYPE", ".truncation_percentage"),
    ],
)
def test_faults_of_policies_name_the_key(policy: dict[str, Any], code: str, key: str, document: Make) -> None:
    assert faults(swept(document, "random", **policy)) == [(code, f"sweep.early_termination{key}")]


def test_a_negative_slack_is_out_of_range(document: Make) -> None:
    found = faults(swept(document, "random", type="bandit", slack_factor=-0.1))
    assert ("OUT_OF_RANGE", "sweep.early_termination.slack_factor") in found
