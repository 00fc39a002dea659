"""The run folder: the authoritative state of a run, on disk. MLflow and the command line are views of it.

```
runs/<run>/
    spec.json                everything that the trial needs to know, with every default filled in; never changed
    status.json              the current status, replaced atomically (`RunStatus`)
    lock                     held by the process that works on the run
    events.jsonl             events in the order in which they happened, one line each, appended
    metrics.jsonl            one line per validation pass
    trial.log                stdout and stderr of the process
    checkpoints/             state of the training, from which a run is resumed
    metrics/                 charts and the table of classes of the best pass
    parts/                   outcomes of a batch job, from which it is resumed
    outputs/mlflow-model/    the package of the best pass
    outputs/score/           results of a batch job
    outputs/split.json       record indices of training and validation, when the job held out some records
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
from clearsight.files import is_disk_full, write_atomically
from clearsight.runs.lock import RunLock, is_locked

__all__ = [
    "ENDED",
    "LAST_CHECKPOINT",
    "UNDER_WAY",
    "LineReader",
    "RunFolder",
    "RunStatus",
    "State",
    "append_line",
    "now",
    "read_lines",
]

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
"""Spelled as on Azure. A trial is only ever `NotStarted`, `Running` or ended; the others are states of jobs."""

ENDED: Final[tuple[State, ...]] = ("Completed", "Failed", "Canceled")
"""States that a run does not leave by itself."""

UNDER_WAY: Final[tuple[State, ...]] = ("Starting", "Preparing", "Running", "Finalizing", "CancelRequested")
"""States in which a process works on the run; one whose process is gone is `NotResponding`."""

LAST_CHECKPOINT: Final = "last.safetensors"
"""File in the folder of checkpoints from which a run is resumed."""


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The contents of `status.json`."""

    status: State = "NotStarted"
    created_at: str = field(default_factory=now)
    started_at: str | None = None
    ended_at: str | None = None
    pid: int | None = None
    """Id of the process that works on the run, or did so last."""
    process: ProcessIdentity | None = None
    """The same process with its start time, so that a reused id is recognised; written for jobs only."""
    reason: str | None = None
    """Why it ended, for programs: `early_stopping`, `bad_data`, `out_of_memory`, …"""
    message: str | None = None
    """Why it ended, for people."""
    best_epoch: int | None = None
    """Counted from 0."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the best validation pass."""
    num_validation_images: int | None = None
    """Number of images that they were measured on."""
    intervals_95: dict[str, list[float]] = field(default_factory=dict)
    """95 % interval, low and high, of those of `metrics` that have one."""


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

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    @property
    def retry_failed_file(self) -> Path:
        """Exists while a batch job is to score again what failed."""
        return self.root / "retry_failed"

    def has_checkpoint(self) -> bool:
        """Whether a resumed run goes on where it was: a training from a checkpoint, a batch job from its parts."""
        return (self.checkpoints / LAST_CHECKPOINT).is_file() or self.parts.is_dir()

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
    def score(self) -> Path:
        """Folder of the results of a batch job that names no other."""
        return self.outputs / "score"

    @property
    def train_artifacts(self) -> Path:
        return self.root / "train_artifacts"

    def own(self) -> RunLock:
        """Take the lock of the run. Raises `Conflict` when another process works on it."""
        return RunLock.take(self.root / "lock")

    def is_locked(self) -> bool:
        """Whether a process works on the run."""
        return is_locked(self.root / "lock")

    def write_status(self, status: RunStatus) -> None:
        """Replace the status, on a full disk by overwriting the file in place.

        So the reason of a failure is not lost by that failure: the block of a small file holds some more text.
        """
        content = json.dumps(asdict(status), indent=2) + "\n"
        try:
            write_atomically(self.status_file, content)
        except OSError as error:
            if not is_disk_full(error) or not self.status_file.exists():
                raise
            _overwrite(self.status_file, content.encode())

    def read_status(self) -> RunStatus:
        """The status; `NotResponding` when the process of a run under way is gone, `Unknown` for a damaged file."""
        status = self._written_status()
        while status.status in UNDER_WAY and not self.is_locked():
            again = (
                self._written_status()
            )  # the process that holds the lock writes the final status before it releases the lock
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
        """Append one event, whole or not at all."""
        append_line(self.events_file, {"time": now(), "kind": kind, **fields})

    def append_metrics(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Append one validation pass."""
        append_line(self.metrics_file, {"time": now(), "epoch": epoch, "step": step, "metrics": metrics})

    def read_metrics(self) -> list[dict[str, Any]]:
        """The validation passes by epoch; the last one of an epoch that was trained again after an interruption."""
        return list({one["epoch"]: one for one in read_lines(self.metrics_file)}.values())


class LineReader:
    """Reads the lines of a file, such as the events of a run, while another process appends them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The lines since the last call; a line that is still being written waits for the next.

        A damaged line (after a power failure) is left out.
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


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file that `append_line` wrote. A damaged line is left out; a missing file has no lines."""
    if not file.exists():
        return []
    return [one for line in file.read_bytes().splitlines() if (one := _parse(line)) is not None]


def append_line(file: Path, document: dict[str, Any]) -> None:
    """Add one line of JSON, whole or not at all; readers in other processes never see two lines mixed.

    Raises `OSError`, also when the disk becomes full in the middle of the line.
    """
    line = (json.dumps(document) + "\n").encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        written = os.write(descriptor, line)  # in one write: lines of several writers stay apart
        if written < len(line):  # the disk has become full: the incomplete line is removed
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    finally:
        os.close(descriptor)


def _overwrite(file: Path, content: bytes) -> None:
    """Overwrite a file of JSON in one write, which needs no new block where the content fits into those of the file.

    What is shorter than before is filled up with blanks, which JSON allows. Raises `OSError`.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if os.pwrite(descriptor, content.ljust(size), 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
