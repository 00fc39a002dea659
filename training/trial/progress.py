"""What the live view of a job shows of a training trial, from the trial's events."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from clearsight.runs.kinds import ProgressLine
from clearsight.training.engine.early_stopping import VALIDATION_LOSSES

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """`clearsight.runs.kinds.TrialProgress` of a training trial.

    `batch_size` counts the images of a batch of all processes together; `num_epochs` is the greatest number of epochs.
    """

    def __init__(self, num_epochs: int, batch_size: int, metric: str | None) -> None:
        self._num_epochs = num_epochs
        self._metric = metric
        self._pace = _Pace(batch_size, num_epochs)
        self._last: float | None = None
        self._best: tuple[float, int] | None = None
        self._num_attempts = 0

    def show(self, event: Mapping[str, Any]) -> tuple[list[str], ProgressLine | None]:
        match event["kind"]:
            case "started":
                self._num_attempts += 1
                self._pace.start()
                return ["resumed"] if self._num_attempts > 1 else [], ProgressLine("reading data")
            case "data":
                classes = event["classes"]
                shown = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
                counts = f"{event['num_training']} training and {event['num_validation']} validation pictures"
                return [f"data: {counts}, {len(classes)} classes ({shown})"], None
            case "weights":
                source = "random weights" if event["source"] == "none" else f"{event['file']} ({event['source']})"
                return [f"starts from {source}"], None
            case "hardware":
                processes = event.get("num_processes", 1)
                device = f"{event['device']}{f' in {processes} processes' if processes > 1 else ''}"
                rest = f"{event['num_threads']} threads in {event['precision']} ({event['reason']})"
                return [f"runs on {device} with {rest}"], None
            case "progress":
                return [], self._progress_line(event)
            case "evaluated":
                self.recall(event)
                return [self._pass_line(event)], None
            case "exporting":
                return [], ProgressLine("exporting and checking the package")
        return [], None

    def recall(self, event: Mapping[str, Any]) -> None:
        if event["kind"] != "evaluated":
            return
        value = None if self._metric is None else event["metrics"].get(self._metric)  # a job can turn off all metrics
        self._last = value
        if event["improved"] and value is not None:
            self._best = (value, event["epoch"])

    def _progress_line(self, event: Mapping[str, Any]) -> ProgressLine:
        self._pace.observe(event)
        rest = [f"batch {event['batch']}/{event['num_batches']}"]  # a narrow terminal cuts off what stands last
        if self._pace.left_s is not None:
            rest.append(f"{timedelta(seconds=round(self._pace.left_s))} left")
        if self._pace.images_per_s is not None:
            rest.append(f"{self._pace.images_per_s:.3g} images/s")
        rest.append(f"loss {event['loss']:.4f}")
        if self._last is not None and self._best is not None:
            rest.append(f"{self._metric} {self._last:.4f} (best {self._best[0]:.4f} in epoch {self._best[1] + 1})")
        rest.append(f"lr {event['learning_rate']:.2g}")
        return ProgressLine(
            f"epoch {event['epoch'] + 1}/{self._num_epochs}",
            "  ".join(rest),
            total=self._num_epochs * event["num_batches"],
            completed=event["epoch"] * event["num_batches"] + event["batch"],
        )

    def _pass_line(self, event: Mapping[str, Any]) -> str:
        metrics = event["metrics"]
        mark = " *" if event["improved"] else "  "
        words = [
            f"epoch {event['epoch'] + 1:>3}/{self._num_epochs}",
            *([f"{self._metric} {metrics[self._metric]:.4f}{mark}"] if self._metric in metrics else []),
            f"loss {metrics['training_loss']:.4f}",
            *(f"{name} {metrics[name]:.4f}" for name in VALIDATION_LOSSES if name in metrics),
        ]
        if self._pace.images_per_s is not None:
            words.append(f"{self._pace.images_per_s:.3g} images/s")
        if (elapsed_s := self._pace.elapsed_s(event)) is not None:
            words.append(f"{elapsed_s:.0f} s")
        if self._pace.left_s is not None and event["epoch"] + 1 < self._num_epochs:
            words.append(f"{timedelta(seconds=round(self._pace.left_s))} left")
        return "  ".join(words)


class _Pace:
    """Speed and remaining time of a trial, from the timestamps of its events."""

    def __init__(self, batch_size: int, num_epochs: int) -> None:
        self._batch_size = batch_size
        self._num_epochs = num_epochs
        self.start()

    def start(self) -> None:
        """Forget earlier events: another process trains from here on."""
        self._first: tuple[float, int] | None = None  # time, batches since the start of the run
        self._before: tuple[float, int, int] | None = None  # time, epoch, batch
        self.images_per_s: float | None = None
        """Images per second between the last two events of one epoch."""
        self.left_s: float | None = None
        """Seconds until the end of the last epoch, validation passes included, without early stopping."""

    def observe(self, event: Mapping[str, Any]) -> None:
        """Take a `progress` event into account."""
        at, epoch, batch, num_batches = _seconds(event), event["epoch"], event["batch"], event["num_batches"]
        done = epoch * num_batches + batch
        if self._before is not None and self._before[1] == epoch and at > self._before[0] and batch > self._before[2]:
            self.images_per_s = self._batch_size * (batch - self._before[2]) / (at - self._before[0])
        self._before = (at, epoch, batch)
        if self._first is None:
            self._first = (at, done)
        elif done > self._first[1]:
            per_batch_s = (at - self._first[0]) / (done - self._first[1])
            self.left_s = per_batch_s * (self._num_epochs * num_batches - done)

    def elapsed_s(self, event: Mapping[str, Any]) -> float | None:
        """Seconds from the first progress event to this event; None before the first."""
        return None if self._first is None else _seconds(event) - self._first[0]


def _seconds(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
