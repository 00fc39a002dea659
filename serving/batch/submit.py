"""From a deployment and an invocation to the plan of a job: everything is checked before anything starts."""

import asyncio
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from clearsight.documents.batch.document import BatchDeployment
from clearsight.documents.batch.invocation import BatchInvocation
from clearsight.documents.data.locations import resolve_location
from clearsight.documents.deployment.document import DeploymentDocument
from clearsight.documents.deployment.layout import MeasuredLayout, ServingLayout
from clearsight.errors import Conflict, Fault, InvalidDocument, UserError
from clearsight.files import os_error_message
from clearsight.handlers.backends import PRECISIONS
from clearsight.handlers.scoring.scorer import choose_backend
from clearsight.runs.data_registry import DataRegistry
from clearsight.runs.kinds import JobPlan
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.record import JobRecord
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.trials import batch_name
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.inputs.opening import open_input
from clearsight.serving.batch.plan import BatchPlan, new_plan
from clearsight.serving.batch.results.frame_settings import FRAME_SETTINGS_FILE, read_frame_settings
from clearsight.serving.batch.results.write import require_free
from clearsight.serving.batch.row_outputs import read_properties
from clearsight.serving.supervisor.layout import choose_layout, measure_package

__all__ = ["plan_batch", "refuse_document"]

_TIMEOUT_MINUTES: Final = 7 * 24 * 60


def plan_batch(
    workspace: Workspace,
    deployment: BatchDeployment,
    invocation: BatchInvocation,
    folder: Path,
    on_step: Callable[[str], None] = lambda step: None,
) -> JobPlan:
    """Plan a batch job. Relative inputs are relative to `folder`. `on_step` gets the name of a step that takes time.

    What the invocation leaves open is the deployment's. Raises `UserError` (`NotFound`, `Conflict`, …) for a model, an
    input or an output that cannot be used.
    """
    name = invocation.job_name or f"batchjob-{uuid.uuid4()}"
    if (workspace.runs / name).exists():
        raise Conflict(f"a job's name must be new, but {name!r} exists in {workspace.runs}; choose another --job-name")
    given = _with_invocation(deployment, invocation)
    run_id = batch_name(name)
    output = _output_folder(workspace, RunFolder(workspace.runs / run_id), invocation.output_path, folder)
    plan = plan_of_deployment(workspace, given, run_id, output, on_step)
    asset = DataRegistry(workspace).find(invocation.inputs)
    plan = plan.model_copy(
        update={
            # The version that @latest means now: the list is made when the job starts.
            "inputs": invocation.inputs if asset is None else f"azureml:{asset.name}:{asset.version}",
            "input_folder": folder,
            "input_type": invocation.input_type,
            "is_recursive": bool(invocation.recursive),
        }
    )
    require_free(plan.output_file, plan.form())
    plan.rows.require_free(output)
    open_input(plan.inputs, folder, workspace, input_type=plan.input_type, is_recursive=plan.is_recursive)
    record = JobRecord(
        name=name,
        type="batch",
        display_name=name,
        description=deployment.description,
        experiment_name=invocation.experiment_name or deployment.endpoint_name,
        task=None,
        primary_metric=None,
        tags={},
        properties={"endpoint_name": deployment.endpoint_name, "deployment_name": deployment.name},
        best_model_path=None,
        timeout_minutes=_TIMEOUT_MINUTES,
        warnings=list(deployment.warnings),
        document={"type": "batch", "compute": "local", "deployment": given.to_document()},
    )
    return JobPlan(record, (plan,))


