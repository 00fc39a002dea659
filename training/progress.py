"""What a person sees of a running job: the resolved configuration, a progress bar, one line per validation pass."""

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from clearsight.training.job import JobPlan

__all__ = ["JobView"]


class JobView:
    """Draws on a console (stderr). Use as a context; the bar appears on terminals only."""

    def __init__(self, console: Console, plan: JobPlan) -> None:
        self._console = console
        self._plan = plan
        self._metric = plan.job.task.primary_metric
        self._num_epochs = int(plan.spec.value("number_of_epochs"))
        self._started_at = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show_plan(self, folder: str) -> None:
        """Print who chose which value."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("parameter", "value", "chosen by"):
            table.add_column(column)
        for name, setting in self._plan.spec.hyperparameters.items():
            if setting.value is not None:
                table.add_row(name, str(setting.value), setting.origin)
        self._console.print(f"job {self._plan.name}: {self._plan.job.task.value}")
        self._console.print(table)
        for warning in self._plan.warnings:
            self._console.print(f"warning: {warning}", markup=False)
        self._console.print(f"output: {folder}", markup=False, soft_wrap=True)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show one event of the trial."""
        match event["kind"]:
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
                self._print(
                    f"runs on {event['device']} with {event['num_threads']} threads in {event['precision']} "
                    f"({event['reason']})"
                )
            case "progress":
                self._show_progress(event)
            case "evaluated":
                self._show_pass(event)
            case "exporting":
                self._progress.update(self._task, description="exporting and checking the package")
            case "canceling":
                self._print("stopping at the next step, with a checkpoint (again: at once)")
            case "warning":
                self._print(f"warning: {event['message']}")

    def _show_progress(self, event: Mapping[str, Any]) -> None:
        total = self._num_epochs * event["num_batches"]
        done = event["epoch"] * event["num_batches"] + event["batch"]
        description = f"epoch {event['epoch'] + 1}/{self._num_epochs}  loss {event['loss']:.4f}"
        self._progress.update(self._task, total=total, completed=done, description=description)

    def _show_pass(self, event: Mapping[str, Any]) -> None:
        metrics = event["metrics"]
        self._print(
            f"epoch {event['epoch'] + 1:>3}/{self._num_epochs}  {self._metric} {metrics[self._metric]:.4f}"
            f"{' *' if event['improved'] else '  '}  loss {metrics['training_loss']:.4f}"
            f"  log_loss {metrics['log_loss']:.4f}  {time.monotonic() - self._started_at:.0f} s"
        )

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)
