"""Job files: Azure's automl image jobs as checked documents. No torch here."""

from clearsight.jobs.document import (
    DataInput,
    DataSection,
    Job,
    JobReading,
    Output,
    load_document,
    parse_job,
    read_job,
)
from clearsight.jobs.overrides import apply_overrides
from clearsight.jobs.parameters import AdvancedSettings, Resolved, candidate_models, resolve_parameters
from clearsight.jobs.support import require_supported

__all__ = [
    "AdvancedSettings",
    "DataInput",
    "DataSection",
    "Job",
    "JobReading",
    "Output",
    "Resolved",
    "apply_overrides",
    "candidate_models",
    "load_document",
    "parse_job",
    "read_job",
    "require_supported",
    "resolve_parameters",
]
