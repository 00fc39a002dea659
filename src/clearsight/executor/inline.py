"""Runs a task in this process, at once. For debugging and for tests."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

from clearsight.executor.protocol import Exited, TaskSpec

__all__ = ["Inline"]


class Inline:
    """An executor whose `submit` returns when the task has ended. The module must define `main(args) -> int`."""

    def __init__(self, address: str = "") -> None:
        """`address` means nothing here."""
        self._ended: list[Exited] = []
        self._count = 0

    def submit(self, task: TaskSpec) -> str:
        num_processes = task.resources.num_processes
        if num_processes > 1:
            raise ValueError(f"one process runs one process's work, but got num_processes={num_processes}")
        task_id = f"inline-{self._count}"
        self._count += 1
        main: Callable[[list[str]], int] = import_module(task.module).main
        with _environment(task.environment):
            self._ended.append(Exited(task_id, main(list(task.args))))
        return task_id

    def wait(self, timeout_s: float) -> list[Exited]:
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, task_id: str, grace_s: float) -> None:
        """Do nothing: every task has ended when `submit` returns."""


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
