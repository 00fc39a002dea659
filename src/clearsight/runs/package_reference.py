"""References to the packages of a workspace, which stay right when the workspace is moved or copied."""

import re
from pathlib import Path
from typing import Final

from clearsight.runs.workspace import Workspace

__all__ = ["folder_of", "is_reference", "moved_folder", "reference_of"]

_REGISTERED: Final = re.compile(r"azureml:([^:@/]+):([^:@/]+)")
_OF_RUN: Final = re.compile(r"runs:/([^/]+)/outputs/mlflow-model")


def is_reference(model: str) -> bool:
    """Whether the `model` of a deployment refers to a package of the workspace; a path does not."""
    return model.startswith(("azureml:", "runs:/"))


def reference_of(folder: Path, workspace: Workspace) -> str:
    """`azureml:<name>:<version>` or `runs:/<run>/outputs/mlflow-model`; of a package elsewhere, its absolute path."""
    inside = folder.relative_to(workspace.root).parts if folder.is_relative_to(workspace.root) else ()
    return _reference_of_parts(inside) or str(folder)


def _reference_of_parts(inside: tuple[str, ...]) -> str | None:
    """The reference to a folder whose path from the root of a workspace has these parts; None when it is none."""
    match inside:
        case ("models", name, version, "mlflow-model"):
            return f"azureml:{name}:{version}"
        case ("runs", run, "outputs", "mlflow-model"):
            return f"runs:/{run}/outputs/mlflow-model"
    return None


def folder_of(reference: str, workspace: Workspace) -> Path:
    """The folder, which need not exist, of what `reference_of` returned."""
    if match := _REGISTERED.fullmatch(reference):
        return workspace.models / match[1] / match[2] / "mlflow-model"
    if match := _OF_RUN.fullmatch(reference):
        return workspace.runs / match[1] / "outputs" / "mlflow-model"
    return Path(reference)


def moved_folder(folder: Path, workspace: Workspace) -> Path:
    """Where a package lies now that lay in `folder` when the workspace was elsewhere."""
    reference = _reference_of_parts(folder.parts[-4:])
    return folder if reference is None else folder_of(reference, workspace)
