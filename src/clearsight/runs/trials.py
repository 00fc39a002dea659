"""The trials of a job: their names, the log that lists them, and which of them is the best.

`trials.jsonl` stands beside `job.json`. Each line is `{"time": …, "run_id": …}`; a line is appended before its trial
starts and never changed. The order of the lines is the order of the trials. Trials that the record itself lists (jobs
of versions without the log) count as the first ones.
"""

import math
import re
from typing import Final

from clearsight.errors import NotFound
from clearsight.runs.record import JobRecord, damaged, read_record
from clearsight.runs.run_folder import RunFolder, append_line, now, read_lines
from clearsight.runs.workspace import Workspace

__all__ = ["append_trial", "batch_name", "best_trial", "find_run", "trial_folders", "trial_name"]

_LOG_FILE: Final = "trials.jsonl"
_TRIAL_NAME: Final = re.compile(r"(?P<job>.+)_(HD_[0-9]+|batchscoring)")


def trial_name(job_name: str, number: int) -> str:
    """The run id of a trial, counted from 0, as Azure spells it."""
    return f"{job_name}_HD_{number}"


def batch_name(job_name: str) -> str:
    """The run id of the one trial of a batch job, which Azure calls `batchscoring`."""
    return f"{job_name}_batchscoring"


def append_trial(job: RunFolder, run_id: str) -> None:
    """Add a trial to the log of its job."""
    append_line(job.root / _LOG_FILE, {"time": now(), "run_id": run_id})


def trial_folders(workspace: Workspace, record: JobRecord) -> list[RunFolder]:
    """The run folders of a job's trials, at least one, in the order of their start.

    Raises `UserError` when the log is missing or damaged.
    """
    file = workspace.runs / record.name / _LOG_FILE
    try:
        names = dict.fromkeys([*record.trials, *(str(line["run_id"]) for line in read_lines(file))])
    except KeyError as error:
        raise damaged(file, error) from error
    if not names:
        raise damaged(file, ValueError("no trial is listed"))
    return [RunFolder(workspace.runs / name) for name in names]


def best_trial(record: JobRecord, trials: list[RunFolder]) -> RunFolder | None:
    """The completed trial with the best value of the primary metric; None when no trial is completed.

    Of equal values the first counts; a trial without a value, or with NaN, comes after all that have one.
    """
    best: tuple[float, RunFolder] | None = None
    for trial in trials:
        status = trial.read_status()
        if status.status != "Completed":
            continue
        value = status.metrics.get(record.primary_metric or "", math.nan)
        score = value if record.goal == "maximize" else -value
        score = -math.inf if math.isnan(score) else score
        if best is None or score > best[0]:
            best = (score, trial)
    return None if best is None else best[1]


def find_run(workspace: Workspace, name: str) -> tuple[JobRecord, RunFolder | None]:
    """The job of this name, or the trial of this name with the job that it belongs to.

    Raises `NotFound`, or `UserError` for a damaged record.
    """
    try:
        return read_record(workspace, name), None
    except NotFound:
        if (match := _TRIAL_NAME.fullmatch(name)) is None:
            raise
        try:
            record = read_record(workspace, match["job"])
        except NotFound:
            record = None
        if record is not None:
            for trial in trial_folders(workspace, record):
                if trial.run_id == name:
                    return record, trial
        raise
