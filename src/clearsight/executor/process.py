"""Which process is meant, beyond its number: numbers are given again to others."""

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
    """A process number with what makes it unique: the boot of the machine and the start in ticks since then."""

    pid: int
    boot_id: str
    started_at_tick: int
    host: str = field(compare=False)
    """For people: a machine may change its name."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this number now; None when there is none, or no /proc to tell."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold anything
            if fields[0] in ("Z", "X"):  # ended, and only waiting for its parent to hear of it
                return None
            boot_id = _BOOT_ID.read_text().strip()
            return cls(pid, boot_id, int(fields[_START_TIME]), socket.gethostname())
        except (OSError, ValueError, IndexError):
            return None

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """The inverse of `dataclasses.asdict`; None when it is something else."""
        try:
            return cls(**document)
        except TypeError:
            return None

    def is_alive(self) -> bool:
        """Whether that very process runs, on this machine and visible from here."""
        return ProcessIdentity.of(self.pid) == self

    def is_here(self) -> bool:
        """Whether it is a process of this machine, since it was started; it may be in another container."""
        return self.boot_id == _BOOT_ID.read_text().strip()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to that very process; False when it is gone. Never reaches another one of the same number."""
        try:
            handle = os.pidfd_open(self.pid)  # means one process, whatever becomes of its number after the check
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
