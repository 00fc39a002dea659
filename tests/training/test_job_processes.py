"""The program itself, with processes that are killed: what the exact resume of a job promises."""

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

from clearsight.training.run_folder import RunFolder
from clearsight.workspace import Workspace

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
        stdout, stderr = process.communicate(timeout=200)
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


def test_a_job_stopped_and_killed_in_mid_epoch_ends_as_one_left_alone(
    jobs: Jobs, texture_folder: Path, tmp_path: Path, write_job: WriteJob
) -> None:
    """Canceled (a checkpoint), resumed, killed with its process (no checkpoint since), resumed: the same weights."""
    sizes = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 36}
    file = write_job(tmp_path, texture_folder, number_of_epochs=3, early_stopping=0, training_batch_size=3, **sizes)
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
    jobs.wait(lambda: not torn.is_owned() and not trial.is_owned())
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
    jobs.wait(lambda: not trial.is_owned())
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
