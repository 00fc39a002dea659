"""The record of a job, `job.json`: written once, when the job is created, and read by every later command."""

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clearsight.documents.job.document import JOB_NAME
from clearsight.errors import NotFound, UserError
from clearsight.files import write_atomically
from clearsight.runs.run_folder import RunFolder, now
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task

__all__ = ["RECORD_FILE", "Goal", "JobRecord", "damaged", "read_record", "write_record"]

RECORD_FILE: Final = "job.json"
"""Name of the record in the job's run folder."""

Goal = Literal["maximize", "minimize"]
"""Direction in which a metric improves, spelled as in Azure's sweep jobs."""


class JobRecord(BaseModel):
    """The contents of `job.json`: all that a process needs to run the job, now or later. Never changed.

    The trials of a job stand in its trial log (`clearsight.runs.trials`), since a running job may start more of them.
    Versions before that log listed them here, under `trials`: such records are still read. New records leave the key
    out, and those versions do not open them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: str = "automl"
    """Kind of the job, a key of `clearsight.runs.kinds.JOB_KINDS`."""
    display_name: str | None
    description: str | None
    experiment_name: str
    task: Task | None
    """Task of the trained models; None for a job that trains none."""
    primary_metric: str | None
    """Name of the metric by which trials are compared; None for a job that measures none."""
    goal: Goal = "maximize"
    """Direction in which the primary metric improves."""
    tags: dict[str, str | None]
    properties: dict[str, str | None]
    created_at: str = Field(default_factory=now)
    """UTC, ISO 8601."""
    trials: list[str] = []
    """Run ids of the trials, in records of versions without a trial log; empty otherwise."""
    best_model_path: Path | None
    """Folder to which the package of the best trial is copied; None: it is not copied."""
    environment_variables: dict[str, str | None] = {}
    """Set for every process of a trial; None means empty."""
    timeout_minutes: int = 10_080
    """Time limit of one attempt at the job."""
    max_concurrent_trials: int = 1
    """Greatest number of trials that run at the same time."""
    num_processes: int = 1
    """Number of processes that train one trial together."""
    warnings: list[str] = []
    """Warnings of the planning of the job, one sentence each."""
    document: dict[str, Any]
    """The job file after its overrides."""


def write_record(folder: RunFolder, record: JobRecord) -> None:
    """Write the record of a new job."""
    write_atomically(folder.root / RECORD_FILE, record.model_dump_json(indent=2, exclude={"trials"}) + "\n")


def read_record(workspace: Workspace, name: str) -> JobRecord:
    """Read the record of a job. Raises `NotFound`, or `UserError` for a damaged file."""
    file = workspace.runs / name / RECORD_FILE
    if not JOB_NAME.fullmatch(name) or not file.is_file():
        raise NotFound(f"the job {name!r} does not exist in {workspace.runs}; `clearsight job list` shows all")
    try:
        return JobRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> UserError:
    """The error of a file of a run folder that cannot be read as it was written."""
    reason = str(error).splitlines()[0]
    if isinstance(error, ValidationError):
        [first, *_] = error.errors()
        reason = ": ".join([*map(str, first["loc"]), first["msg"]])
    return UserError(f"{file} must be as it was written, but it is damaged ({reason}); create the job again")
