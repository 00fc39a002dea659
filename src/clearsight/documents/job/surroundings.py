"""Machines and outputs of a job: `outputs`, `properties`, `resources`, and keys that only Azure needs.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic_core import PydanticCustomError

from clearsight.fields import AnyMapping, Integer, ListOfText, OneOf, Rule, Section, Text, TextMap, at_key

__all__ = ["NODE_COUNT", "Output", "OutputSection", "Properties", "QueueSection", "ResourcesSection"]

NODE_COUNT: Final = "node_count_per_trial"
"""The property that asks for several machines."""

_OUTPUT_MODES: Final = ("mount", "upload", "rw_mount", "direct")
_OUTPUT_TYPES: Final = ("mlflow_model", "uri_file", "uri_folder", "custom_model", "mltable", "triton_model")


@dataclass(frozen=True, slots=True)
class Output:
    """A named output; only `best_model` means something: a copy of the best trial's package."""

    type: str = "mlflow_model"
    path: str | None = None


@dataclass(frozen=True, slots=True)
class OutputSection(Section):
    """One entry of `outputs`."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("name", "version", "storage_uri", "description")

    type: Annotated[str, OneOf(_OUTPUT_TYPES)] = "mlflow_model"
    path: Annotated[str, Text()] | None = None
    mode: Annotated[str, OneOf(_OUTPUT_MODES)] = "mount"


@dataclass(frozen=True, slots=True)
class Properties(Rule):
    """Text by name; `node_count_per_trial` may be a whole number, although Azure's loader wants text."""

    def read(self, value: Any) -> dict[str, str | None]:
        nodes = value.get(NODE_COUNT) if isinstance(value, Mapping) else None
        if isinstance(nodes, int) and not isinstance(nodes, bool):
            value = {**value, NODE_COUNT: str(nodes)}
        properties = TextMap().read(value)
        if (count := properties.get(NODE_COUNT)) is not None:
            try:
                Integer(1).read(count)
            except PydanticCustomError as error:
                raise at_key(error, NODE_COUNT, count) from None
        return properties

    def json_schema(self) -> dict[str, Any]:
        return {**TextMap().json_schema(), "properties": {NODE_COUNT: Integer(1).json_schema()}}


@dataclass(frozen=True, slots=True)
class ResourcesSection(Section):
    """`resources`, which describes machines to rent; it changes nothing here."""

    instance_type: Annotated[str, Text()] | None = None
    instance_count: Annotated[int, Integer(1)] | None = None
    max_instance_count: Annotated[int, Integer(1)] | None = None
    shm_size: Annotated[str, Text()] | None = None
    locations: Annotated[list[str], ListOfText()] | None = None
    docker_args: Annotated[str | list[str], ListOfText(or_one=True)] | None = None
    properties: Annotated[Mapping[str, Any], AnyMapping()] | None = None


@dataclass(frozen=True, slots=True)
class QueueSection(Section):
    """`queue_settings`, which changes nothing here."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("job_tier", "priority")
