"""The keys of online endpoint and deployment files, and the rule of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import WithJsonSchema
from pydantic_core import PydanticCustomError

from clearsight.documents.deployment.traffic import read_percentages
from clearsight.documents.deployment.variables import VariableName
from clearsight.fields import (
    AnyMapping,
    ByShape,
    Integer,
    OneOf,
    Rule,
    Section,
    Text,
    Truth,
    broken_rule,
    nearest,
    refused,
)

__all__ = [
    "AuthMode",
    "AzureSection",
    "AzureText",
    "DeploymentSection",
    "EndpointSection",
    "FreeMapping",
    "Probe",
    "RequestSettings",
    "StoredDeploymentSection",
]

AuthMode = Literal["key", "aml_token", "aad_token"]

NAME_PATTERN: Final = re.compile(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
MAX_INSTANCES: Final = 50
"""Azure's limit per deployment."""


@dataclass(frozen=True, slots=True)
class _Name(Rule):
    """Azure's rule for the names of endpoints and deployments."""

    lowers: bool = False
    """Whether the name is read in lower case."""

    def read(self, value: Any) -> str:
        name = str(Text(may_be_empty=True).read(value))
        if not NAME_PATTERN.fullmatch(name):
            message = "must be a letter, then letters, digits and hyphens, not ending in one"
            raise broken_rule("BAD_VALUE", f"{message}, but got {name!r}")
        if not 3 <= len(name) <= 32:
            raise broken_rule("BAD_VALUE", f"must have 3 to 32 characters, but {name!r} has {len(name)}")
        return name.lower() if self.lowers else name

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{NAME_PATTERN.pattern}$", "minLength": 3, "maxLength": 32}


@dataclass(frozen=True, slots=True)
class _Percentages(Rule):
    """Deployment -> whole percentage; the sum is checked later."""

    def read(self, value: Any) -> dict[str, int]:
        traffic, faults = read_percentages(value)
        if faults:
            raise broken_rule("BAD_VALUE", "; ".join(faults))
        return traffic

    def json_schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": Integer(0, 100).json_schema()}


@dataclass(frozen=True, slots=True)
class _Quantity(Rule):
    """An amount of a resource of Kubernetes, such as 1 or `0.5Gi`."""

    def read(self, value: Any) -> str | int | float:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise refused("BAD_TYPE", "must be a number or text")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": ["string", "number"]}


FreeMapping = Annotated[Mapping[str, Any], AnyMapping()]
AzureText = Annotated[str, Text(may_be_empty=True)]
VersionText = Annotated[str, Text(may_be_empty=True, converts=True)]
"""Azure's client reads `version: 2` and `version: 2.0` as the texts `2` and `2.0`."""
Count = Annotated[int, Integer(1)]
Switch = Annotated[Literal["enabled", "disabled"], OneOf(("enabled", "disabled"))]
Traffic = Annotated[Mapping[str, int], _Percentages()]


class AzureSection(Section):
    """A section of Azure's files of models, endpoints and deployments, in which null is a value of optional keys."""

    __slots__ = ()
    null_is_absent: ClassVar[bool] = False

    @classmethod
    def unknown_key(cls, key: str) -> PydanticCustomError:
        return broken_rule("UNKNOWN_KEY", f"Unknown field{nearest(key, cls.field_names()) or '.'}")


@dataclass(frozen=True, slots=True)
class Probe(AzureSection):
    """When an instance counts as ready, or must be restarted. Times in seconds.

    Probing starts at once: failures during the first `initial_delay` seconds do not count.
    """

    initial_delay: Count = 10
    period: Count = 10
    timeout: Count = 2
    success_threshold: Count = 1
    failure_threshold: Count = 30


@dataclass(frozen=True, slots=True)
class _LivenessProbe(Probe):
    success_threshold: Annotated[int, Integer(1, 1)] = 1


@dataclass(frozen=True, slots=True)
class RequestSettings(AzureSection):
    """Limits of one deployment."""

    request_timeout_ms: Annotated[int, Integer(1, 180_000)] = 5000
    max_concurrent_requests_per_instance: Count = 1
    max_queue_wait_ms: Annotated[int, Integer(0)] = 500
    """Deprecated by Azure and folded into the timeout: no effect."""


