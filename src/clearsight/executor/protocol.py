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
    """What the program prints goes here."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set in addition to the present ones."""


@dataclass(frozen=True, slots=True)
class Exited:
    """A task has ended. `code` is its exit code, or minus the number of the signal that killed it."""

    task_id: str
    code: int


class Executor(Protocol):
    """Starts tasks and tells how they end. One owner; not safe to share between threads."""

    def submit(self, task: TaskSpec) -> str:
        """Start a task and return its id."""

    def wait(self, timeout_s: float) -> list[Exited]:
        """Return the tasks that have ended and were not returned before; wait up to `timeout_s` for the first."""

    def cancel(self, task_id: str, grace_s: float) -> None:
        """Ask a task to stop with SIGTERM; after `grace_s` seconds end it. Unknown or ended tasks are left alone."""
