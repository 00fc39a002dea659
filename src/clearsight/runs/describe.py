"""What `job show` and `job list` print: jobs and trials as documents like those of `az ml job show`."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clearsight.errors import UserError
from clearsight.runs.kinds import JOB_KINDS
from clearsight.runs.mlflow_mirror import BEST_CHILD_TAG
from clearsight.runs.record import RECORD_FILE, JobRecord, read_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.trials import best_trial, find_run, trial_folders
from clearsight.runs.workspace import Workspace

__all__ = ["describe_job", "how_to_resume", "job_status", "list_jobs"]


def how_to_resume(workspace: Workspace, record: JobRecord) -> str:
    """The command that resumes an interrupted job, and what it does, as a clause for a message."""
    command = f"`clearsight job resume -n {record.name}`"
    if any(trial.has_checkpoint() for trial in trial_folders(workspace, record)):
        return f"{command} goes on from the last checkpoint"
    return f"{command} starts it anew, since there is no checkpoint yet"


def job_status(workspace: Workspace, record: JobRecord) -> RunStatus:
    """The status of a job; when its process is gone, the message says how to resume it."""
    folder = RunFolder(workspace.runs / record.name)
    status = folder.read_status()
    resume = how_to_resume(workspace, record)
    match status.status:
        case "NotStarted" if not folder.is_locked():  # the process of the job ended before it wrote a state
            return RunStatus("NotResponding", message=f"the process that ran the job is gone; {resume}")
        case "NotResponding":
            who = "that ran the job" if status.pid is None else f"{status.pid} that ran the job"
            return replace(status, message=f"the process {who} is gone; {resume}")
        case "Unknown":
            return replace(status, message=f"{status.message}; {resume}")
    return status


def describe_job(workspace: Workspace, name: str) -> dict[str, Any]:
    """Describe a job, or a trial by its name. Raises `NotFound`, or `UserError` for a damaged record."""
    record, trial = find_run(workspace, name)
    return _describe_job(workspace, record) if trial is None else _describe_trial(record, trial)


def _describe_job(workspace: Workspace, record: JobRecord) -> dict[str, Any]:
    folder, trials = RunFolder(workspace.runs / record.name), trial_folders(workspace, record)
    status = job_status(workspace, record)
    best = best_trial(record, trials) if status.status == "Completed" else None
    tags = dict(record.tags)
    outputs: dict[str, Any] = {"default": {"path": folder.root, "type": "uri_folder"}}
    if best is not None:
        if JOB_KINDS[record.type].output == "best_model":
            tags[BEST_CHILD_TAG] = best.run_id
        outputs |= _main_output(record, best, record.best_model_path or best.package)
    return {
        "name": record.name,
        "type": record.type,
        "status": status.status,
        "display_name": record.display_name or record.name,
        "description": record.description,
        "experiment_name": record.experiment_name,
        "task": record.task and record.task.value,
        "primary_metric": record.primary_metric,
        "creation_context": {"created_at": record.created_at},
        "start_time": status.started_at,
        "end_time": status.ended_at,
        "tags": tags,
        "properties": {**record.properties, "reason": status.reason, "message": status.message},
        "best_child_run_id": None if best is None else best.run_id,
        "metrics": status.metrics,
        "validation": {"num_images": status.num_validation_images, "intervals_95": status.intervals_95},
        "outputs": outputs,
        "trials": [_describe_shortly(trial) for trial in trials],
    }


def _describe_shortly(trial: RunFolder) -> dict[str, Any]:
    status = trial.read_status()
    return {"run_id": trial.run_id, "status": status.status, "best_epoch": status.best_epoch, "path": trial.root}


def _describe_trial(record: JobRecord, trial: RunFolder) -> dict[str, Any]:
    status = trial.read_status()
    facts = JOB_KINDS[record.type].read_spec(trial).facts()
    outputs: dict[str, Any] = {"default": {"path": trial.root, "type": "uri_folder"}}
    if status.status == "Completed":
        outputs |= _main_output(record, trial, trial.package)
    return {
        "name": trial.run_id,
        "type": "trial",
        "parent_job_name": record.name,
        "status": status.status,
        "experiment_name": record.experiment_name,
        "task": record.task and record.task.value,
        "primary_metric": record.primary_metric,
        "creation_context": {"created_at": status.created_at},
        "start_time": status.started_at,
        "end_time": status.ended_at,
        "tags": dict(facts.tags),
        "properties": {"reason": status.reason, "message": status.message},
        "parameters": {one.name: one.value for one in facts.parameters if one.value is not None},
        "best_epoch": status.best_epoch,
        "metrics": status.metrics,
        "validation": {"num_images": status.num_validation_images, "intervals_95": status.intervals_95},
        "outputs": outputs,
    }


def _main_output(record: JobRecord, trial: RunFolder, package: Path) -> dict[str, Any]:
    kind = JOB_KINDS[record.type]
    if kind.output == "score":
        return {"score": {"path": kind.read_spec(trial).facts().results, "type": "uri_folder"}}
    return {"best_model": _model_output(trial, package)}


def _model_output(trial: RunFolder, path: Path) -> dict[str, Any]:
    uri = f"azureml://jobs/{trial.run_id}/outputs/artifacts/outputs/mlflow-model/"
    return {"path": path, "type": "mlflow_model", "uri": uri}


def list_jobs(
    workspace: Workspace, experiment_name: str | None = None, max_results: int | None = None
) -> list[dict[str, Any]]:
    """A short description of each job of the workspace, newest first; a job whose files are damaged is `Unknown`."""
    rows = [_row(workspace, file) for file in workspace.runs.glob(f"*/{RECORD_FILE}")]
    rows.sort(key=lambda row: str(row["created_at"]), reverse=True)
    chosen = (row for row in rows if experiment_name in (None, row["experiment_name"]))
    return list(itertools.islice(chosen, max_results))


def _row(workspace: Workspace, file: Path) -> dict[str, Any]:
    name = file.parent.name
    try:
        record = read_record(workspace, name)
        trials = trial_folders(workspace, record)
    except UserError as error:
        created_at = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
        empty = dict.fromkeys(("experiment_name", "task", "best_child_run_id"))
        return {"name": name, "status": "Unknown", **empty, "created_at": created_at, "message": str(error)}
    status = job_status(workspace, record)
    best = best_trial(record, trials) if status.status == "Completed" else None
    metric = record.primary_metric
    return {
        "name": name,
        "status": status.status,
        "experiment_name": record.experiment_name,
        "task": record.task and record.task.value,
        "best_child_run_id": None if best is None else best.run_id,
        "created_at": record.created_at,
        **({} if metric is None else {metric: status.metrics.get(metric)}),
        "message": status.message,
    }
