"""What is known about a job before it starts, and who plans a job of each kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

from clearsight.documents.job import JobDocument
from clearsight.runs.trial_spec import TrialSpec
from clearsight.runs.workspace import Workspace

__all__ = ["JobPlan", "Planner", "planner_for"]


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job that may start: nothing about it is in doubt but the training itself."""

    name: str
    job: JobDocument
    document: Mapping[str, Any]
    """The job file with its overrides."""
    spec: TrialSpec
    experiment_name: str
    best_model_path: Path | None
    """Where `outputs.best_model` wants a copy of the package."""
    num_processes: int
    """That train together, each on batches of its own."""
    warnings: tuple[str, ...]


class Planner(Protocol):
    """Reads and checks a job file and what it names, before anything starts."""

    def __call__(self, file: Path, overrides: Mapping[str, Any], name: str | None, workspace: Workspace) -> JobPlan: ...


_PLANNERS: Final[Mapping[str, str]] = MappingProxyType({"automl": "clearsight.training.plan:plan_job"})
"""By the `type` of a job file; imported when used, since a kind of job stands above this folder."""


def planner_for(kind: str) -> Planner:
    """The planner of a kind of job."""
    module, _, name = _PLANNERS[kind].partition(":")
    return cast(Planner, getattr(import_module(module), name))
