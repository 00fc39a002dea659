"""The YAML schema of online endpoint and deployment files, and its faults in plain words."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from clearsight.documents.deployment.traffic import read_percentages
from clearsight.errors import Fault, InvalidDocument

__all__ = ["AuthMode", "DeploymentSection", "EndpointSection", "validate"]

AuthMode = Literal["key", "aml_token", "aad_token"]

NAME_PATTERN: Final = re.compile(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
MAX_INSTANCES: Final = 50
"""Azure's limit per deployment."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def _auth_mode(value: Any) -> Any:
    modes = {"key": "key", "amltoken": "aml_token", "aadtoken": "aad_token"}
    return modes.get(value.replace("_", "").lower(), value) if isinstance(value, str) else value


def _name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(f"must be a letter, then letters, digits and hyphens, not ending in one, but got {value!r}")
    if not 3 <= len(value) <= 32:
        raise ValueError(f"must have 3 to 32 characters, but {value!r} has {len(value)}")
    return value


def _percentages(value: Any) -> Any:
    traffic, faults = read_percentages(value)
    if faults:
        raise ValueError("; ".join(faults))
    return traffic


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Name = Annotated[str, AfterValidator(_name)]
EitherWay = Annotated[Literal["enabled", "disabled"], BeforeValidator(_lowered)]
Traffic = Annotated[dict[str, int], BeforeValidator(_percentages)]
FreeMap = dict[str, Any]
Texts = Annotated[
    dict[str, str],
    BeforeValidator(
        lambda value: (
            {key: item if isinstance(item, str) else _text(item) for key, item in value.items()}
            if isinstance(value, dict)
            else value
        )
    ),
]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class SchemaSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True)


class _ProbeSection(SchemaSection):
    initial_delay: Count = 10
    period: Count = 10
    timeout: Count = 2
    success_threshold: Count = 1
    failure_threshold: Count = 30


class _LivenessSection(_ProbeSection):
    success_threshold: Annotated[Count, Field(le=1)] = 1


class _RequestSection(SchemaSection):
    request_timeout_ms: Annotated[Count, Field(le=180_000)] = 5000
    max_concurrent_requests_per_instance: Count = 1
    max_queue_wait_ms: Annotated[int, BeforeValidator(_no_bool), Field(ge=0)] = 500


class _InlineModel(SchemaSection):
    path: str
    name: str | None = None
    version: str | None = None
    type: Literal["custom_model", "mlflow_model", "triton_model"] = "custom_model"
    description: str | None = None
    tags: FreeMap = {}
    properties: FreeMap = {}
    flavors: FreeMap = {}
    stage: str | None = None


class _Code(SchemaSection):
    code: str
    scoring_script: str


class _Route(SchemaSection):
    port: Count
    path: str


class _InferenceRoutes(SchemaSection):
    liveness_route: _Route | None = None
    readiness_route: _Route | None = None
    scoring_route: _Route | None = None


class _Build(SchemaSection):
    path: str
    dockerfile_path: str | None = None


class _Environment(SchemaSection):
    name: str | None = None
    version: str | None = None
    description: str | None = None
    tags: FreeMap = {}
    properties: FreeMap = {}
    image: str | None = None
    conda_file: str | FreeMap | None = None
    build: _Build | None = None
    os_type: str | None = None
    datastore: str | None = None
    inference_config: _InferenceRoutes | None = None


class _Scale(SchemaSection):
    type: Annotated[Literal["default", "target_utilization"], BeforeValidator(_lowered)] = "default"
    min_instances: Count | None = None
    max_instances: Count | None = None
    polling_interval: Count | None = None
    target_utilization_percentage: Annotated[Count, Field(le=100)] | None = None


class _Resources(SchemaSection):
    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class EndpointSection(SchemaSection):
    schema_: str | None = Field(default=None, alias="$schema")
    name: Name
    auth_mode: Annotated[AuthMode, BeforeValidator(_auth_mode)] = "key"
    description: str | None = None
    tags: FreeMap = {}
    properties: FreeMap = {}
    traffic: Traffic | None = None
    mirror_traffic: Traffic | None = None
    public_network_access: EitherWay | None = None
    identity: FreeMap | None = None
    compute: str | None = None
    location: str | None = None
    id: str | None = None
    kind: str | None = None
    type: str | None = None
    scoring_uri: str | None = None
    openapi_uri: str | None = None
    provisioning_state: str | None = None


class DeploymentSection(SchemaSection):
    schema_: str | None = Field(default=None, alias="$schema")
    name: Annotated[Name, BeforeValidator(_lowered)]
    endpoint_name: str
    model: str | _InlineModel
    type: Annotated[Literal["managed", "kubernetes"], BeforeValidator(_lowered)] = "managed"
    description: str | None = None
    tags: FreeMap = {}
    properties: FreeMap = {}
    environment_variables: Texts = {}
    instance_type: str | None = None
    instance_count: Annotated[Count, Field(le=MAX_INSTANCES)] = 1
    request_settings: _RequestSection = _RequestSection()
    liveness_probe: _LivenessSection = _LivenessSection()
    readiness_probe: _ProbeSection = _ProbeSection()
    scale_settings: _Scale | None = None
    code_configuration: _Code | None = None
    environment: str | _Environment | None = None
    model_mount_path: str | None = None
    app_insights_enabled: bool | None = None
    egress_public_network_access: EitherWay | None = None
    data_collector: FreeMap | None = None
    private_network_connection: bool | None = None
    resources: _Resources | None = None
    id: str | None = None
    provisioning_state: str | None = None


AnySection = TypeVar("AnySection", bound=SchemaSection)


def validate(model: type[AnySection], document: Mapping[str, Any], subject: str) -> AnySection:
    """Check a document against a section. Raises InvalidDocument that lists every fault with its key path."""
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        entries = error.errors(include_url=False, include_context=False)
        # A union (`model`, `environment`) reports a fault per member: those of the member that fits the value count.
        faults = {
            (fault.target, fault.message): fault
            for entry in entries
            if (fault := _fault(model, document, entry)) is not None
        }
        raise InvalidDocument(subject, list(faults.values())) from None


def _fault(model: type[BaseModel], document: Mapping[str, Any], entry: Any) -> Fault | None:
    """One entry of pydantic as a fault; None when it speaks of a union member that was not meant."""
    location: tuple[int | str, ...] = entry["loc"]
    fields, path = model.model_fields, []
    value: Any = document
    for part in map(str, location):
        if isinstance(value, Mapping) and (part in value or part in fields or entry["type"] == "missing"):
            path.append(part)
            nested = _section_of(fields[part].annotation) if part in fields else None
            value, fields = value.get(part), nested.model_fields if nested else {}
        elif isinstance(value, Mapping) and part == "str":
            return None  # the text member of a union, but a mapping came
        elif not isinstance(value, Mapping) and part.startswith("_"):
            return None  # the mapping member of a union, but something else came
    target = ".".join(path)
    match entry["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(path[-1], _keys_at(model, path[:-1]), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return Fault("UNKNOWN_KEY", target, f"Unknown field{hint or '.'}")
        case "missing":
            return Fault("MISSING_KEY", target, "is required")
        case _:
            message = entry["msg"].removeprefix("Value error, ")
            if entry["type"] != "value_error":
                message = f"{message[0].lower()}{message[1:]}, but got {entry['input']!r}"
            return Fault("BAD_VALUE", target, message)


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        nested = _section_of(model.model_fields[part].annotation) if part in model.model_fields else None
        if nested is None:
            return []
        model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as `str | Section | None`; None when there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section_of(part))), None)
