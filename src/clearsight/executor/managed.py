"""A server as a process of its own: started or adopted, awaited, stopped with everything it started."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from clearsight.executor.process import ProcessIdentity
from clearsight.files import open_log

__all__ = ["UNKNOWN_EXIT_CODE", "ManagedProcess"]

UNKNOWN_EXIT_CODE: Final = -1
"""Of an adopted process: only its parent learns how it ended."""


class ManagedProcess:
    """A process whose output is appended to `log_file`.

    It has its own session, so that Ctrl-C in a terminal reaches only its parent, which stops it in order. It survives
    a parent that is killed or exits without stopping it, and another process can adopt it then.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self.identity: ProcessIdentity | None = None
        """The process, also after it has ended; None before the start, and for one that ended at once."""
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @classmethod
    def adopt(cls, identity: ProcessIdentity, log_file: Path) -> "ManagedProcess":
        """Take charge of a process that somebody else started. It is the leader of its session."""
        process = cls(log_file)
        process.identity = identity
        return process

    @property
    def pid(self) -> int | None:
        """Process id, also of a process that has ended; None before the start."""
        if self._child is not None:
            return self._child.pid
        return self.identity.pid if self.identity else None

    @property
    def returncode(self) -> int | None:
        """Exit code; None before the start and while it runs. An adopted process has `UNKNOWN_EXIT_CODE`."""
        if self._child is not None:
            return self._child.poll()
        return UNKNOWN_EXIT_CODE if self.identity is not None and not self.identity.is_alive() else None

    async def start(
        self,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start `command` in `folder` with `environment`; by default the variables of this process.

        The descriptors `pass_fds` stay open in it. Raises OSError.
        """
        with open_log(self.log_file) as output:
            self._log_start = output.tell()
            self._child = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self.identity = ProcessIdentity.of(self._child.pid)

    async def wait(self) -> int:
        """Wait until the process has ended; its exit code."""
        pid = self.pid
        if pid is None:
            raise RuntimeError("the process was not started")
        while (code := self.returncode) is None:
            await self._wait_for_end(pid)
        return code

    async def _wait_for_end(self, pid: int) -> None:
        """Wait on a descriptor of the process, which becomes readable when it ends (pidfd_open(2))."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            loop.add_reader(descriptor, ended.set)
            if self.returncode is None:  # still the same process, now that the descriptor holds on to it
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM, wait up to `grace_s`, then kill the whole process group. Does nothing before the start."""
        pid = self.pid
        if pid is None:
            return
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace_s)
        self.kill()
        await self.wait()

    def kill(self) -> None:
        """Kill the process with everything it started that is still in its group.

        The group of an adopted process that has ended is left alone, since its number may be another one's by now.
        """
        pid = self.pid
        if pid is not None and (self._child is not None or self.returncode is None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def cpu_ns(self) -> int:
        """Time for which its threads have run, in nanoseconds (`/proc/<pid>/task/*/schedstat`); 0 when it has ended."""
        total = 0
        for file in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                total += int(file.read_text().split()[0])
        return total

    def output(self) -> str:
        """The text that was appended to the log file since the last start."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")
