"""The keys of batch endpoint and deployment files, and the rule of each.

Keys follow https://learn.microsoft.com/azure/machine-learning/reference-yaml-endpoint-batch and
…/reference-yaml-deployment-batch. A deployment file has one of two layouts: with `type: model` the settings of its jobs
stand under `settings`, in the older one, which has no `type`, at the root.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic_core import PydanticCustomError

from clearsight.documents.sections import (
    AzureSection,
    AzureText,
    CodeConfiguration,
    ConvertedText,
    Count,
    Environment,
    FreeMapping,
    InlineModel,
    ResourceName,
    Variables,
)
from clearsight.fields import ByShape, Integer, ListOfText, Number, OneOf, Rule, Text, broken_rule, refused

__all__ = [
    "BatchEndpointSection",
    "ErrorThreshold",
    "FileName",
    "LoggingLevel",
    "OutputAction",
    "RetrySettings",
    "RootLayout",
    "SettingsLayout",
]

OutputAction = Literal["append_row", "summary_only"]
LoggingLevel = Literal["warning", "info", "debug"]
ErrorThreshold = Annotated[int, Integer(-1)]
"""Number of files that may fail in the whole input; -1: any number."""

_FAILURES: Final = "failed_files.jsonl"


@dataclass(frozen=True, slots=True)
class _FileName(Rule):
    """The name of a file in a folder that is known already."""

    def read(self, value: Any) -> str:
        name = str(Text().read(value))
        if name in (".", "..") or not set(name).isdisjoint("/\\\0\n\r") or len(name.encode(errors="replace")) > 255:
            raise refused("BAD_VALUE", "must be the name of a file, without a folder, of at most 255 bytes")
        if name == _FAILURES:
            raise refused("BAD_VALUE", f"must not be {_FAILURES}, which lists the files that failed")
        return name

    def json_schema(self) -> dict[str, Any]:
        plain = rf"^(?!\.{{1,2}}$)(?!{_FAILURES}$)(?=.*\S)[^/\\\n\r]+$"
        return {"type": "string", "pattern": plain, "maxLength": 255}


FileName = Annotated[str, _FileName()]


@dataclass(frozen=True, slots=True)
class _Defaults(AzureSection):
    deployment_name: Annotated[str, ResourceName(lowers=True)] | None = None


@dataclass(frozen=True, slots=True)
class BatchEndpointSection(AzureSection):
    """An endpoint file."""

    ignored_keys: ClassVar[tuple[str, ...]] = (
        "$schema",
        "id",
        "location",
        "scoring_uri",
        "openapi_uri",
        "provisioning_state",
    )

    name: Annotated[str, ResourceName(lowers=True)]
    auth_mode: Annotated[str, OneOf(("aad_token",))] = "aad_token"
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    defaults: _Defaults = _Defaults()
    identity: FreeMapping | None = None


@dataclass(frozen=True, slots=True)
class RetrySettings(AzureSection):
    """What is done about a mini-batch that fails or takes too long."""

    max_retries: Annotated[int, Integer(0)] = 3
    timeout: Annotated[float, Number(0, low_open=True)] = 30.0
    """Seconds for one mini-batch."""


@dataclass(frozen=True, slots=True)
class _Resources(AzureSection):
    instance_count: Count = 1
    instance_type: AzureText | None = None
    properties: FreeMapping | None = None
    locations: Annotated[list[str], ListOfText()] | None = None
    shm_size: AzureText | None = None
    max_instance_count: Count | None = None
    docker_args: Annotated[list[str] | str, ListOfText(or_one=True)] | None = None


@dataclass(frozen=True)  # without slots, so that `RootLayout` can have two bases with fields
class _Settings(AzureSection):
    max_concurrency_per_instance: Count = 1
    mini_batch_size: Count = 10
    output_action: Annotated[OutputAction, OneOf(("append_row", "summary_only"))] = "append_row"
    output_file_name: FileName = "predictions.csv"
    retry_settings: RetrySettings = RetrySettings()
    error_threshold: ErrorThreshold = -1
    logging_level: Annotated[LoggingLevel, OneOf(("warning", "info", "debug"))] = "info"
    environment_variables: Variables = field(default_factory=dict)


@dataclass(frozen=True)
class _SettingsBlock(_Settings):
    instance_count: Count | None = None


@dataclass(frozen=True)
class _Deployment(AzureSection):
    ignored_keys: ClassVar[tuple[str, ...]] = ("$schema", "id", "provisioning_state", "creation_context")
    displaced_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of the other layout, and where they belong in this one."""

    name: Annotated[str, ResourceName(lowers=True)]
    endpoint_name: Annotated[str, ResourceName(lowers=True)]
    model: Annotated[AzureText | InlineModel, ByShape()]
    compute: Annotated[str, Text()]
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: dict[str, ConvertedText] = field(default_factory=dict)
    resources: _Resources = _Resources()
    code_configuration: CodeConfiguration | None = None
    environment: Annotated[AzureText | Environment, ByShape()] | None = None
    environment_variables: Variables = field(default_factory=dict)

    @classmethod
    def unknown_key(cls, key: str) -> PydanticCustomError:
        if key in cls.displaced_keys:
            return broken_rule("UNKNOWN_KEY", f"Unknown field. {cls.displaced_keys[key]}")
        return super().unknown_key(key)


@dataclass(frozen=True)
class SettingsLayout(_Deployment):
    """A deployment file with `type: model`."""

    required_keys: ClassVar[tuple[str, ...]] = ("type",)
    displaced_keys: ClassVar[Mapping[str, str]] = {
        key: f"With `type: model` it is settings.{key}" for key in _SettingsBlock.field_names()
    }

    type: Annotated[str, OneOf(("model",))] = "model"
    settings: _SettingsBlock = _SettingsBlock()


@dataclass(frozen=True)
class RootLayout(_Settings, _Deployment):
    """A deployment file without `type`."""

    displaced_keys: ClassVar[Mapping[str, str]] = {
        "settings": "It needs `type: model`; without a type its keys stand at the root",
        "instance_count": "It is resources.instance_count",
    }