def plan_of_deployment(
    workspace: Workspace, deployment: BatchDeployment, run_id: str, output: Path, on_step: Callable[[str], None]
) -> BatchPlan:
    """The plan of a deployment's job but for its input."""
    package = ModelPackage.open(ModelRegistry(workspace).resolve(deployment.model))
    variables = dict(deployment.environment_variables)
    rows = read_properties(deployment.properties).for_package(package, variables)
    layout = _layout(workspace, deployment, package, on_step)
    precision = layout.precision
    if precision not in PRECISIONS:
        raise UserError(f"CLEARSIGHT_PRECISION must be {' or '.join(PRECISIONS)}, but got {precision!r}")
    backend, device = choose_backend(package, layout.backend, layout.device, precision)
    return new_plan(
        package,
        run_id=run_id,
        backend=backend,
        backend_chosen_by="deployment" if "CLEARSIGHT_BACKEND" in deployment.environment_variables else layout.source,
        device=device,
        precision=precision,
        inputs="",
        input_folder=Path(),
        part_size=deployment.mini_batch_size,
        num_workers=layout.workers,
        num_threads=layout.num_threads,
        max_retries=deployment.max_retries,
        timeout_s=deployment.timeout_s,
        error_threshold=deployment.error_threshold,
        logging_level=deployment.logging_level,
        environment_variables=variables,
        output_file=output / deployment.output_file_name,
        output_action=deployment.output_action,
        output_format=deployment.properties.get("output_format"),
        frame_settings=_frame_settings(deployment),
        rows=rows,
    )


def refuse_document(document: Mapping[str, Any], folder: Path, workspace: Workspace, subject: str) -> NoReturn:
    """`clearsight.runs.kinds.Planner` of batch jobs, which no job file describes. Raises `InvalidDocument`."""
    message = "must be automl; a batch job is started by `clearsight batch-endpoint invoke`"
    raise InvalidDocument(subject, [Fault("BAD_VALUE", "type", message)])


def _with_invocation(deployment: BatchDeployment, invocation: BatchInvocation) -> BatchDeployment:
    """The deployment with what the invocation says otherwise. Raises `UserError` where they contradict."""
    given: dict[str, Any] = {
        "output_file_name": invocation.output_file_name,
        "mini_batch_size": invocation.mini_batch_size,
        "instance_count": invocation.instance_count,
        "error_threshold": invocation.error_threshold,
        "max_retries": invocation.max_retries,
        "timeout_s": invocation.timeout_s,
    }
    if given["output_file_name"] is not None and deployment.output_action == "summary_only":
        raise UserError(
            "When output_action is set to summary_only, the output_file_name need not to be specified; leave "
            f"{given['output_file_name']!r} out, or change the deployment"
        )
    return replace(deployment, **{key: value for key, value in given.items() if value is not None})


def _output_folder(workspace: Workspace, run: RunFolder, output_path: str | None, folder: Path) -> Path:
    """Absolute folder of the results: the one that was asked for, or one of the job's own.

    Raises `UserError` for one that cannot be written to, which would otherwise be found at the end of the job.
    """
    if output_path is None:
        return run.score
    output = resolve_location(output_path.rstrip("/") or "/", folder.absolute(), workspace.datastores())
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(f"the folder of the results must be one to write to, but {os_error_message(error)}") from error
    return output


def _layout(
    workspace: Workspace, deployment: BatchDeployment, package: ModelPackage, on_step: Callable[[str], None]
) -> ServingLayout:
    """Backend, processes and threads: what the deployment sets, else what is fastest on this machine.

    The processes are always those of the deployment. The package is measured once, as for an online deployment.
    """
    document = DeploymentDocument(
        name=deployment.name,
        endpoint_name=deployment.endpoint_name,
        model=deployment.model,
        instance_count=deployment.instance_count * deployment.max_concurrency_per_instance,
        environment_variables=deployment.environment_variables,
    )
    measured: Sequence[MeasuredLayout] = ()
    if "CLEARSIGHT_BACKEND" not in deployment.environment_variables:
        measured = asyncio.run(measure_package(package.root, document, workspace, on_step))
    return choose_layout(document, measured, len(os.sched_getaffinity(0)))


def _frame_settings(deployment: BatchDeployment) -> dict[str, Any]:
    """The settings beside the deployment's scoring script; the script itself is not run."""
    code = deployment.inert.get("code_configuration", {}).get("code")
    file = None if code is None else Path(code) / FRAME_SETTINGS_FILE
    return {} if file is None or not file.is_file() else dict(read_frame_settings(file))
