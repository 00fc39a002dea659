"""YAML files of models, endpoints and deployments: reading one, and the paths and references in it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from clearsight.documents.references import local_reference
from clearsight.errors import Fault, InvalidDocument

__all__ = ["is_remote", "model_faults", "model_warnings", "read_document", "resolve_paths"]

_REMOTE: Final = re.compile(r"(azureml:|[a-z][a-z0-9+.-]*://|runs:/)", re.IGNORECASE)


def read_document(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping. Raises InvalidDocument."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InvalidDocument(str(file), [Fault("UNREADABLE", str(file), f"must be a YAML file: {reason}")]) from None
    if not isinstance(document, dict):
        raise InvalidDocument(
            str(file), [Fault("BAD_TYPE", str(file), f"must hold a mapping, but got {type(document).__name__}")]
        )
    return {str(key): value for key, value in document.items()}


def is_remote(path: str) -> bool:
    """Whether a path is a reference or a URI, and so no path of the local file system."""
    return _REMOTE.match(path) is not None


def model_faults(model: Any) -> list[Fault]:
    """The fault of a `model` of a deployment that is text but no reference; empty when there is none."""
    if not isinstance(model, str) or is_remote(model):
        return []
    message = "must be azureml:<name>:<version>, azureml:<name>@latest or {path: <folder>}"
    return [Fault("BAD_VALUE", "model", f"{message}, but got {model!r}")]


def model_warnings(model: Any) -> list[str]:
    """What to say of a `model` that Azure would look for in a registry or workspace other than the one here."""
    asset = local_reference(model) if isinstance(model, str) else None
    return [] if asset is None else [f"model is read as {asset} of this workspace, the only registry here"]


def resolve_paths(document: Mapping[str, Any], folder: Path | None, faults: list[Fault]) -> dict[str, Any]:
    """A copy of a deployment's document with absolute local paths; the fault of a model that does not exist is added.

    Paths are relative to `folder`; None leaves them as they are.
    """
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in document.items()}
    if folder is None:
        return values
    for section, key in (("model", "path"), ("code_configuration", "code"), ("environment", "conda_file")):
        holder = values.get(section)
        if not isinstance(holder, dict):
            continue
        path = holder.get(key)
        if not isinstance(path, str) or is_remote(path):
            continue
        resolved = (folder / path).resolve()
        if section == "model" and not resolved.exists():  # the others have no effect
            faults.append(Fault("MISSING_FILE", f"{section}.{key}", f"must exist, but there is no {resolved}"))
        holder[key] = str(resolved)
    return values
