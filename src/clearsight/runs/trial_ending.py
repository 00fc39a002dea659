"""How a trial ended, for people and for programs, when it may have had no time to say so itself."""

import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from clearsight.runs.run_folder import ENDED, RunFolder, RunStatus, now

__all__ = ["StoppedFor", "last_lines", "trial_ending"]

StoppedFor = Literal["canceled", "timeout"]
"""Why the job stopped its trial."""

_LOG_LINES: Final = 8
_NO_ROOM_BYTES: Final = 1024 * 1024


def trial_ending(said: RunStatus, folder: RunFolder, code: int, stopped_for: StoppedFor | None) -> RunStatus:
    """The state of a trial whose process has ended with `code` (minus a signal's number): its own word, else ours."""
    if said.status in ENDED:
        is_stopped = said.status == "Canceled" and stopped_for is not None
        return replace(said, reason=stopped_for) if is_stopped else said
    ended = replace(said, ended_at=now())
    if stopped_for is not None:
        at_start = said.status == "NotStarted"
        kept = "the last checkpoint is kept" if folder.has_checkpoint() else "there is no checkpoint yet"
        message = "stopped at its start" if at_start else f"ended at once; {kept}"
        return replace(ended, status="Canceled", reason=stopped_for, message=message)
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


def last_lines(file: Path) -> list[str]:
    """The end of a log; of a traceback, the line that says what happened."""
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
