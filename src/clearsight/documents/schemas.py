"""The JSON Schemas of documents, made of the sections that read them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from clearsight.documents.batch.schema import BatchEndpointSection, RootLayout, SettingsLayout
from clearsight.documents.data_asset import DataAssetSection
from clearsight.documents.deployment.schema import DeploymentSection, EndpointSection
from clearsight.documents.job.document import JobSection
from clearsight.documents.job.parameters import AdvancedSettings, parameters_class
from clearsight.documents.job.search_space import sub_space_class
from clearsight.documents.model import ModelSection
from clearsight.documents.settings.document import ALIASES, INFORMATIONAL, settings_class
from clearsight.fields import SCHEMA_DRAFT, json_schema
from clearsight.tasks import Task

__all__ = ["DOCUMENTS", "document_schema"]

_SECTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "batch-endpoint": BatchEndpointSection,
        "data": DataAssetSection,
        "deployment": DeploymentSection,
        "endpoint": EndpointSection,
        "model": ModelSection,
    }
)
DOCUMENTS: Final = ("job", *_SECTIONS, "batch-deployment", "settings")
"""Names of the documents that have a schema."""


def document_schema(document: str, task: Task | None = None, model_name: str = "") -> dict[str, Any]:
    """The JSON Schema of a kind of document.

    `task` and `model_name` choose the keys of `settings`; a job's schema is for all tasks when there is no task.
    """
    title = f"clearsight {document}"
    if document == "job":
        return _job_schema(title, task)
    if document == "batch-deployment":
        definitions: dict[str, Any] = {}
        layouts = [_part(layout, definitions) for layout in (SettingsLayout, RootLayout)]
        return {"$schema": SCHEMA_DRAFT, "title": title, "oneOf": layouts, "$defs": definitions}
    if document == "settings":
        return _settings_schema(title, task or Task.MULTI_CLASS, model_name)
    return json_schema(_SECTIONS[document], title)


def _settings_schema(title: str, task: Task, model_name: str) -> dict[str, Any]:
    """Other keys are allowed, since readers ignore them with a warning."""
    schema = json_schema(settings_class(task, model_name), title)
    keys = schema["properties"]
    keys |= {alias: keys[name] for alias, name in ALIASES.items() if name in keys}
    keys |= {key: {} for key in INFORMATIONAL}
    return {**schema, "additionalProperties": True}


def _job_schema(title: str, task: Task | None) -> dict[str, Any]:
    schema = json_schema(JobSection, title)
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    by_task = {one.value: _keys_of_task(one, definitions) for one in ([task] if task else Task)}
    if task is not None:
        schema["properties"] |= {"task": {"const": task.value}, **by_task[task.value]}
        return schema
    rules = [
        {"if": {"properties": {"task": {"const": name}}}, "then": {"properties": keys}}
        for name, keys in by_task.items()
    ]
    return {**schema, "allOf": rules}


def _keys_of_task(task: Task, definitions: dict[str, Any]) -> dict[str, Any]:
    """Schemas of the keys whose content depends on the task; what they refer to is added to `definitions`."""
    parameters = _part(parameters_class(task), definitions)
    advanced = {**_part(AdvancedSettings, definitions), "additionalProperties": True}
    parameters["properties"]["advanced_settings"] = {"anyOf": [{"type": "string"}, advanced, {"type": "null"}]}
    spaces = {"type": "array", "items": _part(sub_space_class(task), definitions)}
    return {
        "training_parameters": {"anyOf": [parameters, {"type": "null"}]},
        "search_space": {"anyOf": [spaces, {"type": "null"}]},
    }


def _part(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = json_schema(kind, kind.__name__)
    definitions |= schema.pop("$defs", {})
    del schema["$schema"]
    return schema
