import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clearsight.documents.deployment.layout import MeasuredLayout, ServingLayout
from clearsight.errors import UserError
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.handlers.tuning.measure import choose, layouts, measure
from clearsight.handlers.tuning.precision_gate import compare, precision_gate, record_gate
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task


@pytest.mark.parametrize(
    ("num_cores", "expected"),
    [(1, [(1, 1)]), (2, [(1, 2), (2, 1), (2, 2)]), (8, [(1, 8), (2, 8), (4, 2), (8, 1)])],
)
def test_layouts_fill_the_cores_once_or_with_two_workers_twice(num_cores, expected):
    assert layouts(num_cores) == expected


def test_the_choice_is_the_fastest_and_among_equals_the_quickest_to_answer():
    def row(images_per_s, latency_ms):
        return MeasuredLayout(ServingLayout("openvino", num_threads=2, batch_size=8), images_per_s, latency_ms)

    assert choose([row(10, 5)]) == row(10, 5)
    assert choose([row(10, 5), row(20, 300)]) == row(20, 300)
    assert choose([row(19.5, 50), row(20, 300), row(18, 1)]) == row(19.5, 50)


@pytest.mark.slow
def test_every_candidate_is_measured_in_processes_of_its_own(tiny_package: ModelPackage):
    result = measure(tiny_package.root, seconds=0.02, backends=["onnxruntime"])
    assert result["failed"] == []
    assert {(row["backend"], row["batch_size"]) for row in result["rows"]} == {("onnxruntime", 1), ("onnxruntime", 8)}
    assert {(row["workers"], row["threads"]) for row in result["rows"]} == set(layouts(result["num_cores"]))
    assert all(row["images_per_s"] > 0 and row["latency_ms"] > 0 for row in result["rows"])
    assert result["choice"] in result["rows"]
    json.dumps(result)


def test_a_detector_is_measured_with_fewer_layouts_and_whole(detector_package, tmp_path: Path):
    root = Path(shutil.copytree(detector_package("yolov5").root, tmp_path / "mlflow-model"))
    file = root / "artifacts/settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tile_grid_size": "8x8"}))
    result = measure(root, seconds=0.01, backends=["onnxruntime"])
    assert result["failed"] == []
    assert {row["batch_size"] for row in result["rows"]} == {1, 4}
    num_cores = result["num_cores"]
    expected = {(1, num_cores), (min(2, num_cores), max(1, num_cores // 2))}
    assert {(row["workers"], row["threads"]) for row in result["rows"]} == expected


def test_no_further_candidate_is_begun_when_the_time_is_over(tiny_package: ModelPackage):
    result = measure(tiny_package.root, seconds=0.01, backends=["onnxruntime"], max_total_s=0.0)
    assert len({(row["workers"], row["threads"]) for row in result["rows"]}) == 1
    assert all("not measured" in fault["reason"] for fault in result["failed"])


def test_a_backend_that_cannot_run_is_named_with_its_reason(tiny_package: ModelPackage):
    with pytest.raises(UserError, match="computes in f32, but got precision 'bf16'; openvino can"):
        measure(tiny_package.root, seconds=0.01, precision="bf16", backends=["onnxruntime"])


def test_the_gate_compares_decisions_and_probabilities():
    expected = np.array([[0.6, 0.4], [0.3, 0.7]] * 50)
    same = compare(expected, expected, Task.MULTI_CLASS)
    assert (same["passed"], same["agreement"], same["mean_abs_diff_probs"], same["num_images"]) == (True, 1.0, 0.0, 100)
    one_off = expected.copy()
    one_off[0] = [0.49, 0.51]
    found = compare(expected, one_off, Task.MULTI_CLASS)
    assert found["agreement"] == 0.99
    assert found["mean_abs_diff_probs"] == pytest.approx(0.11 / 100)
    assert found["passed"]
    two_off = one_off.copy()
    two_off[2] = [0.49, 0.51]
    assert not compare(expected, two_off, Task.MULTI_CLASS)["passed"]
    assert not compare(expected, np.clip(expected * 1.05, 0, 1), Task.MULTI_CLASS)["passed"]


def test_the_multi_label_gate_looks_at_the_set_of_labels():
    expected = np.array([[0.6, 0.9]] * 100)
    found = expected.copy()
    found[:2, 0] = 0.499
    result = compare(expected, found, Task.MULTI_LABEL)
    assert (result["agreement"], result["passed"]) == (0.98, False)


def test_too_few_images_prove_nothing(tiny_package: ModelPackage, drawn_images: list[Path]):
    with pytest.raises(UserError, match="at least 16 pictures, but got 3"):
        precision_gate(tiny_package.root, drawn_images[:3])


@pytest.mark.slow
def test_bf16_is_served_after_a_recorded_pass_or_refused_with_the_machines_reason(own_package, drawn_images, images):
    """Which of the two depends on the processor: some announce matrix units that they do not have."""
    result = precision_gate(own_package, drawn_images, num_threads=1)
    record_gate(ModelPackage.open(own_package), result)
    recorded = ModelPackage.open(own_package).manifest["precision_gates"]["bf16"]
    assert recorded == result
    if result["passed"]:
        scorer = load_scorer(own_package, precision="bf16", device="cpu")
        assert (scorer.backend, scorer.precision) == ("openvino", "bf16")
        exact = load_scorer(own_package, device="cpu")
        for low, full in zip(scorer.score(images), exact.score(images), strict=True):
            assert np.abs(np.array(low.probs) - np.array(full.probs)).max() <= 0.05
    else:
        assert result["num_images"] == len(drawn_images)
        with pytest.raises(UserError, match="it failed"):
            load_scorer(own_package, precision="bf16", device="cpu")


def test_a_package_keeps_a_gate_for_each_backend_and_device_and_earlier_readers_find_the_first(own_package):
    def gate(backend, device, **more):
        return {"precision": "bf16", "backend": backend, "device": device, "passed": True, **more}

    for result in (gate("openvino", "cpu"), gate("toy", "cpu"), gate("toy", "cuda"), gate("openvino", "cpu", again=1)):
        record_gate(ModelPackage.open(own_package), result)
    package = ModelPackage.open(own_package)
    assert package.manifest["precision_gates"] == {
        "bf16": gate("openvino", "cpu", again=1),
        "bf16/toy/cpu": gate("toy", "cpu"),
        "bf16/toy/cuda": gate("toy", "cuda"),
    }
    assert package.precision_gates("bf16", "cpu") == [gate("openvino", "cpu", again=1), gate("toy", "cpu")]
    assert package.precision_gates("bf16", "cuda") == [gate("toy", "cuda")]
