"""How the controller of a batch job and its workers talk: two files of JSON lines for each worker.

Files work wherever the run folder is seen, whatever started the worker. A worker reads its `inbox` (ranges to score)
and appends to its `outbox` (what became of them).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clearsight.runs.run_folder import LineReader, append_line

__all__ = ["Mailbox"]


class Mailbox:
    """One end of the conversation; `for_worker` chooses which. Raises `OSError`."""

    def __init__(self, folder: Path, worker: str, *, for_worker: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        inbox, outbox = folder / f"{worker}.inbox.jsonl", folder / f"{worker}.outbox.jsonl"
        self._reader = LineReader(inbox if for_worker else outbox)
        self._target = outbox if for_worker else inbox

    def send(self, kind: str, **fields: Any) -> None:
        append_line(self._target, {"kind": kind, **fields})

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages since the last call."""
        return self._reader.new()
