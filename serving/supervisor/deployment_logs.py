"""The log of a deployment: what TorchServe and its workers wrote, one file per process."""

from pathlib import Path

from clearsight.runs.workspace import Workspace
from clearsight.serving.management.store import DeploymentRecord

__all__ = ["log_file", "read_logs"]


def log_file(workspace: Workspace, record: DeploymentRecord, index: int = 0) -> Path:
    """The file that server process `index` of `record.generation` writes; older parts end in `.1`, `.2`."""
    name = f"{record.document.endpoint_name}--{record.name}-{record.generation}"
    return workspace.logs / "deployments" / (f"{name}.{index}.log" if index else f"{name}.log")


def read_logs(workspace: Workspace, record: DeploymentRecord, num_lines: int) -> str:
    """The last lines of each process of the newest generation, at most `num_lines` of each; empty when it has none.

    Where there are several processes, each begins with a line that names its file, as `tail` prints it.
    """
    first = log_file(workspace, record)
    others = sorted(first.parent.glob(f"{first.stem}.*.log"), key=lambda file: int(file.stem.rpartition(".")[2]))
    if not others:
        return _tail(first, num_lines)
    return "".join(f"==> {file.name} <==\n{_tail(file, num_lines)}" for file in (first, *others))


def _tail(file: Path, num_lines: int) -> str:
    parts = [part for part in (file.with_name(f"{file.name}.1"), file) if part.exists()]
    lines = [line for part in parts for line in part.read_text(errors="replace").splitlines()]
    return "".join(f"{line}\n" for line in lines[max(0, len(lines) - num_lines) :])
