"""Job files: Azure's automl image jobs as checked documents. Without torch."""

from clearsight.documents.job.data_section import DataInput, DataSection
from clearsight.documents.job.document import JobDocument, JobReading, load_document, parse_job, read_job
from clearsight.documents.job.parameters import AdvancedSettings, Resolved, candidate_models, resolve_parameters
from clearsight.documents.job.support import require_supported
from clearsight.documents.job.surroundings import Output
from clearsight.documents.overrides import apply_overrides

__all__ = [
    "AdvancedSettings",
    "DataInput",
    "DataSection",
    "JobDocument",
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
