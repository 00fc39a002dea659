"""A file of the processes that a server has started: if it is killed, the next server ends them."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import psutil

from clearsight.files import write_atomically

__all__ = ["ProcessLedger"]


class ProcessLedger:
    """A file of process ids with their start times, so that a process that got the same id later is left alone."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries: dict[int, tuple[float, str]] = {}

    def add(self, pid: int, folder: Path) -> None:
        """Record a running process, the leader of its own group, and the folder to remove with it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._entries[pid] = (psutil.Process(pid).create_time(), str(folder))
            self._save()

    def remove(self, pid: int) -> None:
        if self._entries.pop(pid, None):
            self._save()

    def sweep(self) -> int:
        """End the processes that an earlier server left; returns how many."""
        try:
            leftovers = {int(pid): entry for pid, entry in json.loads(self._file.read_bytes()).items()}
        except (OSError, ValueError, AttributeError):
            leftovers = {}
        num_ended = 0
        for pid, (created, folder) in leftovers.items():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if psutil.Process(pid).create_time() == created:
                    os.killpg(pid, signal.SIGKILL)
                    num_ended += 1
            shutil.rmtree(folder, ignore_errors=True)
        self._entries.clear()
        self._save()
        return num_ended

    def _save(self) -> None:
        write_atomically(self._file, json.dumps(self._entries), 0o600)
