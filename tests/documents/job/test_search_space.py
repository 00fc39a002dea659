"""Expressions of search spaces: which parameter takes which, and every form in which they are written.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-sweep#parameter-expressions
"""

from collections.abc import Callable
from typing import Any

import pytest

from clearsight.documents.job import parse_job, read_job
from clearsight.documents.job.search_space import Expression

Make = Callable[..., dict[str, Any]]

# name -> fields that any parameter of numbers takes
EXPRESSIONS: dict[str, dict[str, Any]] = {
    "choice": {"values": [1, 1]},
    "randint": {"upper": 1},
    "uniform": {"min_value": 1, "max_value": 1},
    "quniform": {"min_value": 1, "max_value": 1, "q": 1},
    "loguniform": {"min_value": -1, "max_value": 0},
    "qloguniform": {"min_value": -1, "max_value": 0, "q": 1},
    "normal": {"mu": 1, "sigma": 1},
    "qnormal": {"mu": 1, "sigma": 1, "q": 1},
    "lognormal": {"mu": 0, "sigma": 1},
    "qlognormal": {"mu": 0, "sigma": 1, "q": 1},
}
OF_INTEGERS = {"choice", "randint", "quniform", "qloguniform", "qnormal", "qlognormal"}


def space(document: Make, name: str, expression: Any, task: str = "image_object_detection") -> dict[str, Any]:
    model = {} if name == "model_name" else {"model_name": "yolov5"}
    return document(task=task, search_space=[{**model, name: expression}])


@pytest.mark.parametrize("kind", EXPRESSIONS)
def test_each_kind_of_parameter_takes_the_documented_expressions(kind: str, document: Make) -> None:
    expression = {"type": kind, **EXPRESSIONS[kind]}
    text = f"{kind}({','.join(str(value) for field in EXPRESSIONS[kind].values() for value in _listed(field))})"
    for written in (expression, {**expression, "type": kind.upper()}, text, text.upper(), f" {text} "):
        for name, is_allowed in (
            ("learning_rate", True),
            ("number_of_epochs", kind in OF_INTEGERS),
            ("nesterov", kind == "choice"),
        ):
            reading = read_job(space(document, name, written))
            if not is_allowed:
                assert [fault.code for fault in reading.faults] == ["BAD_SWEEP"], (name, written)
                continue
            assert reading.faults == (), (name, written)
            assert reading.job is not None
            parsed = reading.job.search_space[0][name]
            assert isinstance(parsed, Expression)
            assert parsed.type == kind
            assert set(parsed.arguments) == set(EXPRESSIONS[kind])


