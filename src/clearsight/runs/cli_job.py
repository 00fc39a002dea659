"""`clearsight job …`: create, validate, show, list, stream, cancel, resume, download."""

from pathlib import Path
from typing import Any, Final

import click

from clearsight.console import AzCommand, LazyGroup, parse_assignments, result_options, stderr, without_effect
from clearsight.executor import executor_for
from clearsight.runs.control import JobEvents, cancel_job, follow_job
from clearsight.runs.describe import describe_job, how_to_resume, list_jobs
from clearsight.runs.job_process import exit_code
from clearsight.runs.job_run import CANCEL_GRACE_S, run_job
from clearsight.runs.kinds import plan_job_file
from clearsight.runs.lock import RunLock
from clearsight.runs.outputs import ALL, OUTPUTS, download_outputs
from clearsight.runs.progress_view import JobView
from clearsight.runs.record import read_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.start import detach, resume_job, start_job
from clearsight.runs.stop_requests import graceful_shutdown
from clearsight.runs.trials import find_run
from clearsight.runs.workspace import Workspace

__all__ = ["JobCommand", "job", "no_wait_option", "refuse_both", "run_started", "stream_option"]

_EXIT_CODE: Final = "clearsight.runs.exit_code"
_INTERRUPTED: Final = 130


class JobCommand(AzCommand):
    """A command whose result is printed even when its exit code is not 0."""

    def invoke(self, ctx: click.Context) -> Any:
        result = super().invoke(ctx)
        code = ctx.meta.get(_EXIT_CODE, 0)
        if code:
            ctx.exit(code)
        return result


@click.group(cls=LazyGroup)
def job() -> None:
    """Train models from Azure's job files."""


_file_option = click.option(
    "--file",
    "-f",
    required=True,
    type=click.Path(path_type=Path),
    help="Azure's job file, or the body of its REST API.",
)
_set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the file before it is checked: --set limits.max_trials=1 training_parameters.random_seed=3",
)
_new_name_option = click.option("--name", "-n", help="Name of the job; default: made from the time.")
_name_option = click.option("--name", "-n", required=True, help="Name of the job.")
_run_name_option = click.option("--name", "-n", required=True, help="Name of the job, or of one of its trials.")
no_wait_option = click.option(
    "--no-wait", is_flag=True, help="Run the job in a process of its own, and return at once."
)
_web_option = without_effect("--web", "-e", note="jobs have no page; `clearsight job stream` shows them")
stream_option = click.option(
    "--stream", "-s", is_flag=True, help="Run the job in a process of its own, and watch it; Ctrl-C leaves it alone."
)


@job.command(cls=JobCommand)
@_file_option
@_new_name_option
@_set_option
@no_wait_option
@stream_option
@_web_option
@result_options
@click.pass_context
def create(
    ctx: click.Context, file: Path, name: str | None, assignments: tuple[str, ...], no_wait: bool, stream: bool
) -> dict[str, Any]:
    r"""Check a job file and its data, train, and export the best model.

    Everything wrong with the file or the data is listed at once, before anything starts. The job runs in the
    foreground: Ctrl-C stops it at the next step and keeps a checkpoint. With --no-wait or --stream it runs in a
    process of its own, which outlives this one and its terminal. Exit codes: 0 completed (with --no-wait: started),
    1 failed, 130 canceled.

    \b
    Examples:
      clearsight job create -f job.yml
      clearsight job create -f job.yml --no-wait --query name -o tsv
      clearsight job create -f job.yml --set training_parameters.number_of_epochs=5 --query best_child_run_id
    """
    refuse_both(no_wait, stream)
    workspace = Workspace.default()
    plan = plan_job_file(file, parse_assignments(assignments), name, workspace)
    return run_started(ctx, workspace, plan.record.name, start_job(plan, workspace), no_wait=no_wait, stream=stream)


