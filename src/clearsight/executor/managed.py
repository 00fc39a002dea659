"""A server as a child process: started, awaited, stopped with everything it started, restarted with back-off."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from clearsight.errors import ClearsightError
from clearsight.files import open_log

__all__ = ["BackOff", "ManagedProcess"]

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0


class ManagedProcess:
    """A process whose output is appended to `log_file`.

    It has its own session, so that Ctrl-C in a terminal reaches only its parent, which stops it in order.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id, also of a process that has ended; None before the start."""
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """Exit code; None before the start and while it runs."""
        return self._process.returncode if self._process else None

    async def start(
        self, command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command` in `folder` with `environment`; by default the variables of this process."""
        with open_log(self.log_file) as output:
            self._log_start = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def wait(self) -> int:
        """Wait until the process has ended; its exit code."""
        if self._process is None:
            raise RuntimeError("the process was not started")
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM, wait up to `grace_s`, then kill the whole process group. Does nothing before the start."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def output(self) -> str:
        """The text that was appended to the log file since the last start."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")


class BackOff:
    """Pauses before restarts: none for a process that stayed up for 30 s, else 0.5 s, doubled with each try."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._up_since = clock()
        self._pause_s = 0.0

    async def restart(self, start: Callable[[], Awaitable[None]], name: str) -> None:
        """Pause and call `start` until it succeeds. A ClearsightError is logged, everything else raised."""
        if self._clock() - self._up_since > MAX_PAUSE_S:
            self._pause_s = 0.0
        else:
            self._lengthen()
        while True:
            await self._sleep(self._pause_s)
            try:
                await start()
            except ClearsightError as error:
                log.error("%s could not be restarted: %s", name, error)
                self._lengthen()
            else:
                self._up_since = self._clock()
                return

    def _lengthen(self) -> None:
        self._pause_s = min(MAX_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
