"""Identifies a process beyond its id, which the system reuses."""

import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["ProcessIdentity"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_START_TIME: Final = 19  # of the fields after the name: field 22 of /proc/<pid>/stat, see proc(5)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process id with what makes it unique: the boot of the machine and the start time in ticks since then."""

    pid: int
    boot_id: str
    started_at_tick: int
    host: str = field(compare=False)
    """Host name, for messages; not compared, since a machine may be renamed."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The running process with this id; None when there is none, or no /proc."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold anything
            if fields[0] in ("Z", "X"):  # ended, and not yet waited for by its parent
                return None
            boot_id = _BOOT_ID.read_text().strip()
            return cls(pid, boot_id, int(fields[_START_TIME]), socket.gethostname())
        except (OSError, ValueError, IndexError):
            return None

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """The inverse of `dataclasses.asdict`; None for anything else."""
        try:
            return cls(**document)
        except TypeError:
            return None

    def is_alive(self) -> bool:
        """Whether exactly this process runs, on this machine and visible from here."""
        return ProcessIdentity.of(self.pid) == self

    def is_here(self) -> bool:
        """Whether it belongs to the present boot of this machine; it may run in another container."""
        return self.boot_id == _BOOT_ID.read_text().strip()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to exactly this process, never to another one with its id; False when it has ended."""
        try:
            handle = os.pidfd_open(self.pid)  # refers to one process, even when its id is reused after the check
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True
