"""A file of the processes that a server has started, so that the next one adopts or ends them if it is killed."""

import contextlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from clearsight.executor import ProcessIdentity
from clearsight.files import write_atomically

__all__ = ["ProcessEntry", "ProcessLedger"]

log = logging.getLogger(__name__)

LEDGER_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """One process, the leader of its own group."""

    identity: ProcessIdentity
    folder: Path
    """To be removed with the process."""
    code_version: str
    """Version of the code that it runs; a server adopts only processes of its own version."""
    details: Mapping[str, Any]
    """Plain data from which `GatewayProcess` or `TorchServeProcess` takes charge of it again."""

    def is_alive(self) -> bool:
        return self.identity.is_alive()

    def end(self) -> bool:
        """Kill the process group and remove the folder; False when the process had ended before."""
        was_alive = self.is_alive()
        if was_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.identity.pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        return was_alive

    def to_document(self) -> dict[str, Any]:
        return {
            "identity": asdict(self.identity),
            "folder": str(self.folder),
            "code_version": self.code_version,
            "details": dict(self.details),
        }

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """The inverse of `to_document`; None for anything else."""
        try:
            identity = ProcessIdentity.from_document(document["identity"])
            version, details = str(document["code_version"]), dict(document["details"])
            return None if identity is None else cls(identity, Path(document["folder"]), version, details)
        except (KeyError, TypeError, ValueError):
            return None


class ProcessLedger:
    """The entries by process id.

    A file that cannot be written is logged, and written by the next change or `flush`: what is recorded about
    processes never decides about them.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries: dict[int, ProcessEntry] = {}
        self._is_saved = True

    def load(self) -> Sequence[ProcessEntry]:
        """What an earlier server has recorded, also of processes that have ended. It stays until it is removed."""
        try:
            document = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return []
        if not isinstance(document, dict) or document.get("ledger_version") != LEDGER_VERSION:
            log.error("the list of processes %s is not one of this version; processes in it are left alone", self._file)
            return []
        for entry in map(ProcessEntry.from_document, document["processes"]):
            if entry is not None:
                self._entries[entry.identity.pid] = entry
        return list(self._entries.values())

    def add(self, entry: ProcessEntry) -> None:
        self._entries[entry.identity.pid] = entry
        self._save()

    def remove(self, pid: int | None) -> None:
        if pid is not None and self._entries.pop(pid, None) is not None:
            self._save()

    def end(self, entry: ProcessEntry) -> bool:
        """End a process; False when it had ended before."""
        was_alive = entry.end()
        self.remove(entry.identity.pid)
        return was_alive

    def flush(self) -> None:
        """Try again to write the file if that failed before."""
        if not self._is_saved:
            self._save()

    def _save(self) -> None:
        document = {
            "ledger_version": LEDGER_VERSION,
            "processes": [entry.to_document() for entry in self._entries.values()],
        }
        try:
            write_atomically(self._file, json.dumps(document), 0o600)
        except OSError as error:
            if self._is_saved:
                log.error("the list of processes %s cannot be written: %s", self._file, error)
            self._is_saved = False
        else:
            self._is_saved = True
