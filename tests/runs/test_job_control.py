"""Verbs of other processes on a job: list, show, stream, cancel, resume, download. Nothing is trained."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clearsight.errors import Conflict, NotFound, UserError
from clearsight.executor import ProcessIdentity
from clearsight.runs.cli_job import job
from clearsight.runs.control import cancel_job, follow_job
from clearsight.runs.describe import describe_job, list_jobs
from clearsight.runs.outputs import download_outputs
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.start import resume_job
from clearsight.runs.workspace import Workspace

MakeJob = Callable[..., RunFolder]

OWNER = """
import signal, sys, time
from dataclasses import asdict, replace
from pathlib import Path
from clearsight.executor import ProcessIdentity
from clearsight.runs.run_folder import RunFolder, RunStatus
import os

folder = RunFolder(Path(sys.argv[1]))
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
with folder.own():
    folder.write_status(RunStatus("Running", pid=os.getpid(), process=ProcessIdentity.of(os.getpid())))
    print("ready", flush=True)
    while not asked:
        time.sleep(0.02)
    folder.append_event("canceling")
    folder.write_status(RunStatus("Canceled", reason="canceled", message=f"after {len(asked)} signals"))
"""


@contextmanager
def at_work(folder: RunFolder) -> Iterator[subprocess.Popen[bytes]]:
    """Another process holds the lock of the job until SIGTERM, as the process of a real job does."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(folder.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def take_up(workspace: Workspace, name: str, wait_s: float = 0) -> None:
    resume_job(workspace, name, wait_s, lambda: None).release()


@pytest.mark.parametrize("name", ["nobody", "../fridge", ""])
def test_a_name_without_a_job_is_not_found(workspace: Workspace, make_job: MakeJob, name: str) -> None:
    make_job("fridge")
    for use in (
        lambda: describe_job(workspace, name),
        lambda: cancel_job(workspace, name, wait=True),
        lambda: take_up(workspace, name),
        lambda: follow_job(workspace, name, print),
        lambda: download_outputs(workspace, name, ("default",), workspace.root),
    ):
        with pytest.raises(NotFound, match="clearsight job list"):
            use()


@pytest.mark.parametrize("state", ["NotStarted", "Starting", "Running", "CancelRequested"])
def test_show_and_list_of_a_lost_job_name_the_remedy(workspace: Workspace, make_job: MakeJob, state: str) -> None:
    make_job(status=state, pid=os.getpid())  # the id is in use again, by another process
    for shown in (describe_job(workspace, "fridge"), *list_jobs(workspace)):
        assert shown["status"] == "NotResponding"
        message = shown["message"] if "message" in shown else shown["properties"]["message"]
        assert "clearsight job resume -n fridge" in message


@pytest.mark.parametrize("state", ["Failed", "Canceled", "Running"])
def test_what_resuming_does_depends_on_whether_there_is_a_checkpoint(
    workspace: Workspace, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(workspace.root))
    make_job(status=state, message="that is why")
    checkpoints = RunFolder(workspace.runs / "fridge_HD_0").checkpoints
    checkpoints.mkdir()
    (checkpoints / "best_0000.safetensors").touch()  # of no use without the last one

    def last_line() -> str:
        return CliRunner().invoke(job, ["stream", "-n", "fridge"]).stderr.splitlines()[-1]

    command = "`clearsight job resume -n fridge`"
    assert last_line().endswith(f"; {command} starts it anew, since there is no checkpoint yet")
    (checkpoints / "last.safetensors").touch()
    assert last_line().endswith(f"; {command} goes on from the last checkpoint")


def test_jobs_are_listed_newest_first_by_experiment_and_number(workspace: Workspace, make_job: MakeJob) -> None:
    assert list_jobs(workspace) == []
    for day, experiment in enumerate(["a", "b", "a"]):
        make_job(f"job_{day}", experiment, created_at=f"2026-01-0{day + 1}", status="Canceled")
    assert [job["name"] for job in list_jobs(workspace)] == ["job_2", "job_1", "job_0"]
    assert [job["name"] for job in list_jobs(workspace, max_results=2)] == ["job_2", "job_1"]
    assert [job["name"] for job in list_jobs(workspace, "a")] == ["job_2", "job_0"]
    assert [job["name"] for job in list_jobs(workspace, "a", 1)] == ["job_2"]
    assert list_jobs(workspace, "c") == []