@job.command(cls=JobCommand)
@_name_option
@click.option(
    "--retry-failed", is_flag=True, help="Of a batch job, which may be completed: score again what has no answer."
)
@no_wait_option
@stream_option
@result_options
@click.pass_context
def resume(ctx: click.Context, name: str, retry_failed: bool, no_wait: bool, stream: bool) -> dict[str, Any]:
    r"""Go on with an interrupted job.

    It was canceled, failed, or lost its process or its machine. The same run goes on from its last checkpoint with the
    same settings, and ends as if it had not been interrupted (on a CPU to the last digit); without a checkpoint it
    begins again. A batch job scores what has no outcome yet. The job's time limit starts anew. Options and exit codes
    are those of create.

    \b
    Examples:
      clearsight job resume -n fridge_1
      clearsight job resume -n fridge_1 --no-wait
      clearsight job resume -n batchjob-1 --retry-failed
    """
    refuse_both(no_wait, stream)
    workspace = Workspace.default()

    def show_wait() -> None:
        stderr.print("waiting for the trial's earlier process, which writes its checkpoint", soft_wrap=True)

    run_lock = resume_job(workspace, name, CANCEL_GRACE_S, show_wait, retry_failed=retry_failed)
    return run_started(ctx, workspace, name, run_lock, no_wait=no_wait, stream=stream)


def refuse_both(no_wait: bool, stream: bool) -> None:
    """Refuse two flags of which at most one may be given."""
    if no_wait and stream:
        raise click.UsageError("give --no-wait or --stream, not both")


def run_started(
    ctx: click.Context, workspace: Workspace, name: str, run_lock: RunLock, *, no_wait: bool, stream: bool
) -> dict[str, Any]:
    """Run a job that `start_job` or `resume_job` has locked, as the flags say; return what is printed of it.

    The command must be a `JobCommand`, whose exit code says how the job ended.
    """
    if no_wait:
        detach(workspace, name, run_lock)
        return describe_job(workspace, name)
    if stream:
        process = detach(workspace, name, run_lock)
        result = _watch(ctx, workspace, name)
        process.poll()
        return result
    record = read_record(workspace, name)
    with graceful_shutdown() as stop, run_lock, JobView(stderr, workspace, record) as view:
        view.show_plan()
        for event in JobEvents(workspace, record).new():
            view.recall(event)
        result = run_job(workspace, name, executor_for(record.document.get("compute")), view.on_event, stop)
    return _conclude(ctx, workspace, result)


def _watch(ctx: click.Context, workspace: Workspace, name: str) -> dict[str, Any]:
    try:
        with JobView(stderr, workspace, *find_run(workspace, name)) as view:
            view.show_plan()
            follow_job(workspace, name, view.on_event)
    except KeyboardInterrupt:
        stderr.print(
            f"the job goes on; `clearsight job stream -n {name}` shows it again, `clearsight job cancel -n {name}` "
            "stops it",
            markup=False,
            soft_wrap=True,
        )
        ctx.meta[_EXIT_CODE] = _INTERRUPTED
        return describe_job(workspace, name)
    return _conclude(ctx, workspace, describe_job(workspace, name))


def _conclude(ctx: click.Context, workspace: Workspace, result: dict[str, Any]) -> dict[str, Any]:
    stderr.print(_last_line(workspace, result), markup=False, soft_wrap=True)
    ctx.meta[_EXIT_CODE] = exit_code(result["status"])
    return result


def _last_line(workspace: Workspace, result: dict[str, Any]) -> str:
    properties, metric = result["properties"], result["primary_metric"]
    status = RunFolder(workspace.runs / result["name"]).read_status()
    best_epoch = status.best_epoch
    line = f"{result['status']}: {properties['message']}"
    if metric in result["metrics"] and best_epoch is not None:
        line += f"; best {metric} {result['metrics'][metric]:.4f}{_certainty(status, metric)} in epoch {best_epoch + 1}"
    if "best_model" in result["outputs"]:
        line += f"; package: {result['outputs']['best_model']['path']}"
    elif result["status"] in ("Canceled", "Failed") and status.reason != "bad_checkpoint":  # has advice of its own
        record, _ = find_run(workspace, result["name"])
        line += f"; {how_to_resume(workspace, record)}"
    return line


