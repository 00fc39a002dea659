"""Azure's online endpoint and deployment files, parsed with every fault at once.

Keys and limits follow the YAML references of Azure Machine Learning
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-endpoint-online and
…/reference-yaml-deployment-managed-online). Keys without a meaning on one's own machine (`instance_type`,
`environment`, `identity`, `data_collector`, …) are checked, kept and shown, and have no effect.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from clearsight.documents.deployment.schema import (
    AuthMode,
    DeploymentSection,
    EndpointSection,
    Probe,
    RequestSettings,
    StoredDeploymentSection,
)
from clearsight.documents.deployment.traffic import traffic_faults
from clearsight.documents.yaml_file import model_faults, model_warnings, read_document, resolve_paths
from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import given_values, read

__all__ = [
    "DeploymentDocument",
    "EndpointDocument",
    "Probe",
    "RequestSettings",
    "apply_overrides",
    "parse_deployment",
    "parse_endpoint",
    "read_document",
]

USUAL_TIMEOUT_MS: Final = 90_000


@dataclass(frozen=True, slots=True)
class EndpointDocument:
    """A name, a way to authenticate, and percentages. `inert` holds accepted keys without effect."""

    name: str
    auth_mode: AuthMode = "key"
    description: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    traffic: Mapping[str, int] | None = None
    """Deployment -> percentage without zero entries; None when the file has no `traffic`."""
    mirror_traffic: Mapping[str, int] | None = None
    inert: Mapping[str, Any] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """The document as plain data; `parse_endpoint` of it gives an equal value."""
        return _to_document(self)


@dataclass(frozen=True, slots=True)
class DeploymentDocument:
    """A model behind an endpoint. `warnings` says what was assumed or has no effect."""

    name: str
    endpoint_name: str
    model: str | Mapping[str, Any]
    """`azureml:<name>:<version>`, `azureml:<name>@latest`, or `{path, …}` with an absolute path."""
    instance_type: str | None = None
    instance_count: int = 1
    type: Literal["managed", "kubernetes"] = "managed"
    description: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    request_settings: RequestSettings = field(default_factory=RequestSettings)
    liveness_probe: Probe = field(default_factory=Probe)
    readiness_probe: Probe = field(default_factory=Probe)
    inert: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The document as plain data, with defaults filled in and absolute paths."""
        return _to_document(self)


def _to_document(value: EndpointDocument | DeploymentDocument) -> dict[str, Any]:
    document = asdict(value)
    inert = document.pop("inert")
    document.pop("warnings", None)
    return {key: item for key, item in {**document, **inert}.items() if item is not None}


_ENDPOINT_KEYS: Final = frozenset(EndpointDocument.__dataclass_fields__)
_DEPLOYMENT_KEYS: Final = frozenset(DeploymentDocument.__dataclass_fields__)
_WITHOUT_EFFECT: Final = ("code_configuration", "environment", "scale_settings", "data_collector", "resources")


def parse_endpoint(document: Mapping[str, Any], subject: str = "endpoint") -> EndpointDocument:
    """Check an endpoint file. Raises InvalidDocument that lists every fault."""
    faults: list[Fault] = []
    section = read(EndpointSection, document, "", faults, value_code="BAD_VALUE")
    if section is None or faults:
        raise InvalidDocument(subject, faults)
    values = given_values(section)
    inert = {key: value for key, value in values.items() if key not in _ENDPOINT_KEYS}
    faults = [
        Fault("BAD_VALUE", key, message)
        for key in ("traffic", "mirror_traffic")
        for message in traffic_faults(values.get(key) or {}, mirror=key == "mirror_traffic")
    ]
    if faults:
        raise InvalidDocument(subject, faults)
    return EndpointDocument(**{key: values[key] for key in _ENDPOINT_KEYS & values.keys()}, inert=inert)


def parse_deployment(
    document: Mapping[str, Any], folder: Path | None = None, subject: str = "deployment", *, is_stored: bool = False
) -> DeploymentDocument:
    """Check a deployment file. Raises InvalidDocument that lists every fault.

    `folder` is the folder of the file: local paths are relative to it and must exist; None when paths are absolute and
    were checked before. Overrides (`--set`) must already be in `document`, since required keys may come from them.
    `is_stored` is for a document of the endpoint store, which an earlier version may have accepted.
    """
    faults: list[Fault] = []
    section = read(
        StoredDeploymentSection if is_stored else DeploymentSection, document, "", faults, value_code="BAD_VALUE"
    )
    if section is None or faults:
        # Local paths are checked too, so that one run names everything that is wrong.
        resolve_paths(document, folder, faults)
        raise InvalidDocument(subject, faults)
    values = resolve_paths(given_values(section), folder, faults)
    faults += model_faults(values["model"])
    if section.type == "managed" and section.instance_type is None:
        faults.append(
            Fault("MISSING_KEY", "instance_type", "is required (any name, for example Standard_DS3_v2; no effect here)")
        )
    if section.type == "managed" and section.scale_settings is not None and section.scale_settings.type != "default":
        faults.append(
            Fault("BAD_VALUE", "scale_settings.type", "must be default for a managed deployment; set instance_count")
        )
    if faults:
        raise InvalidDocument(subject, faults)
    inert = {key: value for key, value in values.items() if key not in _DEPLOYMENT_KEYS}
    return DeploymentDocument(
        **{
            **{key: values[key] for key in _DEPLOYMENT_KEYS & values.keys()},
            "request_settings": RequestSettings(**values["request_settings"]),
            "liveness_probe": Probe(**values["liveness_probe"]),
            "readiness_probe": Probe(**values["readiness_probe"]),
        },
        inert=inert,
        warnings=_warnings(document, section),
    )


def _warnings(document: Mapping[str, Any], section: DeploymentSection) -> tuple[str, ...]:
    found = [f"{key} has no effect here" for key in _WITHOUT_EFFECT if document.get(key) and key != "scale_settings"]
    found += model_warnings(document.get("model"))
    if "instance_count" not in document:
        found.append("instance_count is missing; using 1")
    timeout_ms = section.request_settings.request_timeout_ms
    if timeout_ms > USUAL_TIMEOUT_MS:
        found.append(f"request_timeout_ms is {timeout_ms}; parts of Azure allow at most {USUAL_TIMEOUT_MS}")
    return tuple(found)


def apply_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `document` with dotted paths (`request_settings.request_timeout_ms`) set."""
    result = dict(document)
    for path, value in overrides.items():
        *parents, last = path.split(".")
        holder = result
        for depth, key in enumerate(parents):
            inner = holder.get(key) or {}
            if not isinstance(inner, Mapping):
                at = ".".join(parents[: depth + 1])
                raise InvalidDocument("--set", [Fault("BAD_TYPE", path, f"{at} must be a mapping, but is {inner!r}")])
            holder[key] = dict(inner)
            holder = holder[key]
        holder[last] = value
    return result
