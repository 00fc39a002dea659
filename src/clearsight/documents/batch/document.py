"""Azure's batch endpoint and deployment files, parsed with every fault at once.

Keys without a meaning on one's own machine (`environment`, `code_configuration`, `identity`, …) are checked, kept and
shown, and have no effect; of `code_configuration`, the settings file beside the script has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clearsight.documents.batch.schema import (
    BatchEndpointSection,
    LoggingLevel,
    OutputAction,
    RootLayout,
    SettingsLayout,
)
from clearsight.documents.yaml_file import is_remote, model_faults, model_warnings, resolve_paths
from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import given_values, read

__all__ = ["BatchDeployment", "BatchEndpoint", "parse_batch_deployment", "parse_batch_endpoint"]

_WITHOUT_EFFECT: Final = ("code_configuration", "environment")
_EXCEPTIONS: Final = {"code_configuration": ", but for parallel_run_step.settings.json beside the script"}


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """A name under which batch jobs are started, and the deployment that a job runs when it names none."""

    name: str
    """In lower case, as Azure's client reads it."""
    default_deployment: str | None = None
    auth_mode: str = "aad_token"
    description: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] | None = None
    """Kept without effect."""

    def to_document(self) -> dict[str, Any]:
        """The document as plain data; `parse_batch_endpoint` of it gives an equal value."""
        return {
            "name": self.name,
            "description": self.description,
            "tags": dict(self.tags),
            "properties": dict(self.properties),
            "auth_mode": self.auth_mode,
            "defaults": {"deployment_name": self.default_deployment},
            **({} if self.identity is None else {"identity": dict(self.identity)}),
        }


@dataclass(frozen=True, slots=True)
class BatchDeployment:
    """A model behind a batch endpoint, and how its jobs run."""

    name: str
    endpoint_name: str
    """In lower case, as `name`."""
    model: str
    """`azureml:<name>:<version>`, `azureml:<name>@latest`, a URI, or the absolute path of a package."""
    compute: str
    """Name of the machines, without `azureml:`."""
    instance_count: int = 1
    max_concurrency_per_instance: int = 1
    mini_batch_size: int = 10
    """Files of a mini-batch."""
    output_action: OutputAction = "append_row"
    output_file_name: str = "predictions.csv"
    """Name of the file of results; without meaning when `output_action` is `summary_only`."""
    max_retries: int = 3
    """How often a mini-batch is tried again that failed or took too long."""
    timeout_s: float = 30.0
    """Time for a mini-batch."""
    error_threshold: int = -1
    """Files that may fail in the whole input; -1: any number."""
    logging_level: LoggingLevel = "info"
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    inert: Mapping[str, Any] = field(default_factory=dict)
    """Accepted keys whose scripts and images are not used: `code_configuration`, `environment`, and `resources` without
    `instance_count`."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What was assumed or has no effect."""

    def to_document(self) -> dict[str, Any]:
        """The document as plain data, with every default written out, in the layout that `az ml` prints.

        `parse_batch_deployment` of it gives an equal value.
        """
        appends = self.output_action == "append_row"
        timeout_s = int(self.timeout_s) if self.timeout_s.is_integer() else self.timeout_s
        return {
            "name": self.name,
            "endpoint_name": self.endpoint_name,
            "description": self.description,
            "tags": dict(self.tags),
            "properties": dict(self.properties),
            "model": self.model if is_remote(self.model) else {"path": self.model},
            "compute": self.compute,
            "max_concurrency_per_instance": self.max_concurrency_per_instance,
            "mini_batch_size": self.mini_batch_size,
            "output_action": self.output_action,
            **({"output_file_name": self.output_file_name} if appends else {}),
            "retry_settings": {"max_retries": self.max_retries, "timeout": timeout_s},
            "error_threshold": self.error_threshold,
            "logging_level": self.logging_level,
            "environment_variables": dict(self.environment_variables),
            **self.inert,
            "resources": {"instance_count": self.instance_count, **self.inert.get("resources", {})},
        }


