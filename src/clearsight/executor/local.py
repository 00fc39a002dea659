"""Runs each task as one or more processes of its own on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from clearsight import environment
from clearsight.executor.protocol import Exited, Resources, TaskSpec

__all__ = ["Local"]

_POLL_S: Final = 0.05
_PEER_GRACE_S: Final = 10.0
"""Grace period of the other processes of a task after one has failed: they often wait for it and would not end."""


@dataclass(slots=True)
class _ProcessGroup:
    """The processes of one task."""

    processes: list[subprocess.Popen[bytes]]
    parent_pipe: int
    """Write end of a pipe that the processes watch: it closes when this process ends."""
    failure: int | None = None
    """Exit code of the process that failed first."""
    kill_at: float | None = None
    """Monotonic time at which processes that still run are killed; None: no SIGTERM was sent."""

    def stop(self, grace_s: float) -> None:
        if self.kill_at is None:
            # Not SIGINT: a shell's background job inherits it as ignored, and so would a child that has just started.
            self._signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + grace_s
        else:
            self.kill_at = min(self.kill_at, time.monotonic() + grace_s)

    def has_ended(self) -> bool:
        """Poll once. Stops the others after a failure, and kills those whose grace period is over."""
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            self._signal(signal.SIGKILL)
        codes = [process.poll() for process in self.processes]
        failures = [code for code in codes if code]
        if failures and self.failure is None:
            self.failure = min(
                failures
            )  # Of several exit codes seen together, a signal (negative) is the cause, an error its consequence.
            if None in codes and self.kill_at is None:
                self.stop(_PEER_GRACE_S)
        return None not in codes

    def _signal(self, number: signal.Signals) -> None:
        """Send to the process group of each process that still runs, so that its children end too."""
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)


class Local:
    """An executor of child processes.

    Each child has its own session, so that Ctrl-C in a terminal reaches only the parent, which then stops the children
    in order. A child whose parent process has ended stops by itself (`clearsight.executor.child`).
    """

    def __init__(self, address: str = "") -> None:
        """`address` means nothing here."""
        self._running: dict[str, _ProcessGroup] = {}

    def submit(self, task: TaskSpec) -> str:
        task.log_file.parent.mkdir(parents=True, exist_ok=True)
        parent_pipe, write_end = os.pipe()
        group = _ProcessGroup([], write_end)
        try:
            with task.log_file.open("ab") as log:
                for variables in _rank_variables(task.resources.num_processes):
                    group.processes.append(
                        subprocess.Popen(
                            [
                                sys.executable,
                                "-m",
                                "clearsight.executor.child",
                                str(parent_pipe),
                                task.module,
                                *task.args,
                            ],
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            env={**os.environ, **_thread_variables(task.resources), **task.environment, **variables},
                            start_new_session=True,
                            pass_fds=(parent_pipe,),
                        )
                    )
        except BaseException:
            os.close(write_end)  # the processes already started stop by themselves
            raise
        finally:
            os.close(parent_pipe)
        task_id = str(group.processes[0].pid)
        self._running[task_id] = group
        return task_id

    def wait(self, timeout_s: float) -> list[Exited]:
        deadline = time.monotonic() + timeout_s
        while True:
            ended = []
            for task_id, group in list(self._running.items()):
                if group.has_ended():
                    del self._running[task_id]
                    os.close(group.parent_pipe)
                    ended.append(Exited(task_id, group.failure or 0))
            if ended or not self._running or time.monotonic() >= deadline:
                return ended
            time.sleep(_POLL_S)

    def cancel(self, task_id: str, grace_s: float) -> None:
        if task_id in self._running:
            self._running[task_id].stop(grace_s)


def _thread_variables(resources: Resources) -> Mapping[str, str]:
    """Divide the cores among the processes, unless the environment already limits the threads of each."""
    if environment.num_threads() is not None or (resources.num_processes == 1 and resources.num_cores is None):
        return {}
    num_cores = resources.num_cores or len(os.sched_getaffinity(0))
    return {"OMP_NUM_THREADS": str(max(1, num_cores // resources.num_processes))}


def _rank_variables(num_processes: int) -> list[Mapping[str, str]]:
    """Variables of torch's `env://` initialisation, one mapping per process; empty for a single process."""
    if num_processes == 1:
        return [{}]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    size = str(num_processes)
    shared = {
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]
