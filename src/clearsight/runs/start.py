"""How a process comes to own a job: a new one, or one that was interrupted; and how it hands the job to another."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from clearsight.errors import Conflict
from clearsight.files import write_atomically
from clearsight.runs.lock import RunLock
from clearsight.runs.plan import JobPlan
from clearsight.runs.record import JobRecord, read_record, read_spec, write_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.workspace import Workspace

__all__ = ["JOB_LOG", "detach", "resume_job", "start_job"]

JOB_LOG: Final = "job.log"
"""What the process of a job prints that runs without a terminal."""

_POLL_S: Final = 0.2


def start_job(plan: JobPlan, workspace: Workspace) -> RunLock:
    """Write the folders of a planned job and own it. Raises `Conflict` when the name was taken meanwhile."""
    folder, trial = RunFolder(workspace.runs / plan.name), RunFolder(workspace.runs / plan.spec.run_id)
    workspace.runs.mkdir(parents=True, exist_ok=True)
    try:
        folder.root.mkdir()
    except FileExistsError:
        raise Conflict(f"a job's name must be new, but {plan.name!r} exists; choose another --name") from None
    try:
        run_lock = folder.own()
        folder.write_status(RunStatus("Starting"))
        trial.root.mkdir()
        write_atomically(trial.spec_file, plan.spec.model_dump_json(indent=2) + "\n")
        trial.write_status(RunStatus())
        write_record(folder, _record(plan))
    except BaseException:
        shutil.rmtree(trial.root, ignore_errors=True)
        shutil.rmtree(folder.root, ignore_errors=True)
        raise
    return run_lock


def _record(plan: JobPlan) -> JobRecord:
    return JobRecord(
        name=plan.name,
        display_name=plan.job.display_name,
        description=plan.job.description,
        experiment_name=plan.experiment_name,
        task=plan.job.task,
        primary_metric=plan.job.task.primary_metric,
        tags=dict(plan.job.tags),
        properties=dict(plan.job.properties),
        trials=[plan.spec.run_id],
        best_model_path=plan.best_model_path,
        environment_variables=dict(plan.job.environment_variables),
        timeout_minutes=plan.job.limits.timeout_minutes,
        num_processes=plan.num_processes,
        warnings=list(plan.warnings),
        document=dict(plan.document),
    )


def resume_job(workspace: Workspace, name: str, wait_s: float, on_wait: Callable[[], None]) -> RunLock:
    """Own a job that was canceled, failed, or lost its process, so that `run_job` goes on with it.

    A trial whose parent was killed may still be writing its checkpoint: after `on_wait`, it gets `wait_s` seconds.
    Raises `NotFound`, and `Conflict` for a job that is completed or at work.
    """
    record = read_record(workspace, name)
    folder, trial = RunFolder(workspace.runs / name), RunFolder(workspace.runs / record.trials[0])
    read_spec(trial)
    try:
        run_lock = folder.own()
    except Conflict:
        raise Conflict(
            f"a job must not be at work to be resumed, but {name!r} is; `clearsight job stream -n {name}` shows it"
        ) from None
    try:
        status = folder.read_status()
        if status.status == "Completed":
            raise Conflict(f"a job must be canceled, failed or interrupted to be resumed, but {name!r} is completed")
        _wait_for_orphan(trial, wait_s, on_wait)
        trial_status = trial.read_status()
        if trial_status.status != "Completed":
            trial.write_status(
                replace(trial_status, status="NotStarted", ended_at=None, pid=None, reason=None, message=None)
            )
        folder.write_status(
            replace(
                status, status="Starting", ended_at=None, pid=None, process=None, reason=None, message=None, metrics={}
            )
        )
    except BaseException:
        run_lock.release()
        raise
    return run_lock


def _wait_for_orphan(trial: RunFolder, wait_s: float, on_wait: Callable[[], None]) -> None:
    if not trial.is_locked():
        return
    on_wait()
    deadline = time.monotonic() + wait_s
    while trial.is_locked():
        if time.monotonic() > deadline:
            pid = trial.read_status().pid
            raise Conflict(
                f"the earlier process of {trial.run_id} must have ended, but process {pid} is still at work; try again "
                "when it is done, or end it"
            )
        time.sleep(_POLL_S)


def detach(workspace: Workspace, name: str, run_lock: RunLock) -> subprocess.Popen[bytes]:
    """Start a process of its own that runs the job; it holds the lock from its first moment on.

    It survives this process and its terminal, and prints to `JOB_LOG`.
    """
    folder = workspace.runs / name
    with (folder / JOB_LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clearsight.runs.job_process", str(folder), str(run_lock.descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(run_lock.descriptor,),
        )
    run_lock.release()
    return process
