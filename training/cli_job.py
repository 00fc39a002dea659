"""`clearsight job …`: create, validate, show, list."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from clearsight.console import AzCommand, parse_assignments, result_options, stderr
from clearsight.executor import Local
from clearsight.training.job import describe_job, list_jobs, plan_job, run_job
from clearsight.training.progress import JobView
from clearsight.workspace import Workspace

__all__ = ["job"]

_EXIT_CODE = "clearsight.training.exit_code"
_EXIT_CODES = {"Completed": 0, "Canceled": 130}


class _JobCommand(AzCommand):
    """A command whose result is printed even when its exit code is not 0."""

    def invoke(self, ctx: click.Context) -> Any:
        result = super().invoke(ctx)
        code = ctx.meta.get(_EXIT_CODE, 0)
        if code:
            ctx.exit(code)
        return result


@click.group()
def job() -> None:
    """Train models from Azure's job files."""


_file_option = click.option(
    "--file", "-f", required=True, type=click.Path(path_type=Path), help="Job file (Azure's automl image job YAML)."
)
_set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the file before it is checked: --set limits.max_trials=1 training_parameters.random_seed=3",
)
_name_option = click.option("--name", "-n", help="Name of the job; default: made from the time.")


@job.command(cls=_JobCommand)
@_file_option
@_name_option
@_set_option
@result_options
@click.pass_context
def create(ctx: click.Context, file: Path, name: str | None, assignments: tuple[str, ...]) -> dict[str, Any]:
    r"""Check a job file and its data, train, and export the best model.

    Everything wrong with the file or the data is listed at once, before anything starts. Ctrl-C stops at the next
    step and keeps a checkpoint. Exit codes: 0 completed, 1 failed, 130 canceled.

    \b
    Examples:
      clearsight job create -f job.yml
      clearsight job create -f job.yml --set training_parameters.number_of_epochs=5 --query best_child_run_id
    """
    workspace = Workspace.default()
    plan = plan_job(file, parse_assignments(assignments), name, workspace)
    with JobView(stderr, plan) as view, _interrupt_on_termination():
        view.show_plan(str(workspace.runs / plan.spec.run_id))
        result = run_job(plan, workspace, Local(), view.on_event)
    stderr.print(_last_line(result), markup=False, soft_wrap=True)
    ctx.meta[_EXIT_CODE] = _EXIT_CODES.get(result["status"], 1)
    return result


def _last_line(result: dict[str, Any]) -> str:
    properties, metric = result["properties"], result["primary_metric"]
    line = f"{result['status']}: {properties['message']}"
    if metric in result["metrics"]:
        epoch = result["trials"][0]["best_epoch"] + 1
        line += f"; best {metric} {result['metrics'][metric]:.4f} in epoch {epoch}"
    if "best_model" in result["outputs"]:
        line += f"; package: {result['outputs']['best_model']['path']}"
    return line


@contextmanager
def _interrupt_on_termination() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a job as Ctrl-C does, unless they are ignored (`nohup`)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@job.command(cls=AzCommand)
@_file_option
@_set_option
@result_options
def validate(file: Path, assignments: tuple[str, ...]) -> dict[str, Any]:
    r"""Check a job file and its data without starting anything.

    \b
    Example:
      clearsight job validate -f job.yml
    """
    plan = plan_job(file, parse_assignments(assignments), None, Workspace.default())
    parameters = {name: setting.model_dump() for name, setting in plan.spec.hyperparameters.items()}
    return {"result": "Succeeded", "warnings": plan.warnings, "parameters": parameters}


@job.command(cls=AzCommand)
@click.option("--name", "-n", required=True, help="Name of the job.")
@result_options
def show(name: str) -> dict[str, Any]:
    r"""Show a job: state, metrics of the best pass, outputs.

    \b
    Example:
      clearsight job show -n fridge_1 --query metrics.accuracy
    """
    return describe_job(Workspace.default(), name)


@job.command("list", cls=AzCommand)
@result_options
def list_(**_: Any) -> list[dict[str, Any]]:
    r"""List the jobs of the workspace, newest first.

    \b
    Example:
      clearsight job list -o table
    """
    return list_jobs(Workspace.default())
