"""The process of a job without a terminal: `python -m clearsight.runs.job_process JOB_FOLDER DESCRIPTOR`.

DESCRIPTOR is the file descriptor of the job's lock, inherited from the parent process. Progress goes to stderr as plain
lines.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from clearsight.console import stderr
from clearsight.errors import ClearsightError
from clearsight.executor import executor_for
from clearsight.runs.job_run import run_job
from clearsight.runs.lock import RunLock
from clearsight.runs.progress_view import JobView
from clearsight.runs.record import read_record
from clearsight.runs.stop_requests import graceful_shutdown
from clearsight.runs.workspace import Workspace

__all__ = ["exit_code", "main"]

_CODES: Final[Mapping[str, int]] = MappingProxyType({"Completed": 0, "Canceled": 130})


def exit_code(state: str) -> int:
    """Exit code for the final state of a job or trial: 0 completed, 130 canceled, 1 otherwise."""
    return _CODES.get(state, 1)


def main(args: Sequence[str]) -> int:
    """Run the job; return the exit code of its final state."""
    folder, descriptor = Path(args[0]), int(args[1])
    workspace = Workspace(folder.parent.parent)
    with graceful_shutdown() as stop, RunLock(descriptor):
        try:
            record = read_record(workspace, folder.name)
            with JobView(stderr, workspace, record) as view:
                executor = executor_for(record.document.get("compute"))
                result = run_job(workspace, folder.name, executor, view.on_event, stop)
        except ClearsightError as error:
            _say(f"error: {error}")
            return 1
    _say(f"{result['status']}: {result['properties']['message']}")
    return exit_code(result["status"])


def _say(line: str) -> None:
    """Print a line into the job's log; on a full disk the status says the same."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
