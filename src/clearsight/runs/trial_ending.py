"""The final status of a trial whose process has ended, which may have written none itself."""

import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from clearsight.runs.run_folder import ENDED, RunFolder, RunStatus, now

__all__ = ["StopReason", "final_status", "log_tail"]

StopReason = Literal["canceled", "timeout"]
"""Reason why a job stopped its trials: a request, or its time limit."""

_LOG_LINES: Final = 8
_NO_ROOM_BYTES: Final = 1024 * 1024


def final_status(reported: RunStatus, folder: RunFolder, code: int, stop_reason: StopReason | None) -> RunStatus:
    """The final status of a trial: the one that it reported, else one derived from how its process ended.

    `code` is the exit code, or minus the number of the signal that killed the process; `stop_reason` is None when the
    job did not stop the trial.
    """
    if reported.status in ENDED:
        is_stopped = reported.status == "Canceled" and stop_reason is not None
        return replace(reported, reason=stop_reason) if is_stopped else reported
    ended = replace(reported, ended_at=now())
    if stop_reason is not None:
        at_start = reported.status == "NotStarted"
        kept = "the last checkpoint is kept" if folder.has_checkpoint() else "there is no checkpoint yet"
        message = "stopped at its start" if at_start else f"ended at once; {kept}"
        return replace(ended, status="Canceled", reason=stop_reason, message=message)
    if code < 0:
        reason, message = "killed", _killed_message(-code)
    else:
        reason, message = "internal_error", f"the trial process ended with exit code {code} without a word"
    if shutil.disk_usage(folder.root).free < _NO_ROOM_BYTES:
        message += f"; the disk of {folder.root} is full"
    return replace(ended, status="Failed", reason=reason, message=f"{message}; its log is {folder.log_file}")


def _killed_message(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    message = f"the trial was killed by {name}"
    if number == signal.SIGKILL:
        message += (
            ", most likely since the memory was full (`dmesg | grep -i 'out of memory'`, or the memory limit of the "
            "container, tells); lower training_batch_size, validation_batch_size or number_of_workers"
        )
    return message


def log_tail(file: Path) -> list[str]:
    """The last lines of a log that are not empty; of a traceback, only its last line."""
    lines: list[str] = []
    in_traceback = False
    with suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            if line.startswith("Traceback (most recent call last)"):
                in_traceback = True
            elif not in_traceback or not line.startswith(" "):
                in_traceback = in_traceback and not line.strip()
                lines.append(line)
    return [line for line in lines if line.strip()][-_LOG_LINES:]
