"""The keys of online endpoint and deployment files, and the rule of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from clearsight.documents.deployment.traffic import read_percentages
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
from clearsight.fields import ByShape, Integer, OneOf, Rule, Truth, broken_rule, refused

__all__ = [
    "AuthMode",
    "DeploymentSection",
    "EndpointSection",
    "Probe",
    "RequestSettings",
    "StoredDeploymentSection",
]

AuthMode = Literal["key", "aml_token", "aad_token"]

MAX_INSTANCES: Final = 50
"""Azure's limit per deployment."""


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


Switch = Annotated[Literal["enabled", "disabled"], OneOf(("enabled", "disabled"))]
Traffic = Annotated[Mapping[str, int], _Percentages()]


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

    name: Annotated[str, ResourceName()]
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


@dataclass(frozen=True, slots=True)
class DeploymentSection(AzureSection):
    """A deployment file."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("$schema", "id", "provisioning_state")

    name: Annotated[str, ResourceName(lowers=True)]
    endpoint_name: AzureText
    model: Annotated[AzureText | InlineModel, ByShape()]
    type: Annotated[Literal["managed", "kubernetes"], OneOf(("managed", "kubernetes"))] = "managed"
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    environment_variables: Variables = field(default_factory=dict)
    instance_type: AzureText | None = None
    instance_count: Annotated[int, Integer(1, MAX_INSTANCES)] = 1
    request_settings: RequestSettings = RequestSettings()
    liveness_probe: _LivenessProbe = _LivenessProbe()
    readiness_probe: Probe = Probe()
    scale_settings: _Scale | None = None
    code_configuration: CodeConfiguration | None = None
    environment: Annotated[AzureText | Environment, ByShape()] | None = None
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

    environment_variables: dict[str, ConvertedText] = field(default_factory=dict)
