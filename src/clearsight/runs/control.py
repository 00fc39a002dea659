"""What other processes do with a job that runs: watch it, and ask it to stop."""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from clearsight.errors import Conflict
from clearsight.runs.record import job_status, read_record
from clearsight.runs.run_folder import ENDED, UNDER_WAY, EventReader, RunFolder, RunStatus, now
from clearsight.runs.workspace import Workspace

__all__ = ["cancel_job", "follow_job"]

_POLL_S: Final = 0.2
_START_S: Final = 30.0
"""How long a process that was just started may take to say who it is."""


def follow_job(workspace: Workspace, name: str, on_event: Callable[[Mapping[str, Any]], None]) -> RunStatus:
    """Tell every event of a job from its beginning, and go on until no process works on it; return its last state."""
    record = read_record(workspace, name)
    folder = RunFolder(workspace.runs / name)
    readers = [EventReader(folder), *(EventReader(RunFolder(workspace.runs / trial)) for trial in record.trials)]
    while True:
        status = job_status(workspace, record)  # before its events: none is missed
        for reader in readers:
            for event in reader.new():
                on_event(event)
        if not _is_at_work(status):
            return status
        time.sleep(_POLL_S)


def cancel_job(workspace: Workspace, name: str, wait: bool) -> RunStatus:
    """Ask the process of a job to stop, with a checkpoint once it trains; with `wait`, return when it has.

    A job whose process is gone becomes `Canceled` at once. Raises `NotFound`, and `Conflict` for a job that has ended
    or whose process cannot be reached from here. No other process is ever signalled: the one meant is known by its
    start, not by its number alone.
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
