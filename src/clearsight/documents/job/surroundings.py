"""What a job says about its surroundings: `outputs`, `properties`, `resources`, and keys that only Azure needs.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from clearsight.documents.section import BadValue, Reader, Section, integer, one_of, text, text_map

__all__ = ["Output", "check_resources", "ignore_what_only_azure_needs", "read_outputs", "read_properties"]

_OUTPUT_MODES: Final = ("mount", "upload", "rw_mount", "direct")
_OUTPUT_TYPES: Final = ("mlflow_model", "uri_file", "uri_folder", "custom_model", "mltable", "triton_model")


@dataclass(frozen=True, slots=True)
class Output:
    """A named output; only `best_model` means something: a copy of the best trial's package."""

    type: str = "mlflow_model"
    path: str | None = None


def read_outputs(top: Section, warnings: list[str]) -> dict[str, Output]:
    """Read `outputs`; a name with nothing under it is an output with the defaults."""
    section = top.mapping("outputs")
    outputs: dict[str, Output] = {}
    if section is None:
        return outputs
    for name in section.names():
        if section.raw(name) is None:
            outputs[name] = Output()
        elif (entry := section.mapping(name)) is not None:
            kind = entry.take("type", one_of(_OUTPUT_TYPES)) or "mlflow_model"
            path = entry.take("path", text)
            entry.take("mode", one_of(_OUTPUT_MODES))
            entry.ignore("name", "version", "storage_uri", "description")
            entry.finish()
            outputs[name] = Output(kind, path)
        if name != "best_model":
            warnings.append(f"outputs.{name}: image jobs have one output, best_model; ignored")
    return outputs


def read_properties(top: Section, warnings: list[str]) -> dict[str, str | None]:
    """Read `properties`; `node_count_per_trial` may be a whole number, although Azure's loader wants text."""
    value = top.raw("properties")
    nodes = value.get("node_count_per_trial") if isinstance(value, Mapping) else None
    if isinstance(nodes, int) and not isinstance(nodes, bool):
        value = {**value, "node_count_per_trial": str(nodes)}
    properties = {} if value is None else top.read("properties", value, text_map) or {}
    if properties.get("node_count_per_trial") is not None:
        count = top.read("properties.node_count_per_trial", properties["node_count_per_trial"], integer(1))
        if count is not None and count > 1:
            warnings.append(
                f"properties.node_count_per_trial: {count} machines were asked for; this machine is used alone"
            )
    return properties


def check_resources(top: Section) -> None:
    """Check `resources`, which describes machines to rent; nothing of it is used here."""
    section = top.mapping("resources")
    if section is None:
        return
    section.take("instance_type", text)
    section.take("instance_count", integer(1))
    section.take("max_instance_count", integer(1))
    section.take("shm_size", text)
    section.take("locations", _texts)
    section.take("docker_args", _text_or_texts)
    section.mapping("properties")
    section.finish()


def ignore_what_only_azure_needs(top: Section) -> None:
    """Accept `queue_settings`, `identity`, `environment_id` and `services` in their shapes, and forget them."""
    queue = top.mapping("queue_settings")
    if queue is not None:
        queue.ignore("job_tier", "priority")
        queue.finish()
    top.mapping("identity")
    top.mapping("services")
    top.take("environment_id", text)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadValue("BAD_TYPE", "must be a list of text")
    return value


def _text_or_texts(value: Any) -> str | list[str]:
    read: Reader[Any] = text if isinstance(value, str) else _texts
    result: str | list[str] = read(value)
    return result
