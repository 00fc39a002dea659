"""The live view of a job: the resolved parameters, a progress line per trial, one line per validation pass.

Everything shown is read from events, so it is the same for a job of this process, one of another, and one long ended.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from clearsight.runs.kinds import JOB_KINDS, TrialFacts
from clearsight.runs.record import JobRecord
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.trials import trial_folders
from clearsight.runs.workspace import Workspace

__all__ = ["JobView"]


class JobView:
    """Draws the events of a job, or of one trial alone, on a console (stderr). Use it as a context manager.

    Events of a trial carry its run id as `run_id`; when there are several trials, their lines begin with it. Progress
    lines appear on terminals only. A console that fails (a terminal that was closed, a pipe without a reader) ends the
    view, never the job.
    """

    def __init__(
        self, console: Console, workspace: Workspace, record: JobRecord, trial: RunFolder | None = None
    ) -> None:
        self._console = console
        self._workspace = workspace
        self._record = record
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[rest]}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._trials: dict[str, _TrialView] = {}
        for folder in trial_folders(workspace, record) if trial is None else [trial]:
            self._add(folder)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guarded(self._progress.stop)

    def show_plan(self) -> None:
        """Print every parameter with its value and who chose it, and the folder of the results."""
        self._guarded(self._show_plan)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show one event of the job or of a trial."""
        self._guarded(self._show, event)

    def recall(self, event: Mapping[str, Any]) -> None:
        """Take an event of an earlier attempt into account without showing it."""
        if event["kind"] == "evaluated":
            self._trial_of(event).note_pass(event)

    def _guarded(self, draw: Any, *args: Any) -> None:
        if self._console.quiet:
            return
        try:
            draw(*args)
        except (OSError, SystemExit):  # rich raises SystemExit for a pipe without a reader
            self._console.quiet = True

    def _add(self, folder: RunFolder) -> "_TrialView":
        facts = JOB_KINDS[self._record.type].read_spec(folder).facts()
        view = _TrialView(folder, facts, self._record, self._progress)
        self._trials[folder.run_id] = view
        return view

    def _trial_of(self, event: Mapping[str, Any]) -> "_TrialView":
        run_id = event["run_id"]
        return self._trials.get(run_id) or self._add(RunFolder(self._workspace.runs / run_id))

    def _show_plan(self) -> None:
        task = "" if self._record.task is None else f": {self._record.task.value}"
        self._print(f"job {self._record.name}{task}")
        for trial in self._trials.values():
            self._console.print(trial.parameter_table(title=trial.run_id if len(self._trials) > 1 else None))
        for warning in self._record.warnings:
            self._print(f"warning: {warning}")
        for trial in self._trials.values():
            self._print(f"output: {trial.root}")

    def _show(self, event: Mapping[str, Any]) -> None:
        if "run_id" in event and event["kind"] != "warning":
            trial = self._trial_of(event)
            prefix = f"{trial.run_id}  " if len(self._trials) > 1 else ""
            for line in trial.show(event, prefix):
                self._print(prefix + line)
            return
        match event["kind"]:
            case "canceling":
                why = "the time is over: " if event.get("reason") == "timeout" else ""
                self._print(f"{why}stopping at the next step, with a checkpoint (Ctrl-C again: at once)")
            case "warning":
                prefix = f"{event['run_id']}  " if len(self._trials) > 1 and "run_id" in event else ""
                self._print(f"{prefix}warning: {event['message']}")
            case "log":
                self._print(f"the last lines of {event['file']}:")
                for line in event["lines"]:
                    self._print(f"  {line}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class _TrialView:
    """The progress line of one trial, and the lines to print for its events."""

    def __init__(self, folder: RunFolder, facts: TrialFacts, record: JobRecord, progress: Progress) -> None:
        self.run_id = folder.run_id
        self.root = folder.root
        self._facts = facts
        self._metric = record.primary_metric
        self._num_epochs = facts.num_epochs
        self._pace = _Pace(facts.batch_size * record.num_processes, facts.num_epochs)
        self._last: float | None = None
        self._best: tuple[float, int] | None = None
        self._num_attempts = 0
        self._progress = progress
        self._row: TaskID = progress.add_task("starting", total=None, rest="")

    def parameter_table(self, title: str | None) -> Table:
        """The parameters of the trial that have a value."""
        table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        for column in ("parameter", "value", "chosen by"):
            table.add_column(column)
        for one in self._facts.parameters:
            if one.value is not None:
                table.add_row(one.name, str(one.value), one.origin)
        return table

    def show(self, event: Mapping[str, Any], prefix: str) -> list[str]:
        """Take an event into account; return the lines to print. The progress line begins with `prefix`."""
        match event["kind"]:
            case "started":
                self._num_attempts += 1
                self._pace.start()
                self._update(f"{prefix}reading data", total=None, rest="")
                return ["resumed"] if self._num_attempts > 1 else []
            case "data":
                classes = event["classes"]
                shown = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
                return [
                    f"data: {event['num_training']} training and {event['num_validation']} validation pictures, "
                    f"{len(classes)} classes ({shown})"
                ]
            case "weights":
                source = "random weights" if event["source"] == "none" else f"{event['file']} ({event['source']})"
                return [f"starts from {source}"]
            case "hardware":
                processes = event.get("num_processes", 1)
                return [
                    f"runs on {event['device']}{f' in {processes} processes' if processes > 1 else ''} with "
                    f"{event['num_threads']} threads in {event['precision']} ({event['reason']})"
                ]
            case "progress":
                self._show_progress(event, prefix)
            case "evaluated":
                self.note_pass(event)
                return [self._pass_line(event)]
            case "exporting":
                self._update(f"{prefix}exporting and checking the package", total=None, rest="")
            case "ended" if prefix:
                self._progress.update(self._row, visible=False)
        return []

    def _update(self, description: str, **fields: Any) -> None:
        self._progress.update(self._row, description=description, visible=True, **fields)

    def _show_progress(self, event: Mapping[str, Any], prefix: str) -> None:
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
        self._update(
            f"{prefix}epoch {event['epoch'] + 1}/{self._num_epochs}",
            total=self._num_epochs * event["num_batches"],
            completed=event["epoch"] * event["num_batches"] + event["batch"],
            rest="  ".join(rest),
        )

    def note_pass(self, event: Mapping[str, Any]) -> None:
        """Remember the primary metric of a validation pass."""
        value = None if self._metric is None else event["metrics"].get(self._metric)  # a job can turn off all metrics
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


class _Pace:
    """Speed and remaining time of a trial, from the timestamps of its events."""

    def __init__(self, batch_size: int, num_epochs: int) -> None:
        self._batch_size = batch_size
        self._num_epochs = num_epochs
        self.start()

    def start(self) -> None:
        """Forget everything: another process trains from here on."""
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