def _listed(field: Any) -> list[Any]:
    return field if isinstance(field, list) else [field]


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("learning_rate", "uniform(0.001,0.01)", ("uniform", {"min_value": 0.001, "max_value": 0.01})),
        ("learning_rate", "loguniform(-6.9078, -2.3026)", ("loguniform", {"min_value": -6.9078, "max_value": -2.3026})),
        ("learning_rate", "choice(0.00001,0.1)", ("choice", {"values": (0.00001, 0.1)})),
        ("model_name", "choice('yolov5','retinanet_resnet50_fpn')", None),
        ("model_size", "choice('small','ExtraLarge')", ("choice", {"values": ("small", "extra_large")})),
        ("nesterov", "choice(True,False)", ("choice", {"values": (True, False)})),
        ("number_of_epochs", "randint(4)", ("randint", {"upper": 4})),
        ("number_of_epochs", "quniform(10,30,5)", ("quniform", {"min_value": 10, "max_value": 30, "q": 5})),
        ("tile_grid_size", "choice('3x2','(2, 1)')", ("choice", {"values": ("3x2", "2x1")})),
        ("learning_rate", "0.00001", 0.00001),
        ("number_of_epochs", "15", 15),
        ("nesterov", "True", True),
        ("model_name", "yolov5", "yolov5"),
        ("learning_rate", 0.1, 0.1),
        ("number_of_epochs", 15, 15),
        ("nesterov", False, False),
        ("optimizer", "AdamW", "adamw"),
        # `none` stands for the default.
        ("optimizer", {"type": "choice", "values": ["adam", "none"]}, ("choice", {"values": ("adam", "sgd")})),
        ("validation_metric_type", {"type": "choice", "values": ["none"]}, ("choice", {"values": ("none",)})),
    ],
)
def test_expressions_and_fixed_values_are_read(name: str, written: Any, expected: Any, document: Make) -> None:
    parsed = parse_job(space(document, name, written)).search_space[0][name]
    if name == "model_name" and expected is None:
        assert isinstance(parsed, Expression)
        assert parsed.values == ("yolov5", "retinanet_resnet50_fpn")
    elif isinstance(expected, tuple):
        assert parsed == Expression(expected[0], expected[1])
    else:
        assert (parsed, type(parsed)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "written", "code", "key"),
    [
        ("learning_rate", {"type": "uniform"}, "MISSING_KEY", ".min_value .max_value"),
        ("learning_rate", {"type": "normal", "mu": 1, "sigma": 0}, "OUT_OF_RANGE", ".sigma"),
        ("learning_rate", {"type": "quniform", "min_value": 0, "max_value": 1, "q": 0}, "OUT_OF_RANGE", ".q"),
        ("learning_rate", {"type": "uniform", "min_value": 1, "max_value": 0}, "OUT_OF_RANGE", ".min_value"),
        ("learning_rate", {"type": "triangular", "min_value": 1}, "BAD_ENUM", ".type"),
        ("learning_rate", {"values": [1]}, "MISSING_KEY", ".type"),
        ("learning_rate", {"type": "uniform", "min_value": "a", "max_value": 1}, "BAD_TYPE", ".min_value"),
        ("learning_rate", {"type": "choice", "values": [0.1, 2]}, "OUT_OF_RANGE", ".values"),
        ("learning_rate", {"type": "choice", "values": [0.1, None]}, "BAD_SWEEP", ".values"),
        ("learning_rate", {"type": "choice", "values": 0.1}, "BAD_SWEEP", ".values"),
        ("learning_rate", "uniform(0.1)", "MISSING_KEY", ".max_value"),
        ("learning_rate", "uniform(0.1,0.2,0.3)", "BAD_SWEEP", ""),
        ("learning_rate", "choice()", "BAD_SWEEP", ".values"),
        ("learning_rate", "triangular(1,2)", "BAD_TYPE", ""),
        ("learning_rate", [0.1, 0.2], "BAD_TYPE", ""),
        ("number_of_epochs", {"type": "randint", "upper": 0}, "OUT_OF_RANGE", ".upper"),
        ("number_of_epochs", {"type": "randint", "upper": 3, "lower": 1}, "UNKNOWN_KEY", ".lower"),
        ("number_of_epochs", {"type": "quniform", "min_value": 1.5, "max_value": 3, "q": 1}, "BAD_TYPE", ".min_value"),
        ("optimizer", {"type": "choice", "values": ["sgd", "lamb"]}, "BAD_ENUM", ".values"),
        ("model_name", {"type": "choice", "values": ["resnet18"]}, "BAD_MODEL", ""),
        ("advanced_settings", "{}", "BAD_SWEEP", ""),
        ("checkpoint_frequency", 1, "BAD_SWEEP", ""),
        ("checkpoint_run_id", "a", "BAD_SWEEP", ""),
        ("log_training_metrics", "Enable", "BAD_SWEEP", ""),
        ("log_validation_loss", "Enable", "BAD_SWEEP", ""),
        ("augmentations", "x", "UNKNOWN_KEY", ""),
        ("learnin_rate", 0.1, "UNKNOWN_KEY", ""),
    ],
)
def test_faults_of_expressions_name_the_key(name: str, written: Any, code: str, key: str, document: Make) -> None:
    faults = read_job(space(document, name, written)).faults
    expected = {(code, f"search_space[0].{name}{part}") for part in key.split() or [""]}
    assert {(fault.code, fault.target) for fault in faults} == expected


def test_an_empty_space_is_no_space(document: Make) -> None:
    for empty in (None, []):
        reading = read_job(document(search_space=empty))
        assert reading.job is not None
        assert reading.job.search_space == ()


@pytest.mark.parametrize("value", [{"learning_rate": 0.1}, "uniform(0,1)", 3])
def test_a_space_is_a_list_of_mappings(value: Any, document: Make) -> None:
    assert [fault.code for fault in read_job(document(search_space=value)).faults] == ["BAD_TYPE"]
    assert [fault.target for fault in read_job(document(search_space=[{}, 3])).faults] == ["search_space[1]"]
