"""The run folder: the truth of a run, on disk. Everything else (MLflow, the command line) reads it.

```
runs/<run>/
    spec.json                what the trial was asked to do, every default filled in (`TrialSpec`); never changed
    status.json              the present state, replaced atomically (`RunStatus`)
    lock                     held by the process that works on the run
    events.jsonl             what happened, one line each, appended
    metrics.jsonl            one line per validation pass
    trial.log                what the process printed
    checkpoints/             to go on from
    metrics/                 charts and the table of classes of the best pass
    outputs/mlflow-model/    the package of the best pass
    outputs/split.json       record indices of training and validation, when the job held out a part
    train_artifacts/         model.onnx and labels.json in the form of Azure's contract
```
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from clearsight.executor import ProcessIdentity
from clearsight.files import write_atomically
from clearsight.runs.lock import RunLock, is_locked

__all__ = ["ENDED", "LAST_CHECKPOINT", "UNDER_WAY", "EventReader", "RunFolder", "RunStatus", "State", "now"]

State = Literal[
    "NotStarted",
    "Starting",
    "Preparing",
    "Running",
    "Finalizing",
    "CancelRequested",
    "Completed",
    "Failed",
    "Canceled",
    "NotResponding",
    "Unknown",
]
"""Azure's spelling. A trial is only ever `NotStarted`, `Running` or ended; a job also tells what it is about."""

ENDED: Final[tuple[State, ...]] = ("Completed", "Failed", "Canceled")
"""States that a run does not leave by itself."""

UNDER_WAY: Final[tuple[State, ...]] = ("Starting", "Preparing", "Running", "Finalizing", "CancelRequested")
"""States in which a process works on the run; one whose process is gone is `NotResponding`."""

LAST_CHECKPOINT: Final = "last.safetensors"
"""In the folder of checkpoints: what a run goes on from."""


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands."""

    status: State = "NotStarted"
    created_at: str = field(default_factory=now)
    started_at: str | None = None
    ended_at: str | None = None
    pid: int | None = None
    """Of the process that works on the run, or did so last."""
    process: ProcessIdentity | None = None
    """The same process beyond doubt; of jobs, which can be stopped from elsewhere."""
    reason: str | None = None
    """Why it ended, for programs: `early_stopping`, `bad_data`, `out_of_memory`, …"""
    message: str | None = None
    """Why it ended, for people."""
    best_epoch: int | None = None
    """Counted from 0."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the best validation pass."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths and files of one run."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def spec_file(self) -> Path:
        return self.root / "spec.json"

    @property
    def status_file(self) -> Path:
        return self.root / "status.json"

    @property
    def events_file(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def metrics_file(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        return self.root / "trial.log"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return (self.checkpoints / LAST_CHECKPOINT).is_file()

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def package(self) -> Path:
        return self.outputs / "mlflow-model"

    @property
    def train_artifacts(self) -> Path:
        return self.root / "train_artifacts"

    def own(self) -> RunLock:
        """Become the one process that works on the run. Raises `Conflict` when there is one."""
        return RunLock.take(self.root / "lock")

    def is_locked(self) -> bool:
        """Whether a process works on the run."""
        return is_locked(self.root / "lock")

    def write_status(self, status: RunStatus) -> None:
        write_atomically(self.status_file, json.dumps(asdict(status), indent=2) + "\n")

    def read_status(self) -> RunStatus:
        """The state; `NotResponding` when the process of a run under way is gone, `Unknown` for a damaged file."""
        status = self._written_status()
        while status.status in UNDER_WAY and not self.is_locked():
            again = self._written_status()  # an owner writes how it ended before it goes
            if again == status:
                return replace(status, status="NotResponding")
            status = again
        return status

    def _written_status(self) -> RunStatus:
        try:
            document = json.loads(self.status_file.read_bytes())
            status = RunStatus(**{**document, "process": ProcessIdentity.from_document(document.get("process"))})
        except FileNotFoundError:
            return RunStatus()
        except (ValueError, TypeError, AttributeError) as error:
            return RunStatus("Unknown", message=f"{self.status_file} must hold the state, but it is damaged: {error}")
        if status.status not in get_args(State):
            return RunStatus("Unknown", message=f"{self.status_file} holds the unknown state {status.status!r}")
        return status

    def append_event(self, kind: str, **fields: Any) -> None:
        """Add one line to the events, whole or not at all."""
        _append(self.events_file, {"time": now(), "kind": kind, **fields})

    def append_metrics(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Add one validation pass."""
        _append(self.metrics_file, {"time": now(), "epoch": epoch, "step": step, "metrics": metrics})

    def read_metrics(self) -> list[dict[str, Any]]:
        """The validation passes by epoch; of an epoch that was trained again after an interruption, the last."""
        if not self.metrics_file.exists():
            return []
        passes = [one for line in self.metrics_file.read_bytes().splitlines() if (one := _parse(line)) is not None]
        return list({one["epoch"]: one for one in passes}.values())


class EventReader:
    """Follows the events of a run while another process writes them."""

    def __init__(self, folder: RunFolder) -> None:
        self._file = folder.events_file
        self._position = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The events since the last call; a line that is still being written waits for the next.

        A damaged line (a machine that lost its power) is left out.
        """
        with suppress(FileNotFoundError), self._file.open("rb") as stream:
            stream.seek(self._position)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                event = _parse(line)
                if event is not None:
                    yield event


def _append(file: Path, document: dict[str, Any]) -> None:
    line = (json.dumps(document) + "\n").encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        written = os.write(descriptor, line)  # one write: readers never see two lines mixed
        if written < len(line):  # a disk that has just become full: no part of a line stays
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