def _certainty(status: RunStatus, metric: str) -> str:
    """On how many images a metric was measured, and its interval, in brackets; empty for runs of earlier versions."""
    if status.num_validation_images is None:
        return ""
    text = f"{status.num_validation_images} validation pictures"
    if metric in status.intervals_95:
        low, high = status.intervals_95[metric]
        text += f", 95 % interval {low:.3f} to {high:.3f}"
    return f" ({text})"


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
    plan = plan_job_file(file, parse_assignments(assignments), None, Workspace.default())
    facts = plan.trials[0].facts()
    parameters = {one.name: {"value": one.value, "origin": one.origin} for one in facts.parameters}
    return {"result": "Succeeded", "warnings": plan.record.warnings, "parameters": parameters}


@job.command(cls=AzCommand)
@_run_name_option
@_web_option
@result_options
def show(name: str) -> dict[str, Any]:
    r"""Show a job, or one of its trials: state, metrics of the best pass, outputs.

    States are Azure's. NotResponding: the process that ran the job is gone; `job resume` goes on. The trials of a job,
    with their names, are listed under trials; best_child_run_id is the best one.

    \b
    Examples:
      clearsight job show -n fridge_1 --query status -o tsv
      clearsight job show -n fridge_1 --query metrics.accuracy
      clearsight job show -n fridge_1_HD_0 --query parameters.learning_rate
    """
    return describe_job(Workspace.default(), name)


@job.command("list", cls=AzCommand)
@click.option("--max-results", "-r", type=click.IntRange(min=1), help="Show no more than these, the newest.")
@click.option("--experiment-name", help="Only jobs of this experiment.")
@result_options
def list_(max_results: int | None, experiment_name: str | None) -> list[dict[str, Any]]:
    r"""List the jobs of the workspace, newest first.

    \b
    Examples:
      clearsight job list -o table
      clearsight job list --experiment-name fridge --max-results 5 --query "[?status=='Completed'].name"
    """
    return list_jobs(Workspace.default(), experiment_name, max_results)


@job.command(cls=JobCommand)
@_run_name_option
@result_options
@click.pass_context
def stream(ctx: click.Context, name: str) -> dict[str, Any]:
    r"""Watch a job, or one of its trials, or show an ended one again.

    Ends with the job or trial, and with the exit code of `job create`. Ctrl-C ends the view and not the job.

    \b
    Examples:
      clearsight job stream -n fridge_1
      clearsight job stream -n fridge_1_HD_0
    """
    return _watch(ctx, Workspace.default(), name)


@job.command(cls=AzCommand)
@_name_option
@click.option("--no-wait", is_flag=True, help="Return when the job was asked to stop, not when it has.")
@result_options
def cancel(name: str, no_wait: bool) -> dict[str, Any]:
    r"""Stop a job at its next step.

    Once it trains, it keeps a checkpoint, from which `job resume` goes on; before, `job resume` starts it anew.

    \b
    Examples:
      clearsight job cancel -n fridge_1
      clearsight job cancel -n fridge_1 --no-wait
    """
    workspace = Workspace.default()
    status = cancel_job(workspace, name, wait=not no_wait)
    return {**describe_job(workspace, name), "status": status.status}


@job.command(cls=AzCommand)
@_run_name_option
@click.option("--all", "everything", is_flag=True, help="Every output: default, and best_model or score.")
@click.option("--output-name", type=click.Choice(OUTPUTS), help="This output alone; default: default.")
@click.option(
    "--download-path",
    "-p",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to copy to; default: the working directory.",
)
@result_options
def download(name: str, everything: bool, output_name: str | None, download_path: Path) -> dict[str, Any]:
    r"""Copy the outputs of a job, or of one of its trials, laid out as Azure's client does.

    `default` goes to artifacts/ (outputs, metrics and logs of the best trial), `best_model` to
    named-outputs/best_model/ (the package), `score` of a batch job to named-outputs/score/. Nothing is overwritten.

    \b
    Examples:
      clearsight job download -n fridge_1 --output-name best_model
      clearsight job download -n fridge_1 --all --download-path ./fridge_1
      clearsight job download -n fridge_1_HD_0 --output-name best_model
    """
    outputs = ALL if everything else (output_name or "default",)
    copied = download_outputs(Workspace.default(), name, outputs, download_path.absolute())
    return {"name": name, "outputs": copied}