def parse_batch_endpoint(document: Mapping[str, Any], subject: str = "batch endpoint") -> BatchEndpoint:
    """Check a batch endpoint file. Raises InvalidDocument that lists every fault."""
    faults: list[Fault] = []
    section = read(BatchEndpointSection, document, "", faults, value_code="BAD_VALUE")
    if section is None or faults:
        raise InvalidDocument(subject, faults)
    return BatchEndpoint(
        name=section.name,
        default_deployment=section.defaults.deployment_name,
        auth_mode=section.auth_mode,
        description=section.description,
        tags=section.tags,
        properties=section.properties,
        identity=section.identity,
    )


def parse_batch_deployment(
    document: Mapping[str, Any], folder: Path | None = None, subject: str = "batch deployment"
) -> BatchDeployment:
    """Check a batch deployment file of either layout. Raises InvalidDocument that lists every fault.

    `folder` is the folder of the file: local paths are relative to it and must exist; None when paths are absolute and
    were checked before. Overrides (`--set`) must already be in `document`, since required keys may come from them.
    """
    if str(document.get("type")).lower() == "pipeline":  # its keys are others
        message = "must be model, the one kind of batch deployment that runs here, but got 'pipeline'"
        raise InvalidDocument(subject, [Fault("BAD_VALUE", "type", message)])
    faults: list[Fault] = []
    section: SettingsLayout | RootLayout | None
    if "type" in document:
        section = read(SettingsLayout, document, "", faults, value_code="BAD_VALUE")
        faults += _joint_faults(document.get("settings"), "settings.", "resources" in document)
    else:
        section = read(RootLayout, document, "", faults, value_code="BAD_VALUE")
        faults += _joint_faults(document, "", False)
    # Local paths are checked also when there are faults, so that one run names everything that is wrong.
    values = resolve_paths(document if section is None or faults else given_values(section), folder, faults)
    if section is not None:
        faults += model_faults(values.get("model"))
    if section is None or faults:
        raise InvalidDocument(subject, faults)
    return _deployment(section, values)


def _joint_faults(settings: Any, path: str, has_resources: bool) -> list[Fault]:
    """Keys of the settings at `path` that exclude each other, in the words of Azure's client."""
    if not isinstance(settings, Mapping):
        return []
    found = []
    if has_resources and settings.get("instance_count") is not None:
        message = "Can't set instance_count when resources is provided."
        found.append(Fault("BAD_VALUE", f"{path}instance_count", message))
    is_summary = str(settings.get("output_action")).strip().lower().replace("_", "") == "summaryonly"
    if is_summary and settings.get("output_file_name") is not None:
        message = "When output_action is set to summary_only, the output_file_name need not to be specified."
        found.append(Fault("BAD_VALUE", f"{path}output_file_name", message))
    return found


def _deployment(section: SettingsLayout | RootLayout, values: Mapping[str, Any]) -> BatchDeployment:
    """The deployment of a faultless section; `values` are its plain data with absolute paths."""
    settings = section.settings if isinstance(section, SettingsLayout) else section
    instance_count = section.resources.instance_count
    if isinstance(section, SettingsLayout) and section.settings.instance_count is not None:
        instance_count = section.settings.instance_count
    model = values["model"]
    inert = {key: values[key] for key in _WITHOUT_EFFECT if key in values}
    resources = {key: value for key, value in values["resources"].items() if key != "instance_count"}
    ignored = [*inert, *(f"resources.{key}" for key in resources)]
    warnings = [f"{key} has no effect here{_EXCEPTIONS.get(key, '')}" for key in ignored]
    if section.compute.startswith("ray:"):
        warnings.append(f"compute {section.compute!r} is not there yet: jobs run on this machine")
    return BatchDeployment(
        name=section.name,
        endpoint_name=section.endpoint_name,
        model=model if isinstance(model, str) else model["path"],
        compute=section.compute.removeprefix("azureml:"),
        instance_count=instance_count,
        max_concurrency_per_instance=settings.max_concurrency_per_instance,
        mini_batch_size=settings.mini_batch_size,
        output_action=settings.output_action,
        output_file_name=settings.output_file_name,
        max_retries=settings.retry_settings.max_retries,
        timeout_s=settings.retry_settings.timeout,
        error_threshold=settings.error_threshold,
        logging_level=settings.logging_level,
        environment_variables={**section.environment_variables, **settings.environment_variables},
        description=section.description,
        tags=section.tags,
        properties=section.properties,
        inert={**inert, **({"resources": resources} if resources else {})},
        warnings=(*warnings, *model_warnings(model)),
    )
