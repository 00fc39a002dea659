"""Azure's job file for image tasks (`type: automl`), read with every fault at once.

Keys: https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification and its three
sister pages. The reader accepts what Azure's loader accepts; where that differs from the pages, the loader counts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from clearsight.documents.job.data_section import DataSection, read_data
from clearsight.documents.job.hyperparameters import Value
from clearsight.documents.job.model_rules import check_parameters
from clearsight.documents.job.parameters import AdvancedSettings, read_advanced_settings, read_parameters
from clearsight.documents.job.rest_body import from_rest_body, is_rest_body
from clearsight.documents.job.search_space import SubSpace, read_search_space
from clearsight.documents.job.surroundings import (
    Output,
    check_resources,
    ignore_what_only_azure_needs,
    read_outputs,
    read_properties,
)
from clearsight.documents.job.sweep import JobLimits, Sweep, check_sweep, read_limits, read_sweep
from clearsight.documents.section import BadValue, Section, any_text, one_of, text, text_map
from clearsight.errors import Fault, InvalidDocument
from clearsight.tasks import Task

__all__ = ["JobDocument", "JobReading", "load_document", "parse_job", "read_job"]

JOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")
"""Azure's and MLflow's rule for run ids, with room for `_HD_<n>`."""

_VERBOSITIES: Final = ("not_set", "debug", "info", "warning", "error", "critical")
_SET_BY_THE_SERVICE: Final = ("id", "status", "creation_context", "log_files")
_METRICS_OF_OTHER_JOBS: Final = (
    "accuracy",
    "auc_weighted",
    "norm_macro_recall",
    "average_precision_score_weighted",
    "precision_score_weighted",
)


@dataclass(frozen=True, slots=True)
class JobDocument:
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
    """Name of the machines, without `azureml:`; not used on one machine."""
    environment_variables: Mapping[str, str | None] = field(default_factory=dict)
    """Passed to trial processes."""
    log_verbosity: str = "info"
    limits: JobLimits = field(default_factory=JobLimits)
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

    job: JobDocument | None
    data: DataSection | None
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def load_document(file: Path, warnings: list[str] | None = None) -> dict[str, Any]:
    """Load a job file as plain data with the keys of Azure's YAML, which it may hold, or a body of Azure's REST API.

    What a body holds beyond that is named in `warnings`. Raises `InvalidDocument` when the file is missing or holds no
    mapping.
    """
    try:
        document = _parse(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InvalidDocument(str(file), [Fault("MISSING_KEY", str(file), "the job file does not exist")]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidDocument(
            str(file), [Fault("BAD_TYPE", str(file), f"must be a YAML or JSON file, but: {reason}")]
        ) from error
    if not isinstance(document, dict):
        fault = Fault("BAD_TYPE", str(file), f"must hold a mapping, but got {type(document).__name__}")
        raise InvalidDocument(str(file), [fault])
    if is_rest_body(document):
        return from_rest_body(document, [] if warnings is None else warnings)
    return document


def _parse(content: str) -> Any:
    """JSON, else YAML: YAML forbids the tabs and reads `1e-05` as text."""
    try:
        return json.loads(content)
    except ValueError:
        return yaml.safe_load(content)


def parse_job(document: Mapping[str, Any], subject: str = "job") -> JobDocument:
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
    top.ignore("$schema", *_SET_BY_THE_SERVICE)
    ignore_what_only_azure_needs(top)
    _check_type(top)
    task = _read_task(top)
    data = read_data(top, task, warnings)
    _check_metric(top, task)
    check_resources(top)
    name = top.take("name", _job_name)
    texts = {key: top.take(key, any_text) or None for key in ("display_name", "description", "experiment_name")}
    tags = top.take("tags", text_map) or {}
    properties = read_properties(top, warnings)
    compute = (top.take("compute", text) or "local").removeprefix("azureml:")
    variables = top.take("environment_variables", text_map) or {}
    verbosity = top.take("log_verbosity", one_of(_VERBOSITIES)) or "info"
    outputs = read_outputs(top, warnings)
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
            spaces = read_search_space(space, task, faults)
        is_automatic = limits.max_trials > 1 and not has_sweep and not top.raw("search_space")
        check_parameters(task, parameters, spaces, is_automatic, faults, warnings)
    check_sweep(sweep, has_sweep, spaces, top, warnings)
    top.ignore("training_parameters", "search_space", "sweep")
    top.finish()
    if faults or data is None:
        return JobReading(None, data, tuple(faults), tuple(warnings))
    job = JobDocument(
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


def _job_name(value: Any) -> str:
    if not isinstance(value, str) or not JOB_NAME.fullmatch(value):
        raise BadValue("BAD_TYPE", "must be 1 to 200 letters, digits, - and _, beginning with a letter or digit")
    return value
