"""A job in its run folder: `job.json`, and what `job show` and `job list` make of it."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clearsight.documents.job.document import JOB_NAME
from clearsight.errors import NotFound, UserError
from clearsight.files import write_atomically
from clearsight.runs.mlflow_mirror import BEST_CHILD_TAG
from clearsight.runs.run_folder import RunFolder, RunStatus, now
from clearsight.runs.trial_spec import TrialSpec
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task

__all__ = [
    "JobRecord",
    "describe_job",
    "how_to_resume",
    "job_status",
    "list_jobs",
    "read_record",
    "read_spec",
    "write_record",
]

_FILE: Final = "job.json"


class JobRecord(BaseModel):
    """`job.json`: all that a process needs to run the job, now or later. Never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    display_name: str | None
    description: str | None
    experiment_name: str
    task: Task
    primary_metric: str
    tags: dict[str, str | None]
    properties: dict[str, str | None]
    created_at: str = Field(default_factory=now)
    trials: list[str]
    best_model_path: Path | None
    environment_variables: dict[str, str | None] = {}
    timeout_minutes: int = 10_080
    num_processes: int = 1
    """Of each trial."""
    warnings: list[str] = []
    document: dict[str, Any]
    """The job file with its overrides."""


def write_record(folder: RunFolder, record: JobRecord) -> None:
    write_atomically(folder.root / _FILE, record.model_dump_json(indent=2) + "\n")


def read_record(workspace: Workspace, name: str) -> JobRecord:
    """Raises `NotFound`, or `UserError` for a damaged file."""
    file = workspace.runs / name / _FILE
    if not JOB_NAME.fullmatch(name) or not file.is_file():
        raise NotFound(f"the job {name!r} does not exist in {workspace.runs}; `clearsight job list` shows all")
    try:
        return JobRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise _damaged(file, error) from error


def read_spec(folder: RunFolder) -> TrialSpec:
    """What a trial was told. Raises `UserError` when the file is missing or damaged."""
    try:
        return TrialSpec.model_validate_json(folder.spec_file.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise _damaged(folder.spec_file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(f"{file} must be as it was written, but it is damaged ({reason}); create the job again")


def how_to_resume(workspace: Workspace, record: JobRecord) -> str:
    """How a job that was interrupted is taken up, and what that does."""
    command = f"`clearsight job resume -n {record.name}`"
    if any(RunFolder(workspace.runs / trial).has_checkpoint() for trial in record.trials):
        return f"{command} goes on from the last checkpoint"
    return f"{command} starts it anew, since there is no checkpoint yet"


def job_status(workspace: Workspace, record: JobRecord) -> RunStatus:
    """Where a job stands; one that can go on by itself no more says how it can be taken up."""
    folder = RunFolder(workspace.runs / record.name)
    status = folder.read_status()
    resume = how_to_resume(workspace, record)
    match status.status:
        case "NotStarted" if not folder.is_locked():  # its process ended before it wrote a state
            return RunStatus("NotResponding", message=f"the process that ran the job is gone; {resume}")
        case "NotResponding":
            who = "that ran the job" if status.pid is None else f"{status.pid} that ran the job"
            return replace(status, message=f"the process {who} is gone; {resume}")
        case "Unknown":
            return replace(status, message=f"{status.message}; {resume}")
    return status


def describe_job(workspace: Workspace, name: str) -> dict[str, Any]:
    """A job in the manner of `az ml job show`. Raises `NotFound`, or `UserError` for a damaged record."""
    record = read_record(workspace, name)
    folder = RunFolder(workspace.runs / name)
    status = job_status(workspace, record)
    best = record.trials[0] if status.status == "Completed" else None
    tags = dict(record.tags)
    outputs: dict[str, Any] = {"default": {"path": folder.root, "type": "uri_folder"}}
    if best is not None:
        tags[BEST_CHILD_TAG] = best
        path = record.best_model_path or RunFolder(workspace.runs / best).package
        outputs["best_model"] = {"path": path, "type": "mlflow_model", "uri": _model_uri(best)}
    return {
        "name": record.name,
        "type": "automl",
        "status": status.status,
        "display_name": record.display_name or record.name,
        "description": record.description,
        "experiment_name": record.experiment_name,
        "task": record.task.value,
        "primary_metric": record.primary_metric,
        "creation_context": {"created_at": record.created_at},
        "start_time": status.started_at,
        "end_time": status.ended_at,
        "tags": tags,
        "properties": {**record.properties, "reason": status.reason, "message": status.message},
        "best_child_run_id": best,
        "metrics": status.metrics,
        "outputs": outputs,
        "trials": [_describe_trial(workspace, trial) for trial in record.trials],
    }


def _model_uri(run_id: str) -> str:
    return f"azureml://jobs/{run_id}/outputs/artifacts/outputs/mlflow-model/"


def _describe_trial(workspace: Workspace, run_id: str) -> dict[str, Any]:
    folder = RunFolder(workspace.runs / run_id)
    status = folder.read_status()
    return {"run_id": run_id, "status": status.status, "best_epoch": status.best_epoch, "path": folder.root}


def list_jobs(
    workspace: Workspace, experiment_name: str | None = None, max_results: int | None = None
) -> list[dict[str, Any]]:
    """The jobs of the workspace, newest first, in short. A job whose record is damaged is listed as `Unknown`."""
    rows = [_row(workspace, file) for file in workspace.runs.glob(f"*/{_FILE}")]
    rows.sort(key=lambda row: str(row["created_at"]), reverse=True)
    chosen = (row for row in rows if experiment_name in (None, row["experiment_name"]))
    return list(itertools.islice(chosen, max_results))


def _row(workspace: Workspace, file: Path) -> dict[str, Any]:
    name = file.parent.name
    try:
        record = read_record(workspace, name)
    except UserError as error:
        created_at = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
        empty = dict.fromkeys(("experiment_name", "task", "best_child_run_id"))
        return {"name": name, "status": "Unknown", **empty, "created_at": created_at, "message": str(error)}
    status = job_status(workspace, record)
    return {
        "name": name,
        "status": status.status,
        "experiment_name": record.experiment_name,
        "task": record.task.value,
        "best_child_run_id": record.trials[0] if status.status == "Completed" else None,
        "created_at": record.created_at,
        record.primary_metric: status.metrics.get(record.primary_metric),
        "message": status.message,
    }
