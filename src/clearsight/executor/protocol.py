"""The contract that every executor keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Executor", "Exited", "TaskSpec"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A Python module to run as a program: `python -m <module> <args…>`."""

    module: str
    args: tuple[str, ...]
    log_file: Path
    """What the program prints goes here, from all of its processes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set in addition to the present ones."""
    num_processes: int = 1
    """How many processes run the same command line as one gang. With more than one, each gets torch's variables
    `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`."""


@dataclass(frozen=True, slots=True)
class Exited:
    """A task has ended, with all of its processes.

    `code` is its exit code, or minus the number of the signal that killed it; of a gang, the code of the process that
    failed first, 0 when none did.
    """

    task_id: str
    code: int


class Executor(Protocol):
    """Starts tasks and tells how they end. One owner; not safe to share between threads.

    `wait` also does what has become due (it ends tasks whose grace is over), so it must be called again and again.
    """

    def submit(self, task: TaskSpec) -> str:
        """Start a task and return its id."""

    def wait(self, timeout_s: float) -> list[Exited]:
        """Return the tasks that have ended and were not returned before; wait up to `timeout_s` for the first."""

    def cancel(self, task_id: str, grace_s: float) -> None:
        """Ask a task to stop with SIGTERM and return at once; after `grace_s` seconds `wait` ends it.

        Called again, the grace can only become shorter, and nothing is asked twice. Unknown or ended tasks are left
        alone.
        """
