"""One training job: check everything, start the trial, follow it, say how it ended.

The parent process, which this is, imports no torch: a fault in a job file shows in half a second.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from clearsight import environment
from clearsight.errors import Conflict, Fault, InvalidData, InvalidDocument, NotFound
from clearsight.executor import Executor, TaskSpec
from clearsight.jobs import (
    DataInput,
    DataSection,
    Job,
    apply_overrides,
    candidate_models,
    load_document,
    read_job,
    require_supported,
    resolve_parameters,
)
from clearsight.training.locations import BadLocation, resolve_location
from clearsight.training.run_folder import ENDED, EventReader, RunFolder, RunStatus, State, now
from clearsight.training.table import MAX_LISTED_FAULTS, Table, read_table, require_trainable
from clearsight.training.tracking import BEST_CHILD_TAG, MlflowMirror
from clearsight.training.trial_spec import Setting, TrialSpec
from clearsight.workspace import Workspace, write_atomically

__all__ = ["JobPlan", "describe_job", "list_jobs", "plan_job", "run_job"]

DEFAULT_VALIDATION_SIZE: Final = 0.2
"""Azure's share of the training records when a job names neither validation data nor a size."""

CANCEL_GRACE_S: Final = 60.0
"""How long a trial may take to reach an optimizer step and write its checkpoint."""

