"""The plan of a batch job: everything that its results depend on, written before it starts and never changed."""

import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from clearsight.errors import Conflict
from clearsight.handlers.backends import Device, Precision
from clearsight.runs.kinds import Parameter, TrialFacts
from clearsight.runs.package import ModelPackage, sha256_of
from clearsight.runs.record import JobRecord, damaged
from clearsight.runs.run_folder import RunFolder
from clearsight.serving.batch.progress import BatchProgress
from clearsight.serving.batch.results.forms import Form, choose_form
from clearsight.serving.batch.row_outputs import NO_ROW_OUTPUTS, RowOutputs

__all__ = ["BatchPlan", "fingerprint_of", "new_plan", "read_plan", "require_same", "set_log_level"]


class BatchPlan(BaseModel):
    """The contents of `spec.json` in the run folder of a batch job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    package: Path
    """Absolute path of the package."""
    backend: str
    backend_chosen_by: str = "clearsight-default"
    """Shown with the job: `deployment`, `measured`, …"""
    device: Device
    precision: Precision
    fingerprint: dict[str, str]
    """What decides the bytes of the parts, by name (`fingerprint_of`)."""
    inputs: str
    """The input as its user named it."""
    input_folder: Path
    """Folder to which relative inputs are relative."""
    input_type: str | None = None
    is_recursive: bool = False
    part_size: int = 10
    """Entries of a part (`mini_batch_size`)."""
    num_workers: int = 1
    num_threads: int | None = None
    """Compute threads of each worker; None: its share of the cores."""
    max_retries: int = 3
    """How often a single entry that fails without an answer is tried again."""
    timeout_s: float = 30.0
    """Time limit of one attempt at a part; of a job that explains, at one of its entries."""
    error_threshold: int = -1
    """Failed entries from which on the job is stopped are more than this; -1: any number may fail."""
    logging_level: Literal["warning", "info", "debug"] = "info"
    """Of the log of the job's processes."""
    environment_variables: dict[str, str] = {}
    output_file: Path
    """Absolute path of the file of results; with `summary_only` only its folder is used."""
    output_action: Literal["append_row", "summary_only"] = "append_row"
    output_format: str | None = None
    """The property `output_format` of the deployment, see `results.forms.choose_form`."""
    frame_settings: dict[str, Any] = {}
    """See `results.frame_settings.read_frame_settings`."""
    rows: RowOutputs = NO_ROW_OUTPUTS
    """Images and explanations of the answers."""

    def facts(self) -> TrialFacts:
        shown: dict[str, tuple[int | float | str, str]] = {
            "inputs": (self.inputs, "user"),
            "package": (str(self.package), "deployment"),
            "backend": (self.backend, self.backend_chosen_by),
            "mini_batch_size": (self.part_size, "deployment"),
            "workers": (self.num_workers, "deployment"),
            "max_retries": (self.max_retries, "deployment"),
            "timeout": (self.timeout_s, "deployment"),
            "error_threshold": (self.error_threshold, "deployment"),
            "output": (str(self.output_file), "deployment"),
        }
        return TrialFacts(tuple(Parameter(name, *value) for name, value in shown.items()), {}, self.output_file.parent)

    def progress(self, record: JobRecord) -> BatchProgress:
        return BatchProgress()

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def form(self) -> Form:
        """The form of the results. Raises `UserError`, see `choose_form`."""
        properties = {} if self.output_format is None else {"output_format": self.output_format}
        return choose_form(self.output_file.name, self.output_action, properties, self.frame_settings)


def read_plan(folder: RunFolder) -> BatchPlan:
    """The plan of a run folder. Raises `UserError` for a missing or damaged file."""
    try:
        return BatchPlan.model_validate_json(folder.spec_file.read_bytes())
    except (OSError, ValidationError) as error:
        raise damaged(folder.spec_file, error) from error


def set_log_level(plan: BatchPlan) -> None:
    """Log to stderr: the job's processes at the level of its plan, libraries from warnings on."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("clearsight").setLevel(logging.getLevelNamesMapping()[plan.logging_level.upper()])


def new_plan(package: ModelPackage, **fields: Any) -> BatchPlan:
    """A plan with a package and the fingerprint that follows; `fields` are the others of `BatchPlan`."""
    plan = BatchPlan(package=package.root, fingerprint={}, **fields)
    return plan.model_copy(update={"fingerprint": fingerprint_of(plan, package)})


def fingerprint_of(plan: BatchPlan, package: ModelPackage) -> dict[str, str]:
    """What decides the parts of a batch job and the files of its rows now, by the name that its user knows."""
    return {
        "the package": sha256_of(package.manifest_file),
        "settings.json of the package": sha256_of(package.settings_file),
        "the version of Clearsight": version("clearsight"),
        "backend": plan.backend,
        "device": plan.device,
        "precision": plan.precision,
        "mini_batch_size": str(plan.part_size),
        **plan.rows.fingerprint(plan.environment_variables),
    }


def require_same(before: Mapping[str, str], now: Mapping[str, str], what: str) -> None:
    """Raise `Conflict` naming what differs between the fingerprint of `what` and the present one."""
    changed = [name for name in before if before[name] != now.get(name)]
    if changed:
        pairs = [f"{name} ({_short(before[name])}, now {_short(now.get(name, ''))})" for name in changed]
        raise Conflict(
            f"{what} must go on with what it was started with, but this has changed: {', '.join(pairs)}; undo that, or "
            "start a new one"
        )


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value or "nothing"
