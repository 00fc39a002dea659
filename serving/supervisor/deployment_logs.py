"""The log of a deployment: what TorchServe and its workers wrote, one file per process."""

from pathlib import Path

from clearsight.runs.workspace import Workspace
from clearsight.serving.management.store import DeploymentRecord

__all__ = ["log_file", "read_logs"]


def log_file(workspace: Workspace, record: DeploymentRecord) -> Path:
    """The file that the process of `record.generation` writes; older parts end in `.1`, `.2`."""
    name = f"{record.document.endpoint_name}--{record.name}-{record.generation}.log"
    return workspace.logs / "deployments" / name


def read_logs(workspace: Workspace, record: DeploymentRecord, num_lines: int) -> str:
    """The last lines of the newest process, at most `num_lines`; empty when it has written none."""
    file = log_file(workspace, record)
    parts = [part for part in (file.with_name(f"{file.name}.1"), file) if part.exists()]
    lines = [line for part in parts for line in part.read_text(errors="replace").splitlines()]
    return "".join(f"{line}\n" for line in lines[max(0, len(lines) - num_lines) :])
