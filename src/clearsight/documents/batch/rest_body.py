"""Bodies of Azure's REST API that start a batch job, read as files for `batch-endpoint invoke`.

The names of keys are compared without case, since Azure's pages and its client differ in it
(https://learn.microsoft.com/azure/machine-learning/how-to-access-data-batch-endpoints-jobs). Unknown keys, which newer
clients may add, are named in a warning.
"""

import contextlib
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from clearsight.documents.batch.invocation import (
    ComputeSection,
    InputSection,
    InvocationSection,
    OutputSection,
    RetrySection,
)
from clearsight.fields import Section

__all__ = ["from_rest_body", "is_rest_body"]

_RENAMED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "inputdata": "inputs",
        "outputdata": "outputs",
        "jobinputtype": "type",
        "joboutputtype": "type",
        "uri": "path",
        "value": "path",  # of a literal, which is refused by its type
        "name": "job_name",
    }
)
"""Keys of a body in lower case whose names in a file are others."""

_WITHOUT_EFFECT: Final = frozenset({"islocal"})
"""Keys that Azure's client always sends."""


def is_rest_body(document: Mapping[str, Any]) -> bool:
    """Whether a document is a body of the REST API: a mapping under `properties`, which files do not have."""
    return isinstance(_lowered(document).get("properties"), Mapping)


def from_rest_body(body: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """The file that says what a body says. Faulty values pass through, for the reader of files to name."""
    given = _lowered(_lowered(body)["properties"])
    experiment = given.pop("properties", None)
    dataset = given.pop("dataset", None)  # of earlier versions
    document: dict[str, Any] = _as_section(given, InvocationSection, "properties", warnings)
    data: dict[str, type[Section]] = {"inputs": InputSection, "outputs": OutputSection}
    for key, section in data.items():
        if isinstance(document.get(key), Mapping):
            document[key] = {
                str(name): _as_section(value, section, f"properties.{key}.{name}", warnings)
                for name, value in document[key].items()
            }
    others: dict[str, type[Section]] = {"retry_settings": RetrySection, "compute": ComputeSection}
    for key, section in others.items():
        if key in document:
            document[key] = _as_section(document[key], section, f"properties.{key}", warnings)
    if isinstance(document.get("retry_settings"), dict):
        _read_duration(document["retry_settings"])
    if isinstance(experiment, Mapping) and "experimentname" in _lowered(experiment):
        document["experiment_name"] = _lowered(experiment)["experimentname"]
    if dataset is not None:
        path = _lowered(dataset).get("path") if isinstance(dataset, Mapping) else dataset
        document.setdefault("inputs", {"dataset": {"path": path}})
    return document


def _lowered(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in mapping.items()}


def _as_section(value: Any, section: type[Section], path: str, warnings: list[str]) -> Any:
    """A mapping with the keys of a section; what is no mapping stays."""
    if not isinstance(value, Mapping):
        return value
    names = {name.replace("_", ""): name for name in section.field_names()}
    found = {}
    for key, item in _lowered(value).items():
        name = names.get(_RENAMED.get(key, key).replace("_", ""))
        if name is not None:
            found[name] = item
        elif key not in _WITHOUT_EFFECT:
            warnings.append(f"{path}.{key}: unknown in a REST body; ignored")
    return found


def _read_duration(retry_settings: dict[str, Any]) -> None:
    """Replace a duration of ISO 8601 (`PT30S`) by seconds; what is none stays, and is a fault."""
    with contextlib.suppress(ValidationError, KeyError):
        duration = TypeAdapter(timedelta).validate_python(retry_settings["timeout"])
        retry_settings["timeout"] = duration.total_seconds()
