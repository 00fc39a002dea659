"""Azure's job file for image tasks (`type: automl`), read with every fault at once.

Keys: https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification and its three
sister pages. The reader accepts what Azure's loader accepts; where that differs from the pages, the loader counts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from clearsight.errors import Fault, InvalidDocument
from clearsight.jobs.hyperparameters import Value
from clearsight.jobs.parameters import (
    AdvancedSettings,
    check_parameters,
    groups_of,
    read_advanced_settings,
    read_parameters,
)
from clearsight.jobs.search_space import SubSpace, read_search_space
from clearsight.jobs.section import BadValue, Section, number, one_of, text, text_map
from clearsight.jobs.sweep import Limits, Sweep, check_sweep, read_limits, read_sweep
from clearsight.tasks import Task

__all__ = ["DataInput", "DataSection", "Job", "JobReading", "Output", "load_document", "parse_job", "read_job"]

JOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")
"""Azure's and MLflow's rule for run ids, with room for `_HD_<n>`."""

_VERBOSITIES: Final = ("not_set", "debug", "info", "warning", "error", "critical")
_INPUT_MODES: Final = ("direct", "download", "ro_mount", "eval_mount", "eval_download")
_OUTPUT_MODES: Final = ("mount", "upload", "rw_mount", "direct")
_OUTPUT_TYPES: Final = ("mlflow_model", "uri_file", "uri_folder", "custom_model", "mltable", "triton_model")
_RESOURCES: Final = (
    "instance_type",
    "instance_count",
    "shm_size",
    "locations",
    "max_instance_count",
    "docker_args",
    "properties",
)
_SET_BY_THE_SERVICE: Final = ("id", "status", "creation_context", "log_files")
_METRICS_OF_OTHER_JOBS: Final = (
    "accuracy",
    "auc_weighted",
    "norm_macro_recall",
    "average_precision_score_weighted",
    "precision_score_weighted",
)


@dataclass(frozen=True, slots=True)
class DataInput:
    """A data folder as the job names it: a path relative to the job file, a URL, or `azureml:<name>:<version>`."""

    path: str


@dataclass(frozen=True, slots=True)
class DataSection:
    """Everything a job says about its data."""

    task: Task
    target_column: str
    training: DataInput
    validation: DataInput | None = None
    validation_size: float | None = None
    """Share of the training records, in (0, 1), held out when there is no validation input; None: Azure's 0.2."""


@dataclass(frozen=True, slots=True)
class Output:
    """A named output; only `best_model` means something: a copy of the best trial's package."""

    type: str = "mlflow_model"
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job file, checked. `parameters` holds what the user fixed, without `advanced_settings`."""

    data: DataSection
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    experiment_name: str | None = None
    """None: the name of the working directory."""
    tags: Mapping[str, str | None] = field(default_factory=dict)
    properties: Mapping[str, str | None] = field(default_factory=dict)
    compute: str = "local"
    environment_variables: Mapping[str, str | None] = field(default_factory=dict)
    """Passed to trial processes."""
    log_verbosity: str = "info"
    limits: Limits = field(default_factory=Limits)
    parameters: Mapping[str, Value] = field(default_factory=dict)
    advanced: AdvancedSettings = field(default_factory=AdvancedSettings)
    sweep: Sweep | None = None
    search_space: tuple[SubSpace, ...] = ()
    outputs: Mapping[str, Output] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return self.data.task


@dataclass(frozen=True, slots=True)
class JobReading:
    """What reading a document yields. `job` is None when there are faults, `data` when its own part has some."""

    job: Job | None
    data: DataSection | None
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def load_document(file: Path) -> dict[str, Any]:
    """Load a job file as plain data. Raises `InvalidDocument` when it is missing or no YAML mapping."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InvalidDocument(str(file), [Fault("MISSING_KEY", str(file), "the job file does not exist")]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidDocument(
            str(file), [Fault("BAD_TYPE", str(file), f"must be a YAML file, but: {reason}")]
        ) from error
    if not isinstance(document, dict):
        fault = Fault("BAD_TYPE", str(file), f"must hold a YAML mapping, but got {type(document).__name__}")
        raise InvalidDocument(str(file), [fault])
    return document


def parse_job(document: Mapping[str, Any], subject: str = "job") -> Job:
    """Read a document that must be free of faults. Raises `InvalidDocument` with all of them."""
    reading = read_job(document)
    if reading.job is None:
        raise InvalidDocument(subject, reading.faults)
    return reading.job


def read_job(document: Mapping[str, Any]) -> JobReading:
    """Read a document, collecting every fault and warning. No file is opened."""
    faults: list[Fault] = []
    warnings: list[str] = []
    top = Section(document, "", faults)
    top.ignore("$schema", "queue_settings", "identity", "environment_id", *_SET_BY_THE_SERVICE)
    _check_type(top)
    task = _read_task(top)
    data = _read_data(top, task, warnings)
    _check_metric(top, task)
    _check_resources(top)
    name = top.take("name", _job_name)
    texts = {key: top.take(key, text) for key in ("display_name", "description", "experiment_name")}
    tags = top.take("tags", text_map) or {}
    properties = _read_properties(top, warnings)
    compute = top.take("compute", text) or "local"
    variables = top.take("environment_variables", text_map) or {}
    verbosity = top.take("log_verbosity", one_of(_VERBOSITIES)) or "info"
    outputs = _read_outputs(top, warnings)
    limits = read_limits(top.mapping("limits"))
    has_sweep = top.raw("sweep") is not None
    sweep = read_sweep(top.mapping("sweep"))
    parameters: dict[str, Value] = {}
    advanced = AdvancedSettings()
    spaces: tuple[SubSpace, ...] = ()
    if task is not None:  # the names that are legal depend on the task
        section = top.mapping("training_parameters")
        parameters = read_parameters(section, task)
        advanced = read_advanced_settings(section, task, warnings)
        if (space := top.raw("search_space")) is not None:
            spaces = read_search_space(space, groups_of(task), faults)
        check_parameters(task, parameters, spaces, faults, warnings)
    check_sweep(sweep, has_sweep, spaces, top, warnings)
    top.ignore("training_parameters", "search_space", "sweep")
    top.finish()
    if faults or data is None:
        return JobReading(None, data, tuple(faults), tuple(warnings))
    job = Job(
        data=data,
        name=name,
        **texts,
        tags=tags,
        properties=properties,
        compute=compute,
        environment_variables=variables,
        log_verbosity=verbosity,
        limits=limits,
        parameters=parameters,
        advanced=advanced,
        sweep=sweep,
        search_space=spaces,
        outputs=outputs,
    )
    return JobReading(job, data, (), tuple(warnings))


