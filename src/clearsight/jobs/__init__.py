"""Job files: Azure's automl image jobs as checked documents. No torch here."""

from clearsight.jobs.data_section import DataInput, DataSection
from clearsight.jobs.document import Job, JobReading, load_document, parse_job, read_job
from clearsight.jobs.overrides import apply_overrides
from clearsight.jobs.parameters import AdvancedSettings, Resolved, candidate_models, resolve_parameters
from clearsight.jobs.support import require_supported
from clearsight.jobs.surroundings import Output

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
