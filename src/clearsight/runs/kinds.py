"""The kinds of jobs: how a document of each is planned, and which program runs one of its trials.

A kind stands in a layer above this one, so the table names its code by dotted names, which are imported when used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, cast

from clearsight.documents.job import apply_overrides, load_document
from clearsight.runs.record import JobRecord
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.workspace import Workspace

__all__ = [
    "DEFAULT_KIND",
    "JOB_KINDS",
    "JobKind",
    "JobPlan",
    "Parameter",
    "Planner",
    "ProgressLine",
    "TrialFacts",
    "TrialProgress",
    "TrialSpecDocument",
    "plan_job_file",
]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that a trial uses, and who chose it (`user`, `azure-default`, …). None: the parameter is not used."""

    name: str
    value: bool | int | float | str | None
    origin: str


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """What a job shows and mirrors of a trial."""

    parameters: tuple[Parameter, ...]
    """In the order in which they are shown; those with a value are the parameters of the MLflow run."""
    tags: Mapping[str, str]
    """Tags of the MLflow run."""
    results: Path | None = None
    """Folder of the results of a batch job; None for a training."""


@dataclass(frozen=True, slots=True)
class ProgressLine:
    """The progress line of a trial on a terminal; None leaves a number as it is."""

    description: str
    rest: str = ""
    total: int | None = None
    completed: int | None = None


class TrialProgress(Protocol):
    """What the live view shows of one trial, made from the events that its program writes."""

    def show(self, event: Mapping[str, Any]) -> tuple[list[str], ProgressLine | None]:
        """Take an event into account; return the lines to print, and the progress line where it changes."""

    def recall(self, event: Mapping[str, Any]) -> None:
        """Take an event of an earlier attempt into account without showing it."""


class TrialSpecDocument(Protocol):
    """What is written to the `spec.json` of a trial and read by the program that runs it."""

    @property
    def run_id(self) -> str:
        """Name of the trial's run folder."""

    def facts(self) -> TrialFacts:
        """What the job shows and mirrors of the trial."""

    def progress(self, record: JobRecord) -> TrialProgress:
        """What the live view of a job shows of the trial, before its first event."""

    def to_json(self) -> str:
        """The text of `spec.json`."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job whose document and data were checked, ready to start."""

    record: JobRecord
    trials: tuple[TrialSpecDocument, ...]
    """Specs of the trials with which the job starts; at least one."""


class Planner(Protocol):
    """Checks a job document and what it names, before anything starts."""

    def __call__(self, document: Mapping[str, Any], folder: Path, workspace: Workspace, subject: str) -> JobPlan:
        """Plan the job. Relative paths are relative to `folder`; errors name the document `subject`.

        Raises `InvalidDocument` with every fault of document and data together, and `UserError` for a valid job that
        cannot run.
        """


class SpecReader(Protocol):
    """Reads the `spec.json` of a trial."""

    def __call__(self, folder: RunFolder) -> TrialSpecDocument:
        """Read the spec in a run folder. Raises `UserError` when the file is missing or damaged."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job; `planner` and `spec_reader` are written `module:function`."""

    planner: str
    spec_reader: str
    trial_module: str
    """Program of a trial: `python -m <module> RUN_FOLDER`."""
    output: Literal["best_model", "score"] = "best_model"
    """Name of what a completed job is for: the package of its best trial, or the results of a batch job."""

    def plan(self, document: Mapping[str, Any], folder: Path, workspace: Workspace, subject: str) -> JobPlan:
        """Plan a job, see `Planner`."""
        return cast(Planner, _load(self.planner))(document, folder, workspace, subject)

    def read_spec(self, folder: RunFolder) -> TrialSpecDocument:
        """Read the spec of a trial, see `SpecReader`."""
        return cast(SpecReader, _load(self.spec_reader))(folder)


DEFAULT_KIND: Final = "automl"
"""Kind whose planner reports the fault of a document of an unknown kind."""

JOB_KINDS: Final[Mapping[str, JobKind]] = MappingProxyType(
    {
        "automl": JobKind(
            planner="clearsight.training.plan:plan_job",
            spec_reader="clearsight.training.trial.spec:read_spec",
            trial_module="clearsight.training.trial",
        ),
        "batch": JobKind(
            planner="clearsight.serving.batch.submit:refuse_document",
            spec_reader="clearsight.serving.batch.plan:read_plan",
            trial_module="clearsight.serving.batch.run",
            output="score",
        ),
    }
)
"""By the `type` of a job document."""


def plan_job_file(file: Path, overrides: Mapping[str, Any], name: str | None, workspace: Workspace) -> JobPlan:
    """Read a job file, change it by `overrides` (key path -> value) and `name`, and plan the job with its kind.

    Paths in the file are relative to its folder. Raises what `Planner` raises, and `InvalidDocument` for a file that is
    missing or no mapping.
    """
    warnings: list[str] = []
    document = apply_overrides(load_document(file, warnings), overrides)
    if name is not None:
        document["name"] = name
    kind = document.get("type")
    row = JOB_KINDS.get(kind if isinstance(kind, str) else DEFAULT_KIND, JOB_KINDS[DEFAULT_KIND])
    plan = row.plan(document, file.absolute().parent, workspace, str(file))
    record = plan.record.model_copy(update={"warnings": [*warnings, *plan.record.warnings]})
    return replace(plan, record=record)


def _load(dotted: str) -> Any:
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)
