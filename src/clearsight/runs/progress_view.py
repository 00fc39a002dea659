"""What a person sees of a job: the resolved configuration, a live line of progress, one line per validation pass.

Everything shown is read from events, so it is the same for a job of this process, one of another, and one long ended.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from clearsight.runs.record import JobRecord, read_spec
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.workspace import Workspace

__all__ = ["JobView"]


class JobView:
    """Draws on a console (stderr). Use as a context; the live line appears on terminals only.

    A console that fails (a terminal that was closed, a pipe without a reader) ends the view, never the job.
    """

    def __init__(self, console: Console, workspace: Workspace, record: JobRecord) -> None:
        self._console = console
        self._record = record
        self._trial = RunFolder(workspace.runs / record.trials[0])
        self._spec = read_spec(self._trial)
        self._metric = record.primary_metric
        self._num_epochs = int(self._spec.value("number_of_epochs"))
        self._pace = _Pace(int(self._spec.value("training_batch_size")) * record.num_processes, self._num_epochs)
        self._last: float | None = None
        self._best: tuple[float, int] | None = None
        self._num_attempts = 0
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[rest]}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("starting", total=None, rest="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guarded(self._progress.stop)

    def show_plan(self) -> None:
        """Print who chose which value, and where the results will be."""
        self._guarded(self._show_plan)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show one event of the trial or of the job."""
        self._guarded(self._show, event)

    def recall(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of an earlier attempt without showing it."""
        if event["kind"] == "evaluated":
            self._note_pass(event)

    def _guarded(self, draw: Any, *args: Any) -> None:
        if self._console.quiet:
            return
        try:
            draw(*args)
        except (OSError, SystemExit):  # rich raises SystemExit for a pipe without a reader
            self._console.quiet = True

    def _show_plan(self) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("parameter", "value", "chosen by"):
            table.add_column(column)
        for name, setting in self._spec.hyperparameters.items():
            if setting.value is not None:
                table.add_row(name, str(setting.value), setting.origin)
        self._print(f"job {self._record.name}: {self._record.task.value}")
        self._console.print(table)
        for warning in self._record.warnings:
            self._print(f"warning: {warning}")
        self._print(f"output: {self._trial.root}")

    def _show(self, event: Mapping[str, Any]) -> None:
        match event["kind"]:
            case "started":
                self._num_attempts += 1
                self._pace.start()
                self._progress.update(self._task, description="reading data", total=None, rest="")
                if self._num_attempts > 1:
                    self._print("resumed")
            case "data":
                classes = event["classes"]
                shown = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
                self._print(
                    f"data: {event['num_training']} training and {event['num_validation']} validation pictures, "
                    f"{len(classes)} classes ({shown})"
                )
            case "weights":
                source = "random weights" if event["source"] == "none" else f"{event['file']} ({event['source']})"
                self._print(f"starts from {source}")
            case "hardware":
                processes = event.get("num_processes", 1)
                self._print(
                    f"runs on {event['device']}{f' in {processes} processes' if processes > 1 else ''} with "
                    f"{event['num_threads']} threads in {event['precision']} ({event['reason']})"
                )
            case "progress":
                self._show_progress(event)
            case "evaluated":
                self._note_pass(event)
                self._print(self._pass_line(event))
            case "exporting":
                self._progress.update(self._task, description="exporting and checking the package", total=None, rest="")
            case "canceling":
                why = "the time is over: " if event.get("reason") == "timeout" else ""
                self._print(f"{why}stopping at the next step, with a checkpoint (Ctrl-C again: at once)")
            case "warning":
                self._print(f"warning: {event['message']}")
            case "log":
                self._print(f"the last lines of {event['file']}:")
                for line in event["lines"]:
                    self._print(f"  {line}")

    def _show_progress(self, event: Mapping[str, Any]) -> None:
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
        self._progress.update(
            self._task,
            description=f"epoch {event['epoch'] + 1}/{self._num_epochs}",
            total=self._num_epochs * event["num_batches"],
            completed=event["epoch"] * event["num_batches"] + event["batch"],
            rest="  ".join(rest),
        )

    def _note_pass(self, event: Mapping[str, Any]) -> None:
        value = event["metrics"].get(self._metric)  # a job can ask for no metrics
        self._last = value
        if event["improved"] and value is not None:
            self._best = (value, event["epoch"])

    def _pass_line(self, event: Mapping[str, Any]) -> str:
        metrics = event["metrics"]
        mark = " *" if event["improved"] else "  "
        words = [
            f"epoch {event['epoch'] + 1:>3}/{self._num_epochs}",
            *([f"{self._metric} {metrics[self._metric]:.4f}{mark}"] if self._metric in metrics else []),
            f"loss {metrics['training_loss']:.4f}",
            *(f"{name} {metrics[name]:.4f}" for name in ("log_loss", "validation_loss") if name in metrics),
        ]
        if self._pace.images_per_s is not None:
            words.append(f"{self._pace.images_per_s:.3g} images/s")
        if (elapsed_s := self._pace.elapsed_s(event)) is not None:
            words.append(f"{elapsed_s:.0f} s")
        if self._pace.left_s is not None and event["epoch"] + 1 < self._num_epochs:
            words.append(f"{timedelta(seconds=round(self._pace.left_s))} left")
        return "  ".join(words)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class _Pace:
    """Speed and time left, from the times that events carry."""

    def __init__(self, batch_size: int, num_epochs: int) -> None:
        self._batch_size = batch_size
        self._num_epochs = num_epochs
        self.start()

    def start(self) -> None:
        """Begin anew: another process trains from here on."""
        self._first: tuple[float, int] | None = None  # time, batches since the start of the run
        self._before: tuple[float, int, int] | None = None  # time, epoch, batch
        self.images_per_s: float | None = None
        """Between the last two events of one epoch."""
        self.left_s: float | None = None
        """Until the last epoch is done, validation passes included, if no early stopping comes."""

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
        """Seconds of training until an event."""
        return None if self._first is None else _seconds(event) - self._first[0]


def _seconds(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
