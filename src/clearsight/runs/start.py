"""Starting a new job, resuming an interrupted one, and detaching a job into a process of its own."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from clearsight.errors import Conflict, UserError
from clearsight.files import write_atomically
from clearsight.runs.kinds import JOB_KINDS, JobPlan
from clearsight.runs.lock import RunLock
from clearsight.runs.record import read_record, write_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.trials import append_trial, trial_folders
from clearsight.runs.workspace import Workspace

__all__ = ["JOB_LOG", "detach", "resume_job", "start_job"]

JOB_LOG: Final = "job.log"
"""Log of a job that runs without a terminal, in its run folder."""

_POLL_S: Final = 0.2


def start_job(plan: JobPlan, workspace: Workspace) -> RunLock:
    """Write the folders of a planned job and lock it for this process.

    Raises `Conflict` when the name was taken meanwhile.
    """
    record, specs = plan.record, plan.trials
    folder = RunFolder(workspace.runs / record.name)
    trials = [RunFolder(workspace.runs / spec.run_id) for spec in specs]
    workspace.runs.mkdir(parents=True, exist_ok=True)
    try:
        folder.root.mkdir()
    except FileExistsError:
        raise Conflict(f"a job's name must be new, but {record.name!r} exists; choose another --name") from None
    made = [folder.root]
    try:
        run_lock = folder.own()
        folder.write_status(RunStatus("Starting"))
        for trial, spec in zip(trials, specs, strict=True):
            trial.root.mkdir()
            made.append(trial.root)
            write_atomically(trial.spec_file, spec.to_json())
            trial.write_status(RunStatus())
            append_trial(folder, trial.run_id)
        write_record(folder, record)
    except BaseException:
        for root in reversed(made):
            shutil.rmtree(root, ignore_errors=True)
        raise
    return run_lock


def resume_job(
    workspace: Workspace, name: str, wait_s: float, on_wait: Callable[[], None], *, retry_failed: bool = False
) -> RunLock:
    """Lock a job that was canceled, failed, or lost its process, so that `run_job` continues it.

    Trials that are completed stay so, all others run again. A trial whose parent process was killed may still be
    writing its checkpoint: after a call of `on_wait`, it gets `wait_s` seconds to end. `retry_failed`: a batch job,
    which may be completed, scores again what failed.
    Raises `NotFound`, `UserError` for `retry_failed` of another kind, and `Conflict` for a job that is completed or at
    work.
    """
    record = read_record(workspace, name)
    if retry_failed and JOB_KINDS[record.type].output != "score":
        raise UserError(
            f"only what failed of a batch job can be tried again, but {name!r} is a job of the type {record.type}"
        )
    folder, trials = RunFolder(workspace.runs / name), trial_folders(workspace, record)
    for trial in trials:
        JOB_KINDS[record.type].read_spec(trial)
    try:
        run_lock = folder.own()
    except Conflict:
        raise Conflict(
            f"a job must not be at work to be resumed, but {name!r} is; `clearsight job stream -n {name}` shows it"
        ) from None
    try:
        status = folder.read_status()
        if status.status == "Completed" and not retry_failed:
            raise Conflict(f"a job must be canceled, failed or interrupted to be resumed, but {name!r} is completed")
        for trial in trials:
            _wait_for_orphan(trial, wait_s, on_wait)
            before = trial.read_status()
            if retry_failed:
                trial.retry_failed_file.touch()
            if before.status != "Completed" or retry_failed:
                trial.write_status(
                    replace(before, status="NotStarted", ended_at=None, pid=None, reason=None, message=None)
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
    """Run a job in a new process, which inherits the lock; this process gives it up.

    The new process leads a session of its own, so it survives this process and its terminal; it prints to `JOB_LOG`.
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
