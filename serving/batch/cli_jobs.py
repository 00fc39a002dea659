"""`clearsight batch-endpoint invoke` and `list-jobs`: batch jobs from the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from clearsight.console import AzCommand, parse_assignments, result_options, stderr
from clearsight.documents.batch.invocation import BatchInvocation, read_invocation
from clearsight.documents.batch.rest_body import from_rest_body, is_rest_body
from clearsight.documents.deployment.document import apply_overrides
from clearsight.documents.yaml_file import is_remote, read_document
from clearsight.errors import UserError
from clearsight.runs.cli_job import JobCommand, no_wait_option, refuse_both, run_started, stream_option
from clearsight.runs.describe import list_jobs
from clearsight.runs.record import read_record
from clearsight.runs.start import start_job
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.store import BatchEndpointStore
from clearsight.serving.batch.submit import plan_batch
from clearsight.serving.options import deployment_option, endpoint_option, name_option, set_option

__all__ = ["invoke", "list_deployment_jobs", "list_endpoint_jobs"]


@click.command("invoke", cls=JobCommand)
@name_option
@click.option(
    "--input", "input_", metavar="DATA", help="Folder, file, glob, URL, or a reference (azureml:NAME@latest)."
)
@click.option("--input-data", metavar="DATA", hidden=True)
@click.option("--input-dataset", metavar="DATA", hidden=True)
@click.option("--input-path", metavar="DATA", hidden=True)
@click.option("--input-local-path", metavar="PATH", hidden=True)
@click.option("--input-type", metavar="TYPE", help="uri_folder, uri_file or mltable; what lies there decides.")
@click.option(
    "--file", "-f", type=click.Path(path_type=Path), help="YAML file with the inputs, or a body of Azure's REST API."
)
@click.option("--deployment-name", "-d", metavar="NAME", help="Deployment to run; without it the default one.")
@click.option("--output-path", metavar="FOLDER", help="Folder for the results; without it a folder of the job.")
@click.option("--mini-batch-size", "-m", type=click.IntRange(1), help="Files that are scored together.")
@click.option("--instance-count", "-c", type=click.IntRange(1), help="Worker processes.")
@click.option("--job-name", "-j", metavar="NAME", help="Name of the job; default: a new one.")
@click.option("--experiment-name", "-e", metavar="NAME", help="Experiment of the job; default: the endpoint.")
@click.option("--recursive/--no-recursive", default=None, help="Also read the folders below the input.")
@set_option
@no_wait_option
@stream_option
@result_options
@click.pass_context
def invoke(
    ctx: click.Context,
    /,
    name: str,
    deployment_name: str | None,
    file: Path | None,
    assignments: tuple[str, ...],
    no_wait: bool,
    stream: bool,
    **flags: Any,
) -> dict[str, Any]:
    r"""Score every image of the data with a deployment, into one file of results.

    What neither a flag nor --set nor the file says is as in the deployment. The job runs in the foreground; with
    --no-wait or --stream in a process of its own, which outlives this one. `clearsight job show`, `stream`, `download`,
    `cancel` and `resume` work on it. Exit codes: 0 completed (with --no-wait: started), 1 failed, 130 canceled.

    \b
    Examples:
      clearsight batch-endpoint invoke -n fridge --input ./photos --query name -o tsv
      clearsight batch-endpoint invoke -n fridge -d green --input photos.zip -m 20 -c 2 --no-wait
      clearsight batch-endpoint invoke -n fridge --input azureml:photos@latest --set output_file_name=photos.jsonl
    """
    refuse_both(no_wait, stream)
    workspace = Workspace.default()
    overrides = parse_assignments(assignments)
    invocation, folder = _read_flags(name, deployment_name, file, overrides, **flags)
    deployment = BatchEndpointStore(workspace).get(name).deployment(deployment_name)

    def show_step(step: str) -> None:
        stderr.print(f"{step} the package on this machine, once", markup=False)

    plan = plan_batch(workspace, deployment, invocation, folder, show_step)
    return run_started(ctx, workspace, plan.record.name, start_job(plan, workspace), no_wait=no_wait, stream=stream)


def _read_flags(
    name: str,
    deployment_name: str | None,
    file: Path | None,
    overrides: Mapping[str, Any],
    *,
    input_: str | None,
    input_data: str | None,
    input_dataset: str | None,
    input_path: str | None,
    input_local_path: str | None,
    input_type: str | None,
    output_path: str | None,
    instance_count: int | None,
    **others: Any,
) -> tuple[BatchInvocation, Path]:
    """What the job is asked to do, and the folder to which relative paths in it are relative.

    `others` are keys of the file under their own names. A flag wins over `--set`, and that over the file.
    """
    document = read_document(file) if file else {}
    if is_rest_body(document):
        warnings: list[str] = []
        document = from_rest_body(document, warnings)
        for warning in warnings:
            stderr.print(f"note: {warning}", markup=False, soft_wrap=True)
    document = apply_overrides(document, overrides)
    folder = Path.cwd() if file is None else file.absolute().parent
    inputs = {
        "--input": input_,
        "--input-data": input_data,
        "--input-dataset": input_dataset,
        "--input-path": input_path,
        "--input-local-path": input_local_path,
    }
    given = {flag: value for flag, value in inputs.items() if value is not None}
    if document.get("inputs"):
        given["inputs of --file"] = ""
    if len(given) != 1:
        which = "not " + " and ".join(given) if given else "but got none"
        raise click.UsageError(f"give the data once, with --input or as inputs of --file, {which}")
    [(flag, value)] = given.items()
    if flag.startswith("--"):
        value, kind = _without_old_prefix(value)
        document["inputs"] = {"input": {"path": _from(folder, value), "type": input_type or kind}}
    elif input_type is not None:
        raise click.UsageError("--input-type goes with --input; inputs of --file have a type of their own")
    if output_path is not None:
        if document.get("outputs"):
            raise click.UsageError("give --output-path or outputs in --file, not both")
        document["outputs"] = {"score": {"path": _from(folder, _without_old_prefix(output_path)[0])}}
    flags = {"compute.instance_count": instance_count, **others}
    document = apply_overrides(document, {key: value for key, value in flags.items() if value is not None})
    return read_invocation(document, name, deployment_name, str(file) if file else "batch-endpoint invoke"), folder


def _without_old_prefix(value: str) -> tuple[str, str | None]:
    """A path without `folder:` or `file:`, which earlier versions of Azure's client put before one; and that type."""
    for prefix, kind in (("folder:", "uri_folder"), ("file:", "uri_file")):
        if value.startswith(prefix) and not value.startswith("file:/"):
            return value.removeprefix(prefix), kind
    return value, None


