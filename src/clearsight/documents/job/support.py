"""What this version runs, of all that a job file can ask for."""

from clearsight.catalogue.models import MODELS
from clearsight.documents.job.document import JobDocument
from clearsight.documents.job.parameters import candidate_models
from clearsight.errors import UserError

__all__ = ["require_supported"]


def require_supported(job: JobDocument) -> None:
    """Raise `UserError` with one line when the job is valid but this version cannot run it."""
    if job.sweep is not None or job.search_space:
        raise UserError(
            "sweeps are valid but cannot run yet: this version trains one model per job; take search_space and sweep "
            "out and give model_name and learning_rate under training_parameters"
        )
    if job.limits.max_trials > 1:
        raise UserError(
            f"an automatic sweep of {job.limits.max_trials} trials cannot run yet: this version trains one model per "
            "job; set limits.max_trials to 1"
        )
    [model_name] = candidate_models(job.task, job.parameters)
    if model_name not in MODELS:
        chosen = "" if "model_name" in job.parameters else " (the default of the task)"
        raise UserError(
            f"model_name {model_name!r}{chosen} cannot be trained yet; this version trains {', '.join(MODELS)}: "
            f"set training_parameters.model_name"
        )
    if "checkpoint_run_id" in job.parameters:
        raise UserError(
            "checkpoint_run_id is valid but cannot be used yet: this version starts from pretrained weights"
        )
