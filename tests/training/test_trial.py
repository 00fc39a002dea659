"""A trial in this process, through the Inline executor."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from clearsight.documents.job import resolve_parameters
from clearsight.errors import Conflict
from clearsight.executor import Inline, TaskSpec
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.tasks import Task
from clearsight.training.trial.run import run_trial
from clearsight.training.trial.spec import Setting, TrialSpec

Make = Callable[..., RunFolder]


@pytest.fixture
def make_trial(tmp_path: Path) -> Make:
    """Makes the run folder of a small trial without pretrained weights; keywords are hyperparameters."""

    def make(data: Path, task: Task = Task.MULTI_CLASS, pretrained: bool = False, **parameters: Any) -> RunFolder:
        given = {
            "number_of_epochs": 1,
            "training_crop_size": 32,
            "validation_crop_size": 32,
            "validation_resize_size": 36,
            "random_seed": 0,
            **parameters,
        }
        resolved = resolve_parameters(task, given, "resnet18")
        spec = TrialSpec(
            run_id="trial_HD_0",
            job_name="trial",
            task=task,
            target_column="label",
            training_data=data,
            validation_data=None,
            validation_size=0.25,
            split_seed=0,
            datastores={},
            hyperparameters={name: Setting(value=one.value, origin=one.origin) for name, one in resolved.items()},
            deterministic=True,
            pretrained=pretrained,
            weights_dir=None,
            min_crop_scale=0.08,
            log_verbosity="error",
        )
        folder = RunFolder(tmp_path / "trial_HD_0")
        folder.root.mkdir()
        folder.spec_file.write_text(spec.model_dump_json())
        return folder

    return make


def failed(folder: RunFolder) -> RunStatus:
    status = run_trial(folder, threading.Event())
    assert status.status == "Failed"
    assert folder.read_status() == status
    assert not folder.package.exists()
    return status


def copy_table(source: Path, target: Path, changed: dict[int, bytes]) -> Path:
    """The textures with some image files replaced."""
    target.mkdir()
    for file in source.iterdir():
        index = int(file.stem) if file.suffix == ".png" else -1
        (target / file.name).write_bytes(changed.get(index, file.read_bytes()))
    return target


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [
        event for line in folder.events_file.read_text().splitlines() if (event := json.loads(line))["kind"] == kind
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_multi_label_trial_runs_to_its_package(make_trial: Make, texture_pairs_folder: Path, tmp_path: Path) -> None:
    folder = make_trial(texture_pairs_folder, Task.MULTI_LABEL, training_batch_size=6, weighted_loss=2)
    executor = Inline()
    task_id = executor.submit(TaskSpec("clearsight.training.trial", (str(folder.root),), tmp_path / "log"))
    [ended] = executor.wait(0)
    status = folder.read_status()
    assert (ended.task_id, ended.code, status.status) == (task_id, 0, "Completed"), status.message
    assert 0.0 <= status.metrics["iou"] <= 1.0
    low, high = status.intervals_95["iou"]
    assert 0.0 <= low <= status.metrics["iou"] <= high <= 1.0
    package = ModelPackage.open(folder.package)
    assert (package.task, package.labels) == (Task.MULTI_LABEL, ("columns", "dots", "rows"))
    with pytest.raises(Conflict, match="completed"):
        run_trial(folder, threading.Event())


def test_a_trial_that_is_stopped_at_once_keeps_a_checkpoint(make_trial: Make, texture_folder: Path) -> None:
    folder, stop = make_trial(texture_folder), threading.Event()
    stop.set()
    assert run_trial(folder, stop).status == "Canceled"
    assert (folder.checkpoints / "last.safetensors").is_file()


@pytest.mark.slow
def test_a_signal_stops_a_trial_at_the_next_step(make_trial: Make, texture_folder: Path) -> None:
    folder = make_trial(texture_folder, number_of_epochs=500, early_stopping=0)

    # In a process of its own: one that signals itself can end the run of all other tests with it.
    process = subprocess.Popen([sys.executable, "-m", "clearsight.training.trial", folder.root])
    try:
        while not folder.read_metrics():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    status = folder.read_status()
    assert (status.status, status.reason) == ("Canceled", "canceled")
    assert status.metrics["accuracy"] > 0
    with safe_open(folder.checkpoints / "last.safetensors", framework="np") as checkpoint:
        counters = json.loads(checkpoint.metadata()["counters"])
    assert f"step {counters['step']};" in str(status.message)
    assert (folder.checkpoints / f"best_{counters['best_epoch']:04}.safetensors").is_file()


def test_missing_weights_fail_and_both_remedies_are_named(
    make_trial: Make, texture_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLEARSIGHT_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    status = failed(make_trial(texture_folder, pretrained=True))
    assert status.reason == "weights_missing"
    assert "x_weights_dir" in str(status.message)
    assert "x_pretrained" in str(status.message)


def test_bad_labels_fail_with_file_and_line(make_trial: Make, texture_folder: Path, tmp_path: Path) -> None:
    data = copy_table(texture_folder, tmp_path / "data", {})
    with (data / "annotations.jsonl").open("a") as lines:
        lines.write('{"image_url": "0.png", "label": ""}\n')
    status = failed(make_trial(data))
    assert status.reason == "bad_label"
    assert "annotations.jsonl:97" in str(status.message)


def test_many_unreadable_images_fail(make_trial: Make, texture_folder: Path, tmp_path: Path) -> None:
    data = copy_table(texture_folder, tmp_path / "data", dict.fromkeys(range(20), b"\x89PNG broken"))
    status = failed(make_trial(data))
    assert status.reason == "bad_data"
    assert "at most 5%" in str(status.message)


def test_a_few_unreadable_images_are_left_out_with_a_warning(
    make_trial: Make, texture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearsight.training.trial.run.write_package", lambda *args, **options: None)
    folder = make_trial(copy_table(texture_folder, tmp_path / "data", {3: b"", 4: b"x"}))
    assert run_trial(folder, threading.Event()).status == "Completed"
    [data] = events(folder, "data")
    assert data["num_training"] + data["num_validation"] == 94
    assert any("left out" in event["message"] for event in events(folder, "warning"))


@pytest.mark.slow
def test_the_same_trial_twice_gives_the_same_metrics(
    make_trial: Make, texture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps of the trial except for its export: weights, data, loop."""
    monkeypatch.setattr("clearsight.training.trial.run.write_package", lambda *args, **options: None)
    folder = make_trial(texture_folder, training_batch_size=18)
    spec = folder.spec_file.read_text()
    other = RunFolder(tmp_path / "other")
    other.root.mkdir()
    other.spec_file.write_text(spec.replace('"number_of_workers":{"value":1', '"number_of_workers":{"value":0'))
    metrics = [run_trial(one, threading.Event()).metrics for one in (folder, other)]
    assert metrics[0] == metrics[1]
    assert metrics[0]