def _from(folder: Path, path: str) -> str:
    """A path of a flag, which is relative to the working directory, as one relative to `folder`."""
    return path if is_remote(path) or folder == Path.cwd() else str(Path(path).absolute())


@click.command("list-jobs", cls=AzCommand)
@name_option
@result_options
def list_endpoint_jobs(name: str) -> Any:
    r"""Print the jobs of a batch endpoint, newest first.

    \b
    Example:
      clearsight batch-endpoint list-jobs -n fridge --query "[].name"
    """
    return _jobs(name, None)


@click.command("list-jobs", cls=AzCommand)
@deployment_option
@endpoint_option
@result_options
def list_deployment_jobs(name: str, endpoint_name: str) -> Any:
    r"""Print the jobs of a batch deployment, newest first.

    \b
    Example:
      clearsight batch-deployment list-jobs -n blue -e fridge --query "[].name"
    """
    return _jobs(endpoint_name, name)


def _jobs(endpoint_name: str, deployment_name: str | None) -> list[dict[str, Any]]:
    """A short description of each job of an endpoint, or of one deployment, which may be gone.

    Raises NotFound when there are none, and no such endpoint or deployment either.
    """
    workspace = Workspace.default()
    found = []
    for row in list_jobs(workspace):
        try:
            record = read_record(workspace, row["name"])
        except UserError:
            continue  # damaged; `job list` shows it
        names = {key: record.properties.get(key) for key in ("endpoint_name", "deployment_name")}
        is_wanted = deployment_name is None or names["deployment_name"] == deployment_name.lower()
        if record.type == "batch" and names["endpoint_name"] == endpoint_name.lower() and is_wanted:
            found.append({**row, **names})
    if not found:
        endpoint = BatchEndpointStore(workspace).get(endpoint_name)
        if deployment_name is not None:
            endpoint.deployment(deployment_name)
    return found
