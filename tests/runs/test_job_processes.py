"""The program itself: killed and resumed, with two processes, for classifiers and detectors."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.demo.dataset import TASK_FOLDERS, DemoOptions, draw_dataset, write_tables
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task

WriteJob = Callable[..., Path]
PROGRAM = (sys.executable, "-c", "from clearsight.cli import main; main()", "job")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Jobs:
    """`clearsight job …` in a workspace of its own."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._environment = {**os.environ, "CLEARSIGHT_HOME": str(workspace.root), "OMP_WAIT_POLICY": "PASSIVE"}

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment
        )

    def run(self, *args: str, code: int = 0) -> Any:
        process = self.start(*args)
        try:
            stdout, stderr = process.communicate(timeout=600)
        finally:
            process.kill()
        assert process.returncode == code, stderr
        return json.loads(stdout) if stdout else stderr

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.workspace.runs / name)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def events(self, name: str) -> list[dict[str, Any]]:
        file = self.folder(f"{name}_HD_0").events_file
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def jobs(workspace: Workspace) -> Jobs:
    return Jobs(workspace)


def kill(*pids: int | None) -> None:
    for pid in pids:
        assert pid
        os.kill(pid, signal.SIGKILL)


def sha256(folder: RunFolder) -> str:
    return hashlib.sha256((folder.package / "artifacts" / "weights.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 drawn scenes of 160 x 120 with boxes and outlines, a colour for each class; every fifth validates."""
    folder = tmp_path_factory.mktemp("scenes")
    options = DemoOptions(15, 0, 160, 120, (Task.DETECTION, Task.SEGMENTATION), is_easy=True)
    write_tables(folder, options, list(draw_dataset(folder, options)))
    return folder


YOLO = (
    Task.DETECTION,
    {
        "model_name": "yolov5",
        "image_size": 96,
        "advanced_settings": {"x_pretrained": False, "x_model_size": "nano"},
    },
)
MASK_RCNN = (
    Task.SEGMENTATION,
    {
        "model_name": "maskrcnn_resnet18_fpn",
        "min_size": 96,
        "max_size": 128,
        "advanced_settings": {"x_pretrained": False, "x_light_detector": True},
    },
)


def write_objects_job(folder: Path, scenes: Path, task: Task, parameters: dict[str, Any], **others: Any) -> Path:
    data = scenes / TASK_FOLDERS[task]
    advanced = {**parameters["advanced_settings"], **others.pop("advanced_settings", {})}
    document = {
        "type": "automl",
        "task": task.value,
        "target_column_name": "label",
        "training_data": {"type": "mltable", "path": os.path.relpath(data / "training-mltable-folder", folder)},
        "validation_data": {"type": "mltable", "path": os.path.relpath(data / "validation-mltable-folder", folder)},
        "training_parameters": {
            **parameters,
            "training_batch_size": 2,
            "early_stopping": False,
            "random_seed": 1,
            **others,
            "advanced_settings": advanced,
        },
    }
    file = folder / "job.yml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_a_job_stopped_and_killed_in_mid_epoch_ends_as_one_left_alone(
    kind: str, jobs: Jobs, texture_folder: Path, scenes_folder: Path, tmp_path: Path, write_job: WriteJob
) -> None:
    """Canceled (a checkpoint), resumed, killed with its process (no checkpoint since), resumed: the same weights."""
    if kind == "classifier":
        sizes = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 36}
        file = write_job(tmp_path, texture_folder, number_of_epochs=3, early_stopping=0, training_batch_size=3, **sizes)
    else:
        file = write_objects_job(tmp_path, scenes_folder, *YOLO, number_of_epochs=12)
    outputs = ("--set", "outputs=null")
    jobs.run("create", "-f", str(file), "-n", "calm", *outputs)

    jobs.run("create", "-f", str(file), "-n", "torn", *outputs, "--no-wait")
    torn, trial = jobs.folder("torn"), jobs.folder("torn_HD_0")
    jobs.wait(lambda: any(one["kind"] == "progress" and one["batch"] > 3 for one in jobs.events("torn")))
    assert jobs.run("cancel", "-n", "torn")["status"] == "Canceled"
    assert trial.read_status().status == "Canceled"

    before = len(jobs.events("torn"))
    jobs.run("resume", "-n", "torn", "--no-wait")
    jobs.wait(lambda: any(one["kind"] == "progress" for one in jobs.events("torn")[before:]))
    kill(torn.read_status().pid, trial.read_status().pid)
    jobs.wait(lambda: not torn.is_locked() and not trial.is_locked())
    shown = jobs.run("show", "-n", "torn")
    assert shown["status"] == "NotResponding"
    assert "clearsight job resume -n torn" in shown["properties"]["message"]
    assert not trial.package.exists()

    assert jobs.run("resume", "-n", "torn")["status"] == "Completed"
    assert sha256(trial) == sha256(jobs.folder("calm_HD_0"))
    assert [one["metrics"] for one in trial.read_metrics()] == [
        one["metrics"] for one in jobs.folder("calm_HD_0").read_metrics()
    ]
    assert "is completed" in jobs.run("resume", "-n", "torn", code=1)


