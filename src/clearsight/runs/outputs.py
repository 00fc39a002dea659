"""Copies of what a job made, laid out as Azure's client lays out a download.

```
<path>/artifacts/                     the files of the best trial (of the last, when none completed) but checkpoints
<path>/named-outputs/best_model/      the package
```
"""

import secrets
import shutil
from pathlib import Path
from typing import Final

from clearsight.errors import Conflict, NotFound
from clearsight.runs.record import job_status, read_record
from clearsight.runs.run_folder import UNDER_WAY, RunFolder
from clearsight.runs.workspace import Workspace

__all__ = ["OUTPUTS", "copy_folder", "download_outputs"]

OUTPUTS: Final = ("default", "best_model")
_NOT_COPIED: Final = ("checkpoints", "lock")


def download_outputs(workspace: Workspace, name: str, outputs: tuple[str, ...], target: Path) -> dict[str, Path]:
    """Copy outputs of a job that is not at work; return where each went.

    Raises `NotFound` for a model that was never made, `Conflict` for a folder that exists or a job at work. Each
    folder appears whole or not at all.
    """
    record = read_record(workspace, name)
    state = job_status(workspace, record).status
    if state in (*UNDER_WAY, "NotStarted"):
        raise Conflict(
            f"a job must have ended to be downloaded, but {name!r} is {state}; wait for its end, or cancel it"
        )
    trial = RunFolder(workspace.runs / record.trials[-1])
    places = {
        "default": (trial.root, target / "artifacts"),
        "best_model": (trial.package, target / "named-outputs" / "best_model"),
    }
    for output in outputs:
        _, destination = places[output]
        if output == "best_model" and state != "Completed":
            raise NotFound(f"a job must be completed to have a best_model, but {name!r} is {state}")
        if destination.exists():
            raise Conflict(f"{destination} must not exist yet; remove it or give another --download-path")
    for output in outputs:
        copy_folder(*places[output], ignored=_NOT_COPIED if output == "default" else ())
    return {output: places[output][1] for output in outputs}


def copy_folder(source: Path, target: Path, ignored: tuple[str, ...] = ()) -> None:
    """Copy a folder so that the copy appears whole or not at all; entries of its top named `ignored` are left out.

    Raises `OSError`, also when `target` exists.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")

    def leave_out(folder: str, names: list[str]) -> set[str]:
        return set(ignored) & set(names) if Path(folder) == source else set()

    try:
        shutil.copytree(source, temporary, ignore=leave_out)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
