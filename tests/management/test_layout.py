import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.deployment.document import DeploymentDocument, parse_deployment
from clearsight.documents.deployment.layout import MeasuredLayout
from clearsight.errors import InvalidDocument
from clearsight.serving.supervisor.layout import (
    choose_explain_lane,
    choose_layout,
    needs_measurement,
    read_measurement,
    serving_plan,
    serving_plans,
)
from clearsight.serving.supervisor.memory import available_bytes
from clearsight.serving.supervisor.torchserve_files import ExplainPlan, RunFolder, ServingPlan
from clearsight.tasks import Task

Measured = Sequence[MeasuredLayout]


def document(blue: dict[str, Any], instances: int = 1, concurrent: int = 16, **variables: object) -> DeploymentDocument:
    return parse_deployment(
        {
            **blue,
            "instance_count": instances,
            "environment_variables": variables,
            "request_settings": {"max_concurrent_requests_per_instance": concurrent},
        }
    )


def row(backend: str, workers: int, threads: int, batch_size: int, images_per_s: float) -> dict[str, Any]:
    return {
        "backend": backend,
        "precision": "f32",
        "workers": workers,
        "threads": threads,
        "batch_size": batch_size,
        "images_per_s": images_per_s,
        "latency_ms": 1000 * batch_size * workers / images_per_s,
    }


@pytest.fixture
def measurement() -> Measured:
    rows = [
        row("openvino", 1, 2, 1, 25),
        row("openvino", 1, 2, 8, 29),
        row("openvino", 2, 1, 4, 35),
        row("onnxruntime", 1, 2, 2, 24),
        row("onnxruntime", 2, 1, 1, 30),
    ]
    return read_measurement(json.dumps({"rows": rows, "choice": rows[0]}).encode())


def test_an_unmeasured_package_runs_unbatched_on_the_default_backend(blue: dict[str, Any]) -> None:
    layout = choose_layout(document(blue), (), num_cores=2)
    assert (layout.backend, layout.workers, layout.num_threads, layout.batch_size) == ("auto", 1, 2, 1)
    assert layout.source == "default"


@pytest.mark.parametrize(
    ("instances", "cores", "expected"),
    [
        (1, 2, ("openvino", 1, 2, 8)),
        (2, 2, ("openvino", 2, 1, 4)),
        (2, 8, ("openvino", 2, 1, 4)),  # as measured, not as many threads as cores would allow
        (3, 2, ("openvino", 3, 1, 4)),  # no row with three workers: the fastest of all
    ],
)
def test_the_fastest_row_with_as_many_workers_counts(
    blue: dict[str, Any],
    measurement: Measured,
    instances: int,
    cores: int,
    expected: tuple[str, int, int, int],
) -> None:
    layout = choose_layout(document(blue, instances), measurement, cores)
    assert (layout.backend, layout.workers, layout.num_threads, layout.batch_size) == expected
    assert layout.source == "measured"


def test_among_nearly_equal_rows_the_one_with_the_most_threads_counts(blue: dict[str, Any]) -> None:
    rows = [row("openvino", 2, 1, 4, 30), row("openvino", 2, 2, 4, 29), row("openvino", 2, 2, 8, 25)]
    measurement = read_measurement(json.dumps({"rows": rows, "choice": rows[0]}).encode())
    layout = choose_layout(document(blue, 2), measurement, 2)
    assert (layout.workers, layout.num_threads, layout.batch_size) == (2, 2, 4)


def test_a_batch_is_no_larger_than_what_may_run_at_once(blue: dict[str, Any], measurement: Measured) -> None:
    assert [choose_layout(document(blue, 1, concurrent), measurement, 2).batch_size for concurrent in (1, 3, 100)] == [
        1,
        3,
        8,
    ]


