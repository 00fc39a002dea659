"""How other processes follow the events of a running job, and cancel it."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from clearsight.errors import Conflict
from clearsight.runs.describe import job_status
from clearsight.runs.record import JobRecord, read_record
from clearsight.runs.run_folder import ENDED, UNDER_WAY, LineReader, RunFolder, RunStatus, now
from clearsight.runs.trials import find_run, trial_folders
from clearsight.runs.workspace import Workspace

__all__ = ["JobEvents", "cancel_job", "follow_job"]

_POLL_S: Final = 0.2
_START_S: Final = 30.0
"""How long a process that was just started may take to write its identity into the status."""


class JobEvents:
    """Reads the events of a job and of its trials, or of one trial alone, while other processes write them.

    Each event of a trial has the trial's run id as `run_id`. Trials that start meanwhile are read too.
    """

    def __init__(self, workspace: Workspace, record: JobRecord, trial: RunFolder | None = None) -> None:
        self._workspace = workspace
        self._record = record
        self._trial = trial
        self._job_reader = LineReader(RunFolder(workspace.runs / record.name).events_file)
        self._trial_readers: dict[str, LineReader] = {}

    def new(self) -> Iterator[dict[str, Any]]:
        """The events since the last call, those of the job first."""
        trials = trial_folders(self._workspace, self._record) if self._trial is None else [self._trial]
        if self._trial is None:
            yield from self._job_reader.new()
        for trial in trials:
            reader = self._trial_readers.setdefault(trial.run_id, LineReader(trial.events_file))
            for event in reader.new():
                yield {**event, "run_id": trial.run_id}


def follow_job(workspace: Workspace, name: str, on_event: Callable[[Mapping[str, Any]], None]) -> RunStatus:
    """Pass on every event of a job, or of a trial, from its beginning until no process works on it.

    Returns its last status. Raises `NotFound`.
    """
    record, trial = find_run(workspace, name)
    events = JobEvents(workspace, record, trial)
    while True:
        status = job_status(workspace, record)  # read before the events, so that none is missed
        is_at_work = _is_at_work(status)
        if trial is not None:
            status = trial.read_status()
            is_at_work = is_at_work and status.status not in ENDED
        for event in events.new():
            on_event(event)
        if not is_at_work:
            return status
        time.sleep(_POLL_S)


def cancel_job(workspace: Workspace, name: str, wait: bool) -> RunStatus:
    """Send SIGTERM to the process of a job, which then stops its trials; with `wait`, return when it has ended.

    A trial that trains keeps a checkpoint. A job whose process is gone becomes `Canceled` at once. No other process is
    ever signalled: the right one is identified by its start time, not by its number alone. Raises `NotFound`, and
    `Conflict` for a job that has ended or whose process runs on another machine.
    """
    record = read_record(workspace, name)
    folder = RunFolder(workspace.runs / name)
    status = job_status(workspace, record)
    if status.status in ENDED:
        raise Conflict(f"a job must not have ended to be canceled, but {name!r} is {status.status}")
    if not folder.is_locked():
        return _cancel_lost(folder)
    if status.status != "CancelRequested":
        _signal(folder)
    while wait and folder.is_locked():
        time.sleep(_POLL_S)
    status = job_status(workspace, record)
    return replace(status, status="CancelRequested") if _is_at_work(status) else status


def _is_at_work(status: RunStatus) -> bool:
    return status.status in (*UNDER_WAY, "NotStarted")


def _cancel_lost(folder: RunFolder) -> RunStatus:
    with folder.own():
        status = replace(
            folder.read_status(),
            status="Canceled",
            ended_at=now(),
            reason="canceled",
            message="canceled when its process was gone already",
        )
        folder.write_status(status)
    return status


def _signal(folder: RunFolder) -> None:
    deadline = time.monotonic() + _START_S
    while folder.is_locked():
        process = folder.read_status().process
        if process is not None and process.send(signal.SIGTERM):
            return
        if (process is not None and not process.is_here()) or time.monotonic() > deadline:
            where = "unknown" if process is None else f"{process.pid} on {process.host}"
            raise Conflict(
                f"the process of {folder.run_id} must run on this machine to be stopped, but it is {where}, which "
                "cannot be seen from here; cancel the job there"
            )
        time.sleep(_POLL_S)
