"""Runs each task as a process group of its own on this machine."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

from clearsight.executor.protocol import Exited, TaskSpec

__all__ = ["Local"]

_POLL_S: Final = 0.05
_KILL_S: Final = 5.0


class Local:
    """An executor of child processes.

    A child has its own session, so that Ctrl-C in a terminal reaches only the parent, which decides what it means.
    """

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, task: TaskSpec) -> str:
        task.log_file.parent.mkdir(parents=True, exist_ok=True)
        with task.log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", task.module, *task.args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **task.environment},
                start_new_session=True,
            )
        task_id = str(process.pid)
        self._running[task_id] = process
        return task_id

    def wait(self, timeout_s: float) -> list[Exited]:
        deadline = time.monotonic() + timeout_s
        while True:
            ended = []
            for task_id, process in list(self._running.items()):
                code = process.poll()
                if code is not None:
                    del self._running[task_id]
                    ended.append(Exited(task_id, code))
            if ended or not self._running or time.monotonic() >= deadline:
                return ended
            time.sleep(_POLL_S)

    def cancel(self, task_id: str, grace_s: float) -> None:
        process = self._running.get(task_id)
        if process is None:
            return
        # Not SIGINT: a shell's background job inherits it as ignored, and so would a child that has just started.
        self._signal(process, signal.SIGTERM)
        try:
            process.wait(grace_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # asked twice: at once
            self._signal(process, signal.SIGKILL)
            process.wait(_KILL_S)

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Send to the whole group, so that what a task started ends with it."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