def test_a_deployment_may_set_what_would_be_measured(blue: dict[str, Any], measurement: Measured) -> None:
    fixed = document(blue, 1, 16, CLEARSIGHT_BACKEND="onnxruntime", CLEARSIGHT_BATCH_SIZE=3, WORKER_COUNT=2)
    assert not needs_measurement(fixed)
    layout = choose_layout(fixed, (), num_cores=4)
    assert (layout.backend, layout.workers, layout.num_threads, layout.batch_size) == ("onnxruntime", 2, 2, 3)
    assert layout.source == "deployment"
    half = document(blue, 1, 16, CLEARSIGHT_BACKEND="onnxruntime")
    assert needs_measurement(half)
    assert choose_layout(half, measurement, 2).batch_size == 2


def test_every_faulty_variable_of_a_deployment_is_named_with_its_rule(blue: dict[str, Any]) -> None:
    faulty = document(blue, CLEARSIGHT_BATCH_SIZE="none", CLEARSIGHT_EXPLAIN="maybe", CLEARSIGHT_EXPLAIN_JOB_SECONDS=0)
    with pytest.raises(InvalidDocument) as raised:
        choose_layout(faulty, (), 2)
    assert [(fault.code, fault.target, fault.message) for fault in raised.value.faults] == [
        ("BAD_VALUE", f"environment_variables.{name}", message)
        for name, message in (
            ("CLEARSIGHT_BATCH_SIZE", "must be a whole number, but got 'none'"),
            ("CLEARSIGHT_EXPLAIN", "must be true or false (or 1, 0), but got 'maybe'"),
            ("CLEARSIGHT_EXPLAIN_JOB_SECONDS", "must be in (0, 86400], but got '0'"),
        )
    ]


def test_the_device_comes_from_the_deployment_and_reaches_the_workers(blue: dict[str, Any], tmp_path: Path) -> None:
    assert choose_layout(document(blue), (), 2).device == "auto"
    fixed = document(blue, CLEARSIGHT_DEVICE="cuda")
    plan = serving_plan(fixed, tmp_path / "package", choose_layout(fixed, (), 2))
    RunFolder(tmp_path).write(plan, tmp_path / "blue.log")
    entry = yaml.safe_load((tmp_path / "store" / "blue" / "model-config.yaml").read_text())
    assert entry["clearsight"]["device"] == "cuda"


@pytest.mark.parametrize(
    ("task", "setting", "has_lane"),
    [
        (Task.MULTI_CLASS, None, True),
        (Task.MULTI_LABEL, None, True),
        (Task.DETECTION, None, False),
        (Task.MULTI_CLASS, False, False),  # YAML's `off`, `false`, and "false"
        (Task.MULTI_LABEL, "no", False),
        (Task.SEGMENTATION, True, True),
    ],
)
def test_a_classifier_has_an_explain_lane_unless_the_deployment_switches_it_off(
    blue: dict[str, Any], task: Task, setting: object, has_lane: bool
) -> None:
    variables = {} if setting is None else {"CLEARSIGHT_EXPLAIN": setting}
    assert (choose_explain_lane(document(blue, **variables), task, 4) is not None) is has_lane


def test_the_explain_lane_has_half_the_cores_and_a_short_queue_by_default(blue: dict[str, Any]) -> None:
    assert [choose_explain_lane(document(blue), Task.MULTI_CLASS, cores) for cores in (1, 2, 8)] == [
        ExplainPlan(1, 8),
        ExplainPlan(1, 8),
        ExplainPlan(4, 8),
    ]
    told = document(blue, CLEARSIGHT_EXPLAIN_THREADS=3, CLEARSIGHT_EXPLAIN_MAX_IN_FLIGHT=21)
    assert choose_explain_lane(told, Task.MULTI_CLASS, 8) == ExplainPlan(3, 21)
    told = document(blue, CLEARSIGHT_EXPLAIN_MAX_JOBS=2, CLEARSIGHT_EXPLAIN_JOB_SECONDS=3600)
    assert choose_explain_lane(told, Task.MULTI_CLASS, 8) == ExplainPlan(4, 8, max_jobs=2, job_timeout_s=3600)


