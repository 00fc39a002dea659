"""The body that Azure's clients send (`PUT …/jobs/<name>`), turned into the document of a job file.

Shapes: `AutoMLJob` of Azure's REST API and `azure-ai-ml` 1.35. Names are camelCase (`stepLRGamma` among them), enums
CamelCase, durations ISO 8601, expressions text (`uniform(0.001,0.01)`), and a zero in a policy means "not set".
Hyperparameters that are unknown pass through and become faults; other unknown keys, which newer clients may add, are
named in a warning.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from clearsight.documents.job.hyperparameters import HYPERPARAMETERS
from clearsight.tasks import Task

__all__ = ["from_rest_body", "is_rest_body"]

Convert = Callable[[Any, str, list[str]], Any]
"""Turns the value at a key path into the one of a job file, adding warnings."""


def is_rest_body(document: Mapping[str, Any]) -> bool:
    """Whether a document is a REST body and not a job file, whose `properties` are names and text."""
    properties = document.get("properties")
    return isinstance(properties, Mapping) and "jobType" in properties and "task" not in document


def from_rest_body(body: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """The job file that says what a body says. Faulty values pass through, for the reader of job files to name."""
    document: dict[str, Any] = _ENVELOPE(body["properties"], "properties", warnings)
    details = document.pop("taskDetails", {})
    document |= details if isinstance(details, dict) else {}
    name = body.get("name") or str(body.get("id") or "").rpartition("/")[2]
    return {**document, "name": name} if name else document


def _as_it_is(value: Any, path: str, warnings: list[str]) -> Any:
    return value


def _section(names: Mapping[str, tuple[str, Convert]], ignored: tuple[str, ...] = ()) -> Convert:
    """A converter of mappings: wire name -> name in job files, and what to do with the value."""

    def convert(value: Any, path: str, warnings: list[str]) -> Any:
        if not isinstance(value, Mapping):
            return value
        converted = {}
        for key, item in value.items():
            if item is None or key in ignored:
                continue
            if key in names:
                name, inner = names[key]
                converted[name] = inner(item, f"{path}.{key}", warnings)
            else:
                warnings.append(f"{path}.{key}: unknown in a REST body; ignored")
        return converted

    return convert


def _same(*names: str) -> dict[str, tuple[str, Convert]]:
    """CamelCase names of values that need no change."""
    return {_to_camel(name): (name, _as_it_is) for name in names}


def _to_camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _task(value: Any, path: str, warnings: list[str]) -> Any:
    return next((task.value for task in Task if task.wire_name == value), value)


def _job_type(value: Any, path: str, warnings: list[str]) -> Any:
    return "automl" if value == "AutoML" else value


_DURATION: Final = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)
_MINUTES: Final = MappingProxyType({"weeks": 10_080, "days": 1440, "hours": 60, "minutes": 1})


def _minutes(value: Any, path: str, warnings: list[str]) -> Any:
    """Whole minutes of an ISO-8601 duration; seconds are dropped, as Azure's client does when it reads one back."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    parts = {name: int(count) for name, count in match.groupdict().items() if count} if match else {}
    if not parts:
        return value
    return sum(parts.get(name, 0) * minutes for name, minutes in _MINUTES.items()) + parts.get("seconds", 0) // 60


_MODES: Final = MappingProxyType({"ReadOnlyMount": "ro_mount", "ReadWriteMount": "rw_mount"})


def _mode(value: Any, path: str, warnings: list[str]) -> Any:
    return _MODES.get(value, value) if isinstance(value, str) else value


_INPUT: Final = _section(
    {"jobInputType": ("type", _as_it_is), "uri": ("path", _as_it_is), "mode": ("mode", _mode)},
    ignored=("description", "pathOnCompute"),
)
_OUTPUT: Final = _section(
    {"jobOutputType": ("type", _as_it_is), "uri": ("path", _as_it_is), "mode": ("mode", _mode)},
    ignored=("description", "assetName", "assetVersion", "pathOnCompute", "autoDeleteSetting"),
)


def _outputs(value: Any, path: str, warnings: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _OUTPUT(output, f"{path}.{name}", warnings) for name, output in value.items()}


_POLICY_FIELDS: Final = _section(
    {
        "policyType": ("type", _as_it_is),
        **_same("evaluation_interval", "delay_evaluation", "slack_factor", "slack_amount", "truncation_percentage"),
    }
)


def _policy(value: Any, path: str, warnings: list[str]) -> Any:
    fields = _POLICY_FIELDS(value, path, warnings)
    return {name: item for name, item in fields.items() if item != 0} if isinstance(fields, dict) else fields


_BY_PLAIN_NAME: Final = MappingProxyType({name.replace("_", ""): name for name in HYPERPARAMETERS})
_NOT_IN_JOB_FILES: Final = ("checkpointModel", "augmentations")
"""Names of the REST API that Azure's own client cannot set."""


def _hyperparameters(value: Any, path: str, warnings: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    converted = {}
    for key, item in value.items():
        if item is None:
            continue
        if key in _NOT_IN_JOB_FILES:
            warnings.append(f"{path}.{key}: not supported; ignored")
        else:
            converted[_BY_PLAIN_NAME.get(str(key).lower(), _to_snake(str(key)))] = item
    return converted


def _to_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _spaces(value: Any, path: str, warnings: list[str]) -> Any:
    if not isinstance(value, list):
        return value
    return [_hyperparameters(space, f"{path}[{index}]", warnings) for index, space in enumerate(value)]


_LIMITS: Final = _section({**_same("max_trials", "max_concurrent_trials"), "timeout": ("timeout_minutes", _minutes)})
_SWEEP: Final = _section({**_same("sampling_algorithm"), "earlyTermination": ("early_termination", _policy)})
_RESOURCES: Final = _section(
    _same(
        "instance_type",
        "instance_count",
        "max_instance_count",
        "shm_size",
        "locations",
        "docker_args",
        "properties",
    ),
    ignored=("dockerArgsList",),
)
_DETAILS: Final = _section(
    {
        "taskType": ("task", _task),
        **_same("primary_metric", "log_verbosity", "target_column_name", "validation_data_size", "test_data_size"),
        "trainingData": ("training_data", _INPUT),
        "validationData": ("validation_data", _INPUT),
        "testData": ("test_data", _INPUT),
        "limitSettings": ("limits", _LIMITS),
        "sweepSettings": ("sweep", _SWEEP),
        "modelSettings": ("training_parameters", _hyperparameters),
        "searchSpace": ("search_space", _spaces),
    }
)
_ENVELOPE: Final = _section(
    {
        "jobType": ("type", _job_type),
        "taskDetails": ("taskDetails", _DETAILS),
        "computeId": ("compute", _as_it_is),
        **_same("display_name", "description", "experiment_name", "tags", "properties", "environment_id"),
        **_same("environment_variables"),
        "resources": ("resources", _RESOURCES),
        "outputs": ("outputs", _outputs),
    },
    ignored=(
        "componentId",
        "identity",
        "isArchived",
        "notificationSetting",
        "parentJobName",
        "queueSettings",
        "services",
        "status",
    ),
)