def test_a_trial_stops_by_itself_when_the_process_of_its_job_is_killed(
    jobs: Jobs, texture_folder: Path, tmp_path: Path, write_job: WriteJob
) -> None:
    file = write_job(tmp_path, texture_folder, number_of_epochs=500, early_stopping=0)
    watching = jobs.start("create", "-f", str(file), "-n", "orphan", "--stream")
    trial = jobs.folder("orphan_HD_0")
    jobs.wait(lambda: any(one["kind"] == "progress" for one in jobs.events("orphan")))
    kill(jobs.folder("orphan").read_status().pid)
    jobs.wait(lambda: not trial.is_locked())
    assert trial.read_status().status == "Canceled"
    assert (trial.checkpoints / "last.safetensors").is_file()
    stdout, stderr = watching.communicate(timeout=60)
    assert watching.returncode == 1
    assert json.loads(stdout)["status"] == "NotResponding"
    assert "clearsight job resume -n orphan" in stderr.splitlines()[-1]


def test_leaving_the_view_leaves_the_job(jobs: Jobs, texture_folder: Path, tmp_path: Path, write_job: WriteJob) -> None:
    file = write_job(tmp_path, texture_folder, number_of_epochs=500, early_stopping=0)
    jobs.run("create", "-f", str(file), "-n", "seen", "--no-wait")
    watching = jobs.start("stream", "-n", "seen")
    jobs.wait(lambda: bool(jobs.folder("seen_HD_0").metrics_file.exists()))
    watching.send_signal(signal.SIGINT)
    _, stderr = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert "the job goes on" in stderr
    assert jobs.run("show", "-n", "seen")["status"] == "Running"
    assert "must not be at work to be resumed" in jobs.run("resume", "-n", "seen", code=1)
    process = jobs.folder("seen").read_status().pid
    assert process
    os.kill(process, signal.SIGHUP)  # as a closed terminal would
    assert jobs.run("stream", "-n", "seen", code=130)["status"] == "Canceled"


@pytest.mark.parametrize(("task", "parameters"), [YOLO, MASK_RCNN], ids=["yolov5", "maskrcnn"])
def test_two_processes_train_a_detector_that_answers(
    task: Task, parameters: dict[str, Any], jobs: Jobs, scenes_folder: Path, tmp_path: Path
) -> None:
    two = {"x_num_processes": 2}
    file = write_objects_job(tmp_path, scenes_folder, task, parameters, number_of_epochs=5, advanced_settings=two)
    shown = jobs.run("create", "-f", str(file), "-n", "pair")
    assert shown["status"] == "Completed"
    trial = jobs.folder("pair_HD_0")
    epochs = [one["metrics"] for one in trial.read_metrics()]
    assert len(epochs) == 5
    assert 0 <= epochs[-1]["mean_average_precision"] <= 1
    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]
    answers = load_scorer(trial.package).score([(scenes_folder / "images" / "several" / "0001.jpg").read_bytes()])
    assert [type(answer).__name__ for answer in answers] == ["DetectionAnswer"]
