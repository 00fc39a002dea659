"""Azure's job file for image tasks (`type: automl`), read with every fault at once.

Keys: https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification and its three
sister pages. The reader accepts what Azure's loader accepts; where that differs from the pages, the loader counts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import yaml
from pydantic_core import PydanticCustomError

from clearsight.documents.job.data_section import DataInput, DataSection, InputSection
from clearsight.documents.job.hyperparameters import Value
from clearsight.documents.job.model_rules import check_parameters
from clearsight.documents.job.parameters import AdvancedSettings, read_parameters
from clearsight.documents.job.rest_body import from_rest_body, is_rest_body
from clearsight.documents.job.search_space import SubSpace, read_search_space
from clearsight.documents.job.surroundings import (
    NODE_COUNT,
    Output,
    OutputSection,
    Properties,
    QueueSection,
    ResourcesSection,
)
from clearsight.documents.job.sweep import JobLimits, Sweep, SweepSection, check_sweep
from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import (
    AnyMapping,
    Anything,
    Number,
    OneOf,
    Rule,
    Section,
    Text,
    TextMap,
    broken_rule,
    read,
    refused,
)
from clearsight.tasks import Task

__all__ = ["JobDocument", "JobName", "JobReading", "load_document", "parse_job", "read_job"]

JOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")
"""Azure's and MLflow's rule for run ids, with room for `_HD_<n>`."""

_VERBOSITIES: Final = ("not_set", "debug", "info", "warning", "error", "critical")
_OTHER_JOBS: Final = ("command", "pipeline", "sweep", "spark", "parallel", "import", "finetuning", "distillation")
"""Azure's other kinds of jobs. https://learn.microsoft.com/azure/machine-learning/reference-yaml-overview"""

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
    """The result of reading a document. `job` is None when there are faults, `data` when its own keys have some."""

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


@dataclass(frozen=True, slots=True)
class _JobType(Rule):
    def read(self, value: Any) -> str:
        if value != "automl":
            raise broken_rule("BAD_ENUM", f"must be automl, in lower case, but got {value!r}")
        return "automl"

    def json_schema(self) -> dict[str, Any]:
        return {"const": "automl"}


@dataclass(frozen=True, slots=True)
class _TaskName(Rule):
    def read(self, value: Any) -> Task:
        name = Text().read(value)
        try:
            return Task(name)
        except ValueError:
            raise refused("BAD_ENUM", f"must be one of {', '.join(task.value for task in Task)}") from None

    def json_schema(self) -> dict[str, Any]:
        return {"enum": [task.value for task in Task]}


@dataclass(frozen=True, slots=True)
class JobName(Rule):
    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not JOB_NAME.fullmatch(value):
            message = "must be 1 to 200 letters, digits, - and _, beginning with a letter or digit"
            raise refused("BAD_TYPE", message)
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{JOB_NAME.pattern}$"}


_Text = Annotated[str, Text()]
_AnyText = Annotated[str, Text(may_be_empty=True)]
_TextMap = Annotated[Mapping[str, str | None], TextMap()]
_FreeMapping = Annotated[Mapping[str, Any], AnyMapping()]
_Share = Annotated[float, Number(0, 1, low_open=True, high_open=True)]


@dataclass(frozen=True, slots=True)
class JobSection(Section):
    """A job file. The keys of `training_parameters` and `search_space` depend on the task and are read with it."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("$schema", "id", "status", "creation_context", "log_files")
    required_keys: ClassVar[tuple[str, ...]] = ("type", "task", "target_column_name", "training_data")

    type: Annotated[str, _JobType()] | None = None
    task: Annotated[Task, _TaskName()] | None = None
    target_column_name: _Text | None = None
    training_data: InputSection | None = None
    validation_data: InputSection | None = None
    validation_data_size: _Share | None = None
    """Share of the training records, in (0, 1), held out when there is no `validation_data`."""
    test_data: Annotated[Any, Anything()] = None
    """Azure's image jobs do not use it."""
    test_data_size: Annotated[Any, Anything()] = None
    """Azure's image jobs do not use it."""
    primary_metric: _Text | None = None
    name: Annotated[str, JobName()] | None = None
    display_name: _AnyText | None = None
    description: _AnyText | None = None
    experiment_name: _AnyText | None = None
    tags: _TextMap = field(default_factory=dict)
    properties: Annotated[Mapping[str, str | None], Properties()] = field(default_factory=dict)
    compute: _Text = "local"
    environment_variables: _TextMap = field(default_factory=dict)
    environment_id: _Text | None = None
    log_verbosity: Annotated[str, OneOf(_VERBOSITIES)] = "info"
    limits: JobLimits = field(default_factory=JobLimits)
    training_parameters: _FreeMapping = field(default_factory=dict)
    sweep: SweepSection | None = None
    search_space: Annotated[Any, Anything()] = None
    outputs: dict[str, OutputSection | None] = field(default_factory=dict)
    resources: ResourcesSection | None = None
    queue_settings: QueueSection | None = None
    identity: _FreeMapping | None = None
    services: _FreeMapping | None = None

    @classmethod
    def missing_key(cls, key: str) -> PydanticCustomError:
        hint = "; for image jobs it is automl" if key == "type" else ""
        return broken_rule("MISSING_KEY", f"is required{hint}")