@dataclass(frozen=True, slots=True)
class _InlineModel(AzureSection):
    path: AzureText
    name: AzureText | None = None
    version: VersionText | None = None
    type: Annotated[str, OneOf(("custom_model", "mlflow_model", "triton_model"), strict=True)] = "custom_model"
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    flavors: FreeMapping = field(default_factory=dict)
    stage: AzureText | None = None


@dataclass(frozen=True, slots=True)
class _Code(AzureSection):
    code: AzureText | None = None
    scoring_script: AzureText | None = None


@dataclass(frozen=True, slots=True)
class _Route(AzureSection):
    port: Count
    path: AzureText


@dataclass(frozen=True, slots=True)
class _InferenceRoutes(AzureSection):
    liveness_route: _Route | None = None
    readiness_route: _Route | None = None
    scoring_route: _Route | None = None


@dataclass(frozen=True, slots=True)
class _Build(AzureSection):
    path: AzureText
    dockerfile_path: AzureText | None = None


@dataclass(frozen=True, slots=True)
class _Environment(AzureSection):
    name: AzureText | None = None
    version: VersionText | None = None
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    image: AzureText | None = None
    conda_file: Annotated[str | Mapping[str, Any], AnyMapping(or_text=True)] | None = None
    build: _Build | None = None
    os_type: AzureText | None = None
    datastore: AzureText | None = None
    inference_config: _InferenceRoutes | None = None


@dataclass(frozen=True, slots=True)
class _Scale(AzureSection):
    type: Annotated[str, OneOf(("default", "target_utilization"))] = "default"
    min_instances: Count | None = None
    max_instances: Count | None = None
    polling_interval: Count | None = None
    target_utilization_percentage: Annotated[int, Integer(1, 100)] | None = None


@dataclass(frozen=True, slots=True)
class _Resources(AzureSection):
    requests: dict[str, Annotated[str | float, _Quantity()]] = field(default_factory=dict)
    limits: dict[str, Annotated[str | float, _Quantity()]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndpointSection(AzureSection):
    """An endpoint file."""

    ignored_keys: ClassVar[tuple[str, ...]] = (
        "$schema",
        "id",
        "kind",
        "location",
        "scoring_uri",
        "openapi_uri",
        "provisioning_state",
    )

    name: Annotated[str, _Name()]
    auth_mode: Annotated[AuthMode, OneOf(("key", "aml_token", "aad_token"))] = "key"
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    traffic: Traffic | None = None
    mirror_traffic: Traffic | None = None
    public_network_access: Switch | None = None
    identity: FreeMapping | None = None
    compute: AzureText | None = None
    type: AzureText | None = None


_VALUE: Final = Text(may_be_empty=True, converts=True)
_Value = Annotated[str, _VALUE]
_Variables = Annotated[
    dict[Annotated[str, VariableName()], _Value],
    # Pydantic alone says nothing of names that break the rule.
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": VariableName().json_schema(),
            "additionalProperties": _VALUE.json_schema(),
        }
    ),
]


@dataclass(frozen=True, slots=True)
class DeploymentSection(AzureSection):
    """A deployment file."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("$schema", "id", "provisioning_state")

    name: Annotated[str, _Name(lowers=True)]
    endpoint_name: AzureText
    model: Annotated[AzureText | _InlineModel, ByShape()]
    type: Annotated[Literal["managed", "kubernetes"], OneOf(("managed", "kubernetes"))] = "managed"
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    environment_variables: _Variables = field(default_factory=dict)
    instance_type: AzureText | None = None
    instance_count: Annotated[int, Integer(1, MAX_INSTANCES)] = 1
    request_settings: RequestSettings = RequestSettings()
    liveness_probe: _LivenessProbe = _LivenessProbe()
    readiness_probe: Probe = Probe()
    scale_settings: _Scale | None = None
    code_configuration: _Code | None = None
    environment: Annotated[AzureText | _Environment, ByShape()] | None = None
    model_mount_path: AzureText | None = None
    app_insights_enabled: Annotated[bool, Truth()] | None = None
    egress_public_network_access: Switch | None = None
    data_collector: FreeMapping | None = None
    private_network_connection: Annotated[bool, Truth()] | None = None
    resources: _Resources | None = None


@dataclass(frozen=True, slots=True)
class StoredDeploymentSection(DeploymentSection):
    """A deployment of the endpoint store. An earlier version may have accepted its variables, so they stay as they are.

    Whoever may write to the store may run code anyway.
    """

    environment_variables: dict[str, _Value] = field(default_factory=dict)
