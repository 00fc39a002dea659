"""What this version runs, of all that a job file can ask for."""

from clearsight.catalogue.models import models_of
from clearsight.documents.job.document import JobDocument
from clearsight.documents.job.parameters import candidate_models
from clearsight.errors import UserError

__all__ = ["require_supported"]


def require_supported(job: JobDocument) -> None:
    """Raise `UserError` with one line when the job is valid but this version cannot run it."""
    if job.sweep is not None or job.search_space:
        drawn = {name for space in job.search_space for name in candidate_models(job.task, job.parameters, space)}
        known = [name for name in models_of(job.task) if name in drawn]
        model = f" training_parameters.model_name={known[0]}" if known and "model_name" not in job.parameters else ""
        raise UserError(
            "sweeps are valid but cannot run yet: this version trains one model per job; take search_space and sweep "
            "out and give model_name and learning_rate under training_parameters, or train one model of it by "
            f"--set sweep=null search_space=null limits.max_trials=1{model}"
        )
    if job.limits.max_trials > 1:
        raise UserError(
            f"an automatic sweep of {job.limits.max_trials} trials cannot run yet: this version trains one model per "
            "job; set limits.max_trials to 1: --set limits.max_trials=1"
        )
    [model_name] = candidate_models(job.task, job.parameters)
    if model_name not in models_of(job.task):
        chosen = "" if "model_name" in job.parameters else " (the default of the task)"
        raise UserError(
            f"model_name {model_name!r}{chosen} cannot be trained yet; this version trains "
            f"{', '.join(models_of(job.task))}: set training_parameters.model_name"
        )
    if "checkpoint_run_id" in job.parameters:
        raise UserError(
            "checkpoint_run_id is valid but cannot be used yet: this version starts from pretrained weights"
        )