def read_job(document: Mapping[str, Any]) -> JobReading:
    """Read a document, collecting every fault and warning. No file is opened."""
    if (other := _fault_of_another_kind(document)) is not None:
        return JobReading(None, None, (other,), ())
    faults: list[Fault] = []
    warnings: list[str] = []
    section = read(JobSection, document, "", faults)
    if section is None:
        return JobReading(None, None, tuple(faults), ())
    task = section.task
    data = _data(section)
    limits = replace(
        section.limits, max_concurrent_trials=min(section.limits.max_concurrent_trials, section.limits.max_trials)
    )
    has_sweep, has_space = document.get("sweep") is not None, bool(document.get("search_space"))
    sweep = section.sweep.to_sweep() if section.sweep is not None else None
    warnings += _warnings(section)
    parameters: dict[str, Value] = {}
    advanced = AdvancedSettings()
    spaces: tuple[SubSpace, ...] = ()
    if task is not None:  # the names that are legal depend on the task
        faults += _metric_faults(section, task)
        parameters, advanced = read_parameters(section.training_parameters, task, faults, warnings)
        if section.search_space is not None:
            spaces = read_search_space(section.search_space, task, faults)
        is_automatic = limits.max_trials > 1 and not has_sweep and not has_space
        check_parameters(task, parameters, spaces, is_automatic, faults, warnings)
    faults += check_sweep(sweep, has_sweep, has_space, spaces, warnings)
    if faults or data is None:
        return JobReading(None, data, tuple(faults), tuple(warnings))
    job = JobDocument(
        data=data,
        name=section.name,
        display_name=section.display_name or None,
        description=section.description or None,
        experiment_name=section.experiment_name or None,
        tags=section.tags,
        properties=section.properties,
        compute=section.compute.removeprefix("azureml:"),
        environment_variables=section.environment_variables,
        log_verbosity=section.log_verbosity,
        limits=limits,
        parameters=parameters,
        advanced=advanced,
        sweep=sweep,
        search_space=spaces,
        outputs={
            name: Output() if output is None else Output(output.type, output.path)
            for name, output in section.outputs.items()
        },
    )
    return JobReading(job, data, (), tuple(warnings))


def _fault_of_another_kind(document: Mapping[str, Any]) -> Fault | None:
    """The one fault of a document for another kind of job, whose keys are others."""
    kind = document.get("type")
    if not isinstance(kind, str) or kind.lower() not in _OTHER_JOBS:
        return None
    message = f"must be automl, the one kind of job that runs here, but got {kind!r}"
    if kind.lower() == "pipeline":
        nodes = document.get("jobs")
        names = [name for name, node in (nodes if isinstance(nodes, Mapping) else {}).items() if _is_automl(node)]
        place = " or ".join(f"jobs.{name}" for name in names)
        advice = f"save {place}, an automl node, as a job file of its own, with values in place of ${{{{…}}}}"
        message += f"; {advice}" if names else "; it has no automl node"
    return Fault("BAD_ENUM", "type", message)


def _is_automl(node: Any) -> bool:
    return isinstance(node, Mapping) and node.get("type") == "automl"


def _data(section: JobSection) -> DataSection | None:
    """The data of a job; None when a key that is needed is missing or faulty."""
    if section.task is None or section.target_column_name is None or section.training_data is None:
        return None
    return DataSection(
        section.task,
        section.target_column_name,
        DataInput(section.training_data.path),
        None if section.validation_data is None else DataInput(section.validation_data.path),
        section.validation_data_size,
    )


def _warnings(section: JobSection) -> list[str]:
    """Warnings for keys of a job without effect, except for `training_parameters`."""
    found = []
    if section.validation_data_size is not None and section.validation_data is not None:
        found.append("validation_data_size: has no effect beside validation_data")
    for key in ("test_data", "test_data_size"):
        if getattr(section, key) is not None:
            found.append(f"{key}: Azure's image jobs do not use it; ignored")
    num_nodes = int(section.properties.get(NODE_COUNT) or 1)
    if num_nodes > 1:
        found.append(f"properties.{NODE_COUNT}: {num_nodes} machines were asked for; this machine is used alone")
    others = [name for name in section.outputs if name != "best_model"]
    return [*found, *(f"outputs.{name}: image jobs have one output, best_model; ignored" for name in others)]


def _metric_faults(section: JobSection, task: Task) -> list[Fault]:
    value = section.primary_metric
    plain = (value or task.primary_metric).strip().lower().replace("_", "")
    if plain == task.primary_metric.replace("_", ""):
        return []
    known = plain in [metric.replace("_", "") for metric in _METRICS_OF_OTHER_JOBS]
    reason = "is not supported for image tasks" if known else "is unknown"
    message = f"must be {task.primary_metric} for {task.value}; {value!r} {reason}"
    return [Fault("BAD_ENUM", "primary_metric", message)]
