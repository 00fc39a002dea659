"""The lock of a run: at most one process works on a run folder at a time.

The owner holds a lock (`flock`) on a file of the run folder. The kernel releases it when the process ends, however it
ends, so no stale lock is ever left behind; process ids, which are reused, play no part in it.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from clearsight.errors import Conflict

__all__ = ["RunLock", "is_locked"]

_ATTEMPTS: Final = 10
_PAUSE_S: Final = 0.03  # `is_locked` itself holds the lock for microseconds; that must not count as an owner


class RunLock:
    """A held lock. Use it as a context manager, or pass `descriptor` to a child process, which then holds it too."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, file: Path) -> Self:
        """Take the lock. Raises `Conflict` when another process, or another owner in this process, holds it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return cls(descriptor)
                except BlockingIOError:
                    if attempt < _ATTEMPTS - 1:
                        time.sleep(_PAUSE_S)
            raise Conflict(f"the run {file.parent.name} must not be at work already, but another process works on it")
        except BaseException:
            os.close(descriptor)
            raise

    def release(self) -> None:
        """Release the lock, unless a child process holds it too."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock; a missing file is not locked."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