def test_bad_explanation_options_are_refused_before_a_worker_is_started(blue: dict[str, Any]) -> None:
    wrong = document(blue, CLEARSIGHT_EXPLAIN_CHUNK="none", CLEARSIGHT_EXPLAIN_DTYPE="int8")
    with pytest.raises(InvalidDocument) as error:
        choose_explain_lane(wrong, Task.MULTI_CLASS, 2)
    assert {fault.target for fault in error.value.faults} == {"CLEARSIGHT_EXPLAIN_CHUNK", "CLEARSIGHT_EXPLAIN_DTYPE"}
    assert choose_explain_lane(wrong, Task.DETECTION, 2) is None


@pytest.mark.parametrize("explain", [None, ExplainPlan(1, 8)])
def test_each_lane_is_a_model_entry_of_its_own(
    blue: dict[str, Any], tmp_path: Path, explain: ExplainPlan | None
) -> None:
    layout = choose_layout(document(blue), (), num_cores=2)
    folder = RunFolder(tmp_path)
    folder.write(serving_plan(document(blue), tmp_path / "package", layout, explain), tmp_path / "blue.log")
    entries = {
        entry.name: yaml.safe_load((entry / "model-config.yaml").read_text())
        for entry in (tmp_path / "store").iterdir()
    }
    assert entries["blue"]["clearsight"]["lane"] == "predict"
    names = "blue" if explain is None else "blue,blue-explain"
    assert f"load_models={names}\n" in (tmp_path / "config.properties").read_text()
    assert set(entries) == set(names.split(","))
    if explain:
        slow = entries["blue-explain"]
        assert (slow["minWorkers"], slow["batchSize"], slow["jobQueueSize"]) == (1, 1, 8)
        assert slow["responseTimeout"] == entries["blue"]["responseTimeout"]
        handler = slow["clearsight"]
        assert (handler["lane"], handler["num_threads"]) == ("explain", 1)
        assert handler["package"] == entries["blue"]["clearsight"]["package"]


@pytest.mark.parametrize(
    "variable",
    ["WORKER_COUNT", "CLEARSIGHT_BATCH_SIZE", "CLEARSIGHT_NUM_THREADS", "CLEARSIGHT_EXPLAIN_MAX_IN_FLIGHT"],
)
def test_a_count_that_is_no_positive_number_is_refused(blue: dict[str, Any], variable: str) -> None:
    with pytest.raises(InvalidDocument, match=f"environment_variables.{variable}"):
        choose_layout(document(blue, **{variable: "0"}), (), 2)


@pytest.mark.parametrize(
    ("instances", "per_instance", "workers"), [(1, 1, [1]), (1, 3, [3]), (2, 1, [1, 1]), (3, 1, [2, 1]), (4, 2, [4, 4])]
)
def test_several_instances_are_two_processes_and_one_explain_lane(
    blue: dict[str, Any], tmp_path: Path, instances: int, per_instance: int, workers: list[int]
) -> None:
    parsed = parse_deployment(
        {**blue, "instance_count": instances, "environment_variables": {"WORKER_COUNT": str(per_instance)}}
    )
    plans = serving_plans(parsed, tmp_path, choose_layout(parsed, (), 8), ExplainPlan(1, 8))
    assert [plan.layout.workers for plan in plans] == workers
    assert [plan.explain is not None for plan in plans] == [True, False][: len(workers)]
    assert all(ServingPlan.from_document(json.loads(json.dumps(plan.to_document()))) == plan for plan in plans)


def test_the_memory_left_is_that_of_the_narrowest_control_group(tmp_path: Path) -> None:
    """memory.max minus what is used, inactive page cache counted as free, as the kernel documents cgroup v2."""
    groups, own = tmp_path / "cgroup", tmp_path / "self"
    inner = groups / "pod" / "container"
    inner.mkdir(parents=True)
    own.write_text("0::/pod/container\n")
    machine = available_bytes(own, groups)
    for folder, limit, used, cache in ((groups / "pod", "5000", 3000, 500), (inner, "max", 900, 0)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon {used - cache}\ninactive_file {cache}\n")
    assert available_bytes(own, groups) == 2500
    (inner / "memory.max").write_text("1000\n")
    assert available_bytes(own, groups) == 100
    assert machine > 10_000
    own.write_text("5:memory:/old\n")
    assert available_bytes(own, groups) > 10_000