MAX_MISSING_SHARE: Final = 0.05
_POLL_S: Final = 0.2
_TRIAL_ENVIRONMENT: Final = {
    # Threads that wait must sleep: beside any other load, spinning ones made a step of mobilenetv2 three times as slow
    # and cost four times the CPU (measured on two cores); on an idle machine there is no difference.
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace (PyTorch's notes)
}
_JOB_FILE: Final = "job.json"


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job that may start: nothing about it is in doubt but the training itself."""

    name: str
    job: Job
    document: Mapping[str, Any]
    """The job file with its overrides."""
    spec: TrialSpec
    experiment_name: str
    best_model_path: Path | None
    """Where `outputs.best_model` wants a copy of the package."""
    warnings: tuple[str, ...]


def plan_job(file: Path, overrides: Mapping[str, Any], name: str | None, workspace: Workspace) -> JobPlan:
    """Read and check a job file and the data it names.

    Raises `InvalidDocument` with every fault of document and data together, and `UserError` for a valid job that this
    version does not run.
    """
    document = apply_overrides(load_document(file), overrides)
    if name is not None:
        document["name"] = name
    folder = file.absolute().parent
    reading = read_job(document)
    faults = list(reading.faults)
    warnings = list(reading.warnings)
    checked = None if reading.data is None else _check_data(reading.data, folder, workspace, faults, warnings)
    if faults or reading.job is None or checked is None:
        raise InvalidDocument(str(file), faults)
    job = reading.job
    require_supported(job)
    job_name = job.name or _new_name()
    if (workspace.runs / job_name).exists():
        raise Conflict(f"a job's name must be new, but {job_name!r} exists in {workspace.runs}; choose another --name")
    best_model_path = _best_model_path(job, job_name, folder, workspace)
    return JobPlan(
        name=job_name,
        job=job,
        document=document,
        spec=_trial_spec(job, job_name, folder, checked, workspace),
        experiment_name=job.experiment_name or Path.cwd().name or "Default",
        best_model_path=best_model_path,
        warnings=tuple(warnings),
    )


def _best_model_path(job: Job, job_name: str, folder: Path, workspace: Workspace) -> Path | None:
    output = job.outputs.get("best_model")
    if output is None:
        return None
    if output.path is None:
        return workspace.runs / job_name / "outputs" / "best_model"
    try:
        path = resolve_location(output.path, folder, workspace.datastores())
    except BadLocation as error:
        raise InvalidDocument("job", [Fault(error.code, "outputs.best_model.path", str(error))]) from None
    if path.exists():
        raise Conflict(f"outputs.best_model.path must be a new folder, but {path} exists; remove it or name another")
    return path


def _new_name() -> str:
    return f"job_{datetime.now(UTC):%Y%m%d_%H%M%S}_{secrets.token_hex(2)}"


def _check_data(
    data: DataSection, folder: Path, workspace: Workspace, faults: list[Fault], warnings: list[str]
) -> tuple[Path, Path | None] | None:
    """Load both tables and note what keeps them from being trained on; return their folders."""
    datastores = workspace.datastores()
    tables: dict[str, Table] = {}
    folders: dict[str, Path] = {}
    num_faults = len(faults)
    for key, source in (("training_data", data.training), ("validation_data", data.validation)):
        if source is None:
            continue
        try:
            folders[key] = _data_folder(source, folder, datastores)
            table, found = read_table(folders[key], data.task, data.target_column, datastores)
        except BadLocation as error:
            faults.append(Fault(error.code, f"{key}.path", str(error)))
            continue
        except InvalidData as error:
            faults += error.faults
            continue
        tables[key] = table
        faults += found[:MAX_LISTED_FAULTS]
        if len(found) > MAX_LISTED_FAULTS:
            rest = f"{len(found) - MAX_LISTED_FAULTS} more faults; `clearsight data check {folders[key]}` lists all"
            faults.append(Fault("BAD_DATA", f"{key}.path", rest))
        if not found:
            _check_files(table, faults)
    if "training_data" in tables and len(faults) == num_faults:
        try:
            require_trainable(tables["training_data"], tables.get("validation_data"))
        except InvalidData as error:
            faults += error.faults
    if len(faults) > num_faults:
        return None
    return folders["training_data"], folders.get("validation_data")


def _data_folder(source: DataInput, folder: Path, datastores: Mapping[str, Path]) -> Path:
    path = source.path
    if path.startswith("azureml:") and not path.startswith("azureml://"):
        local = folder / path.removeprefix("azureml:")  # Azure's own `job.dump()` writes local folders in this form
        if local.is_dir():
            return local
        raise BadLocation(
            "BAD_DATA_REF", f"registered data is not kept yet, but got {path!r}; give the path of a data folder"
        )
    return resolve_location(path, folder, datastores)


def _check_files(table: Table, faults: list[Fault]) -> None:
    """More than 5 % of missing pictures is a fault; fewer are left out by the trial, with a warning."""
    missing = [record for record in table.records if not record.image.is_file()]
    if len(missing) <= MAX_MISSING_SHARE * len(table.records):
        return
    for record in missing[:MAX_LISTED_FAULTS]:
        faults.append(Fault("BAD_DATA", record.source, f"the picture {record.image} does not exist"))
    if len(missing) > MAX_LISTED_FAULTS:
        faults.append(
            Fault("BAD_DATA", str(table.folder), f"{len(missing)} of {len(table.records)} pictures are missing")
        )


def _trial_spec(
    job: Job, job_name: str, folder: Path, data: tuple[Path, Path | None], workspace: Workspace
) -> TrialSpec:
    [model_name] = candidate_models(job.task, job.parameters)
    resolved = resolve_parameters(job.task, job.parameters, model_name)
    settings = {name: Setting(value=one.value, origin=one.origin) for name, one in resolved.items()}
    seed = resolved["random_seed"].value
    if seed is None:
        settings["random_seed"] = Setting(value=secrets.randbits(32), origin="drawn")
    weights_dir = job.advanced.x_weights_dir
    return TrialSpec(
        run_id=f"{job_name}_HD_0",
        job_name=job_name,
        task=job.task,
        target_column=job.data.target_column,
        training_data=data[0],
        validation_data=data[1],
        validation_size=job.data.validation_size or DEFAULT_VALIDATION_SIZE,
        split_seed=0 if seed is None else int(seed),
        datastores=workspace.datastores(),
        hyperparameters=settings,
        deterministic=seed is not None,
        pretrained=job.advanced.x_pretrained,
        weights_dir=(folder / weights_dir) if weights_dir is not None else environment.weights_dir(),
        min_crop_scale=job.advanced.x_min_crop_scale,
        log_verbosity=job.log_verbosity,
    )


def run_job(
    plan: JobPlan, workspace: Workspace, executor: Executor, on_event: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Run the job's trial to its end; return what `describe_job` says then.

    `on_event` hears every event of the trial. KeyboardInterrupt cancels the trial, which keeps a checkpoint; the job
    is then `Canceled`. Whatever happens, the run folders say so.
    """
    job_folder = RunFolder(workspace.runs / plan.name)
    trial_folder = RunFolder(workspace.runs / plan.spec.run_id)
    _write_folders(plan, job_folder, trial_folder)
    mirror = MlflowMirror(workspace, plan.experiment_name)
    _start_mirror(plan, mirror, job_folder, trial_folder)
    environment_variables = {name: value or "" for name, value in plan.job.environment_variables.items()}
    task_id = executor.submit(
        TaskSpec(
            "clearsight.training.trial",
            (str(trial_folder.root),),
            trial_folder.log_file,
            {**_TRIAL_ENVIRONMENT, **environment_variables},
        )
    )
    reader = EventReader(trial_folder)

    def tell_news() -> None:
        for event in reader.new():
            if event["kind"] == "evaluated":
                mirror.log_metrics(trial_folder.run_id, event["metrics"], event["epoch"])
            on_event(event)

    stopped_for = _follow(executor, task_id, tell_news, on_event, 60 * plan.job.limits.timeout_minutes)
    tell_news()
    status = _trial_ending(trial_folder, stopped_for)
    if status.status == "Completed" and plan.best_model_path is not None:
        try:
            _copy_package(trial_folder.package, plan.best_model_path)
        except OSError as error:
            on_event({"kind": "warning", "message": f"outputs.best_model could not be written: {error}"})
    job_state: State = status.status
    message = status.message
    if stopped_for == "timeout" and job_state == "Canceled":  # no trial completed in time
        job_state, message = (
            "Failed",
            f"limits.timeout_minutes, {plan.job.limits.timeout_minutes}, were over: {message}",
        )
    job_folder.write_status(
        replace(
            job_folder.read_status(),
            status=job_state,
            ended_at=now(),
            reason=status.reason if stopped_for is None else stopped_for,
            message=message,
            best_epoch=status.best_epoch,
            metrics=status.metrics,
        )
    )
    best = {BEST_CHILD_TAG: trial_folder.run_id} if status.status == "Completed" else {}
    mirror.end_run(trial_folder.run_id, status.status, status.ended_at, {})
    mirror.end_run(job_folder.run_id, job_state, status.ended_at, best)
    failure = mirror.close()
    if failure is not None:
        on_event({"kind": "warning", "message": f"the run folder is complete, but its MLflow mirror is not: {failure}"})
    return describe_job(workspace, plan.name)


def _follow(
    executor: Executor,
    task_id: str,
    tell_news: Callable[[], None],
    on_event: Callable[[Mapping[str, Any]], None],
    timeout_s: float,
) -> Literal["canceled", "timeout"] | None:
    """Wait for the end of a task; on KeyboardInterrupt or when the time is over, stop it and say why."""
    deadline = time.monotonic() + timeout_s
    try:
        while not executor.wait(_POLL_S):
            tell_news()
            if time.monotonic() > deadline:
                executor.cancel(task_id, CANCEL_GRACE_S)
                return "timeout"
        tell_news()
    except KeyboardInterrupt:
        on_event({"kind": "canceling"})
        executor.cancel(task_id, CANCEL_GRACE_S)
        return "canceled"
    return None


def _write_folders(plan: JobPlan, job_folder: RunFolder, trial_folder: RunFolder) -> None:
    trial_folder.root.mkdir(parents=True)
    write_atomically(trial_folder.spec_file, plan.spec.model_dump_json(indent=2) + "\n")
    trial_folder.write_status(RunStatus())
    document = {
        "name": plan.name,
        "display_name": plan.job.display_name,
        "description": plan.job.description,
        "experiment_name": plan.experiment_name,
        "task": plan.job.task.value,
        "primary_metric": plan.job.task.primary_metric,
        "tags": dict(plan.job.tags),
        "properties": dict(plan.job.properties),
        "trials": [plan.spec.run_id],
        "best_model_path": None if plan.best_model_path is None else str(plan.best_model_path),
        "document": plan.document,
    }
    job_folder.root.mkdir(parents=True, exist_ok=True)
    write_atomically(job_folder.root / _JOB_FILE, json.dumps(document, indent=2, default=str) + "\n")
    job_folder.write_status(RunStatus(status="Running", started_at=now(), pid=os.getpid()))


def _start_mirror(plan: JobPlan, mirror: MlflowMirror, job_folder: RunFolder, trial_folder: RunFolder) -> None:
    model_name = str(plan.spec.value("model_name"))
    tags = {key: value or "" for key, value in plan.job.tags.items()}
    mirror.start_run(job_folder, tags, {})
    params = {name: str(one.value) for name, one in plan.spec.hyperparameters.items() if one.value is not None}
    mirror.start_run(trial_folder, {"model_name": model_name}, params, parent=plan.name)


def _trial_ending(folder: RunFolder, stopped_for: str | None) -> RunStatus:
    """The trial's own last word; if it was ended before it could say one, ours."""
    status = folder.read_status()
    if status.status in ENDED:
        return status
    if stopped_for is not None:
        status = replace(status, status="Canceled", ended_at=now(), reason="canceled", message="stopped at its start")
    else:
        message = f"the trial process ended without a word; its last lines are in {folder.log_file}"
        status = replace(status, status="Failed", ended_at=now(), reason="process_lost", message=message)
    folder.write_status(status)
    return status


def _copy_package(package: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        shutil.copytree(package, temporary)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe_job(workspace: Workspace, name: str) -> dict[str, Any]:
    """A job in the manner of `az ml job show`. Raises `NotFound`."""
    folder = RunFolder(workspace.runs / name)
    file = folder.root / _JOB_FILE
    if not file.is_file():
        raise NotFound(f"the job {name!r} does not exist in {workspace.runs}; `clearsight job list` shows all")
    document = json.loads(file.read_text())
    status = folder.read_status()
    best: str | None = document["trials"][0] if status.status == "Completed" else None
    tags = dict(document["tags"])
    outputs: dict[str, Any] = {"default": {"path": folder.root, "type": "uri_folder"}}
    if best is not None:
        tags[BEST_CHILD_TAG] = best
        trial = RunFolder(workspace.runs / best)
        path = document["best_model_path"] or trial.package
        outputs["best_model"] = {"path": path, "type": "mlflow_model", "uri": _model_uri(best)}
    return {
        "name": document["name"],
        "type": "automl",
        "status": status.status,
        "display_name": document["display_name"] or document["name"],
        "description": document["description"],
        "experiment_name": document["experiment_name"],
        "task": document["task"],
        "primary_metric": document["primary_metric"],
        "creation_context": {"created_at": status.created_at},
        "start_time": status.started_at,
        "end_time": status.ended_at,
        "tags": tags,
        "properties": {**document["properties"], "reason": status.reason, "message": status.message},
        "best_child_run_id": best,
        "metrics": status.metrics,
        "outputs": outputs,
        "trials": [_describe_trial(workspace, trial) for trial in document["trials"]],
    }


def _model_uri(run_id: str) -> str:
    return f"azureml://jobs/{run_id}/outputs/artifacts/outputs/mlflow-model/"


def _describe_trial(workspace: Workspace, run_id: str) -> dict[str, Any]:
    folder = RunFolder(workspace.runs / run_id)
    status = folder.read_status()
    return {"run_id": run_id, "status": status.status, "best_epoch": status.best_epoch, "path": folder.root}


def list_jobs(workspace: Workspace) -> list[dict[str, Any]]:
    """All jobs of the workspace, newest first, in short."""
    if not workspace.runs.is_dir():
        return []
    jobs = [describe_job(workspace, file.parent.name) for file in workspace.runs.glob(f"*/{_JOB_FILE}")]
    jobs.sort(key=lambda job: str(job["creation_context"]["created_at"]), reverse=True)
    keys = ("name", "status", "experiment_name", "task", "best_child_run_id")
    return [
        {
            **{key: job[key] for key in keys},
            "created_at": job["creation_context"]["created_at"],
            job["primary_metric"]: job["metrics"].get(job["primary_metric"]),
        }
        for job in jobs
    ]