def test_what_is_done_otherwise_than_asked_is_a_warning(
    make_trial: Make, texture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch is shorter than the default warm-up of two; Nesterov needs momentum."""
    monkeypatch.setattr("clearsight.training.trial.run.write_package", lambda *args, **options: None)
    folder = make_trial(texture_folder, momentum=0.0, nesterov=True, layers_to_freeze=5)
    assert run_trial(folder, threading.Event()).status == "Completed"
    warnings = [event["message"] for event in events(folder, "warning")]
    assert any("nesterov needs momentum" in warning for warning in warnings)
    assert any("is 2: 0 is used" in warning for warning in warnings)


def test_a_trial_writes_the_charts_of_its_best_pass(
    make_trial: Make, texture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearsight.training.trial.run.write_package", lambda *args, **options: None)
    folder = make_trial(texture_folder, layers_to_freeze=5)
    status = run_trial(folder, threading.Event())
    report = json.loads((folder.root / "metrics" / "confusion_matrix.json").read_text())
    assert status.metrics["accuracy"] > 0
    assert report


@pytest.mark.parametrize(("number", "reason"), [(errno.EIO, "export_failed"), (errno.ENOSPC, "disk_full")])
def test_a_package_that_cannot_be_written_is_a_failed_export(
    make_trial: Make, texture_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("clearsight.training.trial.run.write_package", fail)
    status = failed(make_trial(texture_folder, layers_to_freeze=5))
    assert status.reason == reason
    assert os.strerror(number) in str(status.message)


def test_a_batch_beyond_the_memory_fails_with_its_size(
    make_trial: Make, texture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(run: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("clearsight.training.trial.run.train", no_room)
    status = failed(make_trial(texture_folder, training_batch_size=60))
    assert status.reason == "out_of_memory"
    assert "training_batch_size 60" in str(status.message)