def test_a_damaged_job_does_not_hide_the_others(workspace: Workspace, make_job: MakeJob) -> None:
    make_job("whole", status="Completed")
    damaged = make_job("damaged", status="Completed")
    (damaged.root / "job.json").write_text('{"name": ')
    assert {job["name"]: job["status"] for job in list_jobs(workspace)} == {"whole": "Completed", "damaged": "Unknown"}
    with pytest.raises(UserError, match=r"job\.json must be as it was written"):
        describe_job(workspace, "damaged")


def test_the_message_on_a_damaged_or_lost_status_names_the_remedy(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job(status="Running")
    folder.status_file.write_text("{")
    shown = describe_job(workspace, "fridge")
    assert shown["status"] == "Unknown"
    assert "job resume -n fridge" in shown["properties"]["message"]
    folder.status_file.unlink()
    assert describe_job(workspace, "fridge")["status"] == "NotResponding"


def test_canceling_reaches_the_process_and_waits_for_it(workspace: Workspace, make_job: MakeJob) -> None:
    with at_work(make_job()) as process:
        assert describe_job(workspace, "fridge")["status"] == "Running"
        status = cancel_job(workspace, "fridge", wait=True)
        assert (status.status, status.message) == ("Canceled", "after 1 signals")
        assert process.wait(10) == 0
    with pytest.raises(Conflict, match="is Canceled"):
        cancel_job(workspace, "fridge", wait=True)


def test_canceling_without_waiting_says_that_it_is_asked_for(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job()
    with at_work(folder) as process:
        assert cancel_job(workspace, "fridge", wait=False).status in ("CancelRequested", "Canceled")
        assert process.wait(10) == 0
    assert folder.read_status().status == "Canceled"


def test_canceling_a_lost_job_ends_it(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(status="Running", pid=os.getpid())
    assert cancel_job(workspace, "fridge", wait=True).status == "Canceled"
    assert describe_job(workspace, "fridge")["status"] == "Canceled"


def test_another_process_with_the_id_of_the_job_is_never_signalled(
    workspace: Workspace, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is this one, which would end."""
    monkeypatch.setattr("clearsight.runs.control._START_S", 0.0)
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    for stranger in (replace(own, started_at_tick=1), replace(own, boot_id="another machine's"), None):
        folder = make_job(f"job_{stranger is None}_{stranger and stranger.boot_id[:4]}")
        folder.write_status(RunStatus("Running", pid=os.getpid(), process=stranger))
        with folder.own(), pytest.raises(Conflict, match="cancel the job there"):
            cancel_job(workspace, folder.run_id, wait=True)


@pytest.mark.parametrize("state", ["Canceled", "Failed", "Running", "NotStarted", "Unknown"])
def test_a_job_that_did_not_complete_is_resumed(workspace: Workspace, make_job: MakeJob, state: str) -> None:
    folder = make_job(status=state, reason="killed", message="by a test", ended_at="2026-01-01")
    run_lock = resume_job(workspace, "fridge", 0, lambda: None)
    status = folder.read_status()
    assert (status.status, status.reason, status.message, status.ended_at) == ("Starting", None, None, None)
    assert RunFolder(workspace.runs / "fridge_HD_0").read_status().status == "NotStarted"
    run_lock.release()


def test_a_completed_job_is_not_resumed(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job(status="Completed")
    with pytest.raises(Conflict, match="'fridge' is completed"):
        take_up(workspace, "fridge")
    assert not folder.is_locked()
    assert folder.read_status().status == "Completed"


def test_a_job_whose_trial_completed_keeps_it(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(status="Running")
    trial = RunFolder(workspace.runs / "fridge_HD_0")
    trial.write_status(RunStatus("Completed", reason="all_epochs"))
    take_up(workspace, "fridge")
    assert trial.read_status().reason == "all_epochs"


def test_of_two_processes_that_resume_a_job_one_wins(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(status="Canceled")
    run_lock = resume_job(workspace, "fridge", 0, lambda: None)
    with pytest.raises(Conflict, match=r"'fridge' is; `clearsight job stream -n fridge`"):
        take_up(workspace, "fridge")
    run_lock.release()
    take_up(workspace, "fridge")


def test_an_orphaned_trial_is_waited_for(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(status="Running")
    orphan = RunFolder(workspace.runs / "fridge_HD_0").own()
    with pytest.raises(Conflict, match="is still at work"):
        take_up(workspace, "fridge", wait_s=0.1)
    resume_job(workspace, "fridge", 30, orphan.release).release()  # it ends when it is waited for


def test_a_job_without_its_spec_is_one_clear_line(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(status="Canceled")
    (workspace.runs / "fridge_HD_0" / "spec.json").unlink()
    with pytest.raises(UserError, match=r"spec\.json must be as it was written"):
        take_up(workspace, "fridge")


def test_an_ended_job_is_shown_again_from_its_beginning(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job(status="Failed", reason="killed")
    folder.append_event("warning", message="of the job")
    RunFolder(workspace.runs / "fridge_HD_0").append_event("started", pid=1)
    told: list[Any] = []
    assert follow_job(workspace, "fridge", told.append).reason == "killed"
    assert sorted(event["kind"] for event in told) == ["started", "warning"]


def test_a_job_at_work_is_followed_to_its_end(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job()
    told: list[Any] = []
    with at_work(folder) as process:
        folder.append_event("warning", message="of the job")

        def stop_it_then(event: Any) -> None:
            told.append(event["kind"])
            if event["kind"] == "warning":
                process.send_signal(signal.SIGTERM)

        assert follow_job(workspace, "fridge", stop_it_then).status == "Canceled"
    assert told == ["warning", "canceling"]


@pytest.fixture
def completed(workspace: Workspace, make_job: MakeJob) -> RunFolder:
    """The trial of a completed job, with one file in every folder."""
    make_job(status="Completed")
    trial = RunFolder(workspace.runs / "fridge_HD_0")
    for name in ("outputs/mlflow-model/MLmodel", "checkpoints/last.safetensors", "train_artifacts/labels.json", "lock"):
        (trial.root / name).parent.mkdir(parents=True, exist_ok=True)
        (trial.root / name).write_text(name)
    (trial.outputs / "checkpoints").mkdir()
    return trial


def test_a_download_is_laid_out_as_azures(workspace: Workspace, completed: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "down"
    copied = download_outputs(workspace, "fridge", ("default", "best_model"), target)
    assert copied == {"default": target / "artifacts", "best_model": target / "named-outputs" / "best_model"}
    assert (target / "artifacts/outputs/mlflow-model/MLmodel").is_file()
    assert (target / "artifacts/outputs/checkpoints").is_dir()
    assert (target / "artifacts/train_artifacts/labels.json").is_file()
    assert [entry.name for entry in (target / "named-outputs/best_model").iterdir()] == ["MLmodel"]
    assert not (target / "artifacts/checkpoints").exists()
    assert not (target / "artifacts/lock").exists()


def test_a_download_overwrites_nothing(workspace: Workspace, completed: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "named-outputs/best_model").mkdir(parents=True)
    with pytest.raises(Conflict, match="--download-path"):
        download_outputs(workspace, "fridge", ("default", "best_model"), tmp_path)
    assert not (tmp_path / "artifacts").exists()


def test_a_download_that_fails_leaves_nothing(
    workspace: Workspace, completed: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_half(source: Path, target: Path, **options: Any) -> None:
        target.mkdir()
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copytree", copy_half)
    target = tmp_path / "down"
    with pytest.raises(OSError, match="No space left"):
        download_outputs(workspace, "fridge", ("best_model",), target)
    assert list((target / "named-outputs").iterdir()) == []


@pytest.mark.parametrize("state", ["Running", "Failed", "Canceled"])
def test_a_job_that_did_not_complete_has_no_best_model(
    workspace: Workspace, make_job: MakeJob, tmp_path: Path, state: str
) -> None:
    make_job(status=state)
    with pytest.raises(NotFound, match="must be completed"):
        download_outputs(workspace, "fridge", ("best_model",), tmp_path)


def test_a_job_at_work_is_not_downloaded(workspace: Workspace, make_job: MakeJob, tmp_path: Path) -> None:
    folder = make_job(status="Running")
    with folder.own(), pytest.raises(Conflict, match="'fridge' is Running"):
        download_outputs(workspace, "fridge", ("default",), tmp_path)


def test_the_file_of_a_status_holds_the_process_in_full(make_job: MakeJob) -> None:
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    folder = make_job()
    folder.write_status(RunStatus("Running", process=own))
    assert json.loads(folder.status_file.read_text())["process"] == asdict(own)
