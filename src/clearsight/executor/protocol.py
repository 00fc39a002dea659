"""The contract that every executor keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Executor", "Exited", "Resources", "TaskSpec"]


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that a task needs; the executor chooses where to run it."""

    num_processes: int = 1
    """Processes that run the same command line together. With more than one, each gets torch's variables `RANK`,
    `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`."""
    num_cores: int | None = None
    """Processor cores for all processes together; None: all that this process may use."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A Python module to run as a program: `python -m <module> <args…>`."""

    module: str
    args: tuple[str, ...]
    log_file: Path
    """File to which stdout and stderr of all its processes are appended."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables, in addition to those of this process."""
    resources: Resources = Resources()


@dataclass(frozen=True, slots=True)
class Exited:
    """A task that has ended, with all of its processes.

    `code` is its exit code, or minus the number of the signal that killed it. Of several processes it is the code of
    the first that failed; 0 when none did.
    """

    task_id: str
    code: int


class Executor(Protocol):
    """Starts tasks and reports their exit codes. Not safe to share between threads.

    `wait` also kills tasks whose grace period is over, so it must be called regularly.
    """

    def submit(self, task: TaskSpec) -> str:
        """Start a task and return its id."""

    def wait(self, timeout_s: float) -> list[Exited]:
        """Return the tasks that have ended and were not returned before; wait up to `timeout_s` for the first."""

    def cancel(self, task_id: str, grace_s: float) -> None:
        """Send SIGTERM to a task and return at once; `wait` kills it `grace_s` seconds later.

        A second call sends no second signal, and can only shorten the grace period. Unknown or ended tasks are ignored.
        """
