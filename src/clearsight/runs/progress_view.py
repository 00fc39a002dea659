"""The live view of a job: the resolved parameters, a progress line per trial, lines for events.

Everything shown is made from events, so it is the same for a job of this process, of another one, and for an ended job.
The kind of the job decides what an event of a trial shows (`clearsight.runs.kinds.TrialProgress`).
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from clearsight.runs.kinds import JOB_KINDS
from clearsight.runs.record import JobRecord
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.trials import trial_folders
from clearsight.runs.workspace import Workspace

__all__ = ["JobView"]


class JobView:
    """Draws the events of a job, or of one trial alone, on a console (stderr). Use it as a context manager.

    Events of a trial have its run id as `run_id`; when there are several trials, their lines begin with it. Progress
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
        if "run_id" in event:
            self._trial_of(event).events.recall(event)

    def _guarded(self, draw: Any, *args: Any) -> None:
        if self._console.quiet:
            return
        try:
            draw(*args)
        except (OSError, SystemExit):  # rich raises SystemExit for a pipe without a reader
            self._console.quiet = True

    def _add(self, folder: RunFolder) -> "_TrialView":
        view = _TrialView(folder, self._record, self._progress)
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

    def __init__(self, folder: RunFolder, record: JobRecord, progress: Progress) -> None:
        spec = JOB_KINDS[record.type].read_spec(folder)
        self.run_id = folder.run_id
        self.root = folder.root
        self.events = spec.progress(record)
        self._parameters = spec.facts().parameters
        self._progress = progress
        self._row: TaskID = progress.add_task("starting", total=None, rest="")

    def parameter_table(self, title: str | None) -> Table:
        """The parameters of the trial that have a value."""
        table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        for column in ("parameter", "value", "chosen by"):
            table.add_column(column)
        for one in self._parameters:
            if one.value is not None:
                table.add_row(one.name, str(one.value), one.origin)
        return table

    def show(self, event: Mapping[str, Any], prefix: str) -> list[str]:
        """Take an event into account; return the lines to print. The progress line begins with `prefix`."""
        lines, line = self.events.show(event)
        if line is not None:
            self._progress.update(
                self._row,
                description=prefix + line.description,
                visible=True,
                total=line.total,
                completed=line.completed,
                rest=line.rest,
            )
        elif event["kind"] == "ended" and prefix:
            self._progress.update(self._row, visible=False)
        return lines