def _check_type(top: Section) -> None:
    kind = top.raw("type")
    if kind is None:
        top.fault("MISSING_KEY", "type", "is required; for image jobs it is automl")
    elif kind != "automl":
        hint = "; submit the automl node of a pipeline as a job of its own" if kind == "pipeline" else ""
        top.fault("BAD_ENUM", "type", f"must be automl, in lower case, but got {kind!r}{hint}")


def _read_task(top: Section) -> Task | None:
    value = top.take("task", text, required=True)
    if value is None:
        return None
    try:
        return Task(value)
    except ValueError:
        top.fault("BAD_ENUM", "task", f"must be one of {', '.join(task.value for task in Task)}, but got {value!r}")
        return None


def _check_metric(top: Section, task: Task | None) -> None:
    value = top.take("primary_metric", text)
    if value is None or task is None:
        return
    plain = value.strip().lower().replace("_", "")
    if plain == task.primary_metric.replace("_", ""):
        return
    known = plain in [metric.replace("_", "") for metric in _METRICS_OF_OTHER_JOBS]
    reason = "is not supported for image tasks" if known else "is unknown"
    top.fault("BAD_ENUM", "primary_metric", f"must be {task.primary_metric} for {task.value}; {value!r} {reason}")


def _read_data(top: Section, task: Task | None, warnings: list[str]) -> DataSection | None:
    target = top.take("target_column_name", text, required=True)
    training = _read_input(top, "training_data", required=True)
    validation = _read_input(top, "validation_data")
    size = top.take("validation_data_size", number(0, 1, low_open=True, high_open=True))
    if size is not None and validation is not None:
        warnings.append("validation_data_size: has no effect beside validation_data")
    for key in ("test_data", "test_data_size"):
        if top.raw(key) is not None:
            warnings.append(f"{key}: Azure's image jobs do not use it; ignored")
    if task is None or target is None or training is None:
        return None
    return DataSection(task, target, training, validation, size)


def _read_input(top: Section, key: str, *, required: bool = False) -> DataInput | None:
    value = top.raw(key)
    if value is None:
        if required:
            top.fault("MISSING_KEY", key, "is required")
        return None
    if isinstance(value, str) and value.strip().startswith("${{"):
        top.fault("BAD_TYPE", key, f"{value!r} is a binding of a pipeline; give the data itself: {{path: FOLDER}}")
        return None
    section = top.mapping(key)
    if section is None:
        return None
    section.take("type", one_of(("mltable",)))
    section.take("mode", one_of(_INPUT_MODES))
    path = section.take("path", text, required=True)
    section.ignore("datastore", "path_on_compute", "description")
    section.finish()
    return None if path is None else DataInput(path)


def _check_resources(top: Section) -> None:
    section = top.mapping("resources")
    if section is not None:
        section.ignore(*_RESOURCES)
        section.finish()


def _read_properties(top: Section, warnings: list[str]) -> dict[str, str | None]:
    value = top.raw("properties")
    if isinstance(value, Mapping) and isinstance(value.get("node_count_per_trial"), int):
        value = {**value, "node_count_per_trial": str(value["node_count_per_trial"])}
    properties = {} if value is None else top.read("properties", value, text_map) or {}
    nodes = properties.get("node_count_per_trial")
    if nodes is not None and not nodes.isdigit():
        top.fault("BAD_TYPE", "properties.node_count_per_trial", f"must be a whole number, but got {nodes!r}")
    elif nodes is not None and int(nodes) > 1:
        warnings.append(f"properties.node_count_per_trial: {nodes} machines were asked for; this machine is used alone")
    return properties


def _read_outputs(top: Section, warnings: list[str]) -> dict[str, Output]:
    section = top.mapping("outputs")
    outputs: dict[str, Output] = {}
    if section is None:
        return outputs
    for name in section.present():
        entry = section.mapping(name)
        if entry is None:
            continue
        kind = entry.take("type", one_of(_OUTPUT_TYPES)) or "mlflow_model"
        path = entry.take("path", text)
        entry.take("mode", one_of(_OUTPUT_MODES))
        entry.ignore("name", "version", "storage_uri")
        entry.finish()
        outputs[name] = Output(kind, path)
        if name != "best_model":
            warnings.append(f"outputs.{name}: image jobs have one output, best_model; ignored")
    return outputs


def _job_name(value: Any) -> str:
    if not isinstance(value, str) or not JOB_NAME.fullmatch(value):
        raise BadValue("BAD_TYPE", "must be 1 to 200 letters, digits, - and _, beginning with a letter or digit")
    return value
