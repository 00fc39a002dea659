"""Copies of the outputs of a job, laid out as Azure's client lays out a download.

```
<path>/artifacts/                     the files of the best trial (of the last, when none completed) but checkpoints
<path>/named-outputs/best_model/      the package of a training job
<path>/named-outputs/score/           the results of a batch job
```
"""

import secrets
import shutil
from pathlib import Path
from typing import Final

from clearsight.errors import Conflict, NotFound
from clearsight.files import written_by_way_of
from clearsight.runs.describe import job_status
from clearsight.runs.kinds import JOB_KINDS
from clearsight.runs.record import JobRecord
from clearsight.runs.run_folder import UNDER_WAY, RunFolder
from clearsight.runs.trials import best_trial, find_run, trial_folders
from clearsight.runs.workspace import Workspace

__all__ = ["ALL", "OUTPUTS", "copy_folder", "download_outputs"]

OUTPUTS: Final = ("default", "best_model", "score")
ALL: Final = ("all",)
"""Stands for every output that the job has."""
_NOT_COPIED: Final = ("checkpoints", "parts", "workers", "lock")


def download_outputs(workspace: Workspace, name: str, outputs: tuple[str, ...], target: Path) -> dict[str, Path]:
    """Copy outputs of a job, or of a trial, that has ended; return the folder of each copy.

    Each folder appears complete or not at all. Raises `NotFound` for a model that was never made, `Conflict` for a
    target that exists or a run that a process works on.
    """
    record, trial = find_run(workspace, name)
    noun = "job" if trial is None else "trial"
    state = (job_status(workspace, record) if trial is None else trial.read_status()).status
    if state in (*UNDER_WAY, "NotStarted"):
        raise Conflict(
            f"a {noun} must have ended to be downloaded, but {name!r} is {state}; wait for its end, or cancel it"
        )
    trials = trial_folders(workspace, record)
    source = trial or best_trial(record, trials) or trials[-1]
    main = JOB_KINDS[record.type].output
    folders = {
        "default": (source.root, target / "artifacts"),
        main: (source.package if main == "best_model" else _results(record, source), target / "named-outputs" / main),
    }
    outputs = tuple(folders) if outputs == ALL else outputs
    for output in outputs:
        if output not in folders:
            raise NotFound(f"the outputs of {name!r} are {' and '.join(folders)}, but got {output!r}")
        _, destination = folders[output]
        if output == "best_model" and state != "Completed":
            raise NotFound(f"a {noun} must be completed to have a best_model, but {name!r} is {state}")
        if destination.exists():
            raise Conflict(f"{destination} must not exist yet; remove it or give another --download-path")
    for output in outputs:
        copy_folder(*folders[output], ignored=_NOT_COPIED if output == "default" else ())
    return {output: folders[output][1] for output in outputs}


def _results(record: JobRecord, run: RunFolder) -> Path:
    """Folder of the results of a batch job. Raises `NotFound` when there are none."""
    results = JOB_KINDS[record.type].read_spec(run).facts().results
    if results is None or not results.is_dir():
        raise NotFound(f"the batch job {record.name!r} must have written results to be downloaded, but has none")
    return results


def copy_folder(source: Path, target: Path, ignored: tuple[str, ...] = ()) -> None:
    """Copy a folder so that the copy appears complete or not at all, without the top-level entries named `ignored`.

    Raises `OSError`, also when `target` exists.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")

    def leave_out(folder: str, names: list[str]) -> set[str]:
        return set(ignored) & set(names) if Path(folder) == source else set()

    try:
        with written_by_way_of(temporary, target):
            shutil.copytree(source, temporary, ignore=leave_out)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
