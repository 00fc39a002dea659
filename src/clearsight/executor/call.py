"""Runs Python code to its end in a process of its own, for work that may kill its process or leave memory behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

__all__ = ["PythonCall", "PythonResult", "call_module", "last_error"]

_PREFIX: Final = "error: "
"""Beginning of the line that the commands of Clearsight write to stderr before they exit with status 1."""


@dataclass(frozen=True, slots=True)
class PythonResult:
    """How a call ended. `code` is its exit status, or minus the number of the signal that killed it."""

    code: int
    output: bytes
    """The complete stdout."""
    errors: str
    """The complete stderr."""

    @property
    def error(self) -> str:
        """Reason why a call failed, in one line."""
        return last_error(self.errors, self.code)


def last_error(errors: str, code: int) -> str:
    """The last line of stderr; without one, how the process ended."""
    lines = errors.strip().splitlines()
    if lines:
        return lines[-1].removeprefix(_PREFIX)
    return f"the process ended with {f'signal {-code}' if code < 0 else f'exit status {code}'}"


class PythonCall:
    """A Python process that reads `stdin` and whose output is collected. It leads a process group of its own."""

    def __init__(self, arguments: Sequence[str], stdin: bytes = b"") -> None:
        self._stdin = stdin
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )

    def wait(self, timeout_s: float) -> PythonResult:
        """Wait until it has ended. Raises TimeoutError after `timeout_s`, when it has been killed."""
        try:
            output, errors = self._process.communicate(self._stdin, timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.communicate()
            raise TimeoutError(f"the process must end within {timeout_s:g} s, but did not") from None
        return PythonResult(self._process.returncode, output, errors.decode(errors="replace"))

    def kill(self) -> None:
        """Kill it with everything it started, if anything still runs. Safe while another thread waits."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def call_module(module: str, *args: str, stdin: bytes = b"", timeout_s: float) -> PythonResult:
    """Run `python -m module args…`, then kill what it left running. Raises TimeoutError after `timeout_s`."""
    call = PythonCall(["-m", module, *args], stdin)
    try:
        return call.wait(timeout_s)
    finally:
        call.kill()
