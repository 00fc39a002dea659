"""`spec.json`: everything that a trial needs to know, with every default filled in."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from clearsight.documents.job.hyperparameters import HYPERPARAMETERS
from clearsight.documents.job.parameters import used_hyperparameters
from clearsight.runs.kinds import Parameter, TrialFacts
from clearsight.runs.record import JobRecord, damaged
from clearsight.runs.run_folder import RunFolder
from clearsight.tasks import Task
from clearsight.training.trial.progress import TrainingProgress

__all__ = ["Setting", "TrialSpec", "read_spec"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Setting(_Document):
    """The value of a hyperparameter and who chose it."""

    value: bool | int | float | str | None
    origin: Literal["user", "azure-default", "model-default", "machine", "drawn"]


class TrialSpec(_Document):
    """The contents of `spec.json`. All folders are absolute paths."""

    schema_version: Literal[1] = 1
    run_id: str
    """Name of the trial's run folder and id of its MLflow run."""
    job_name: str
    task: Task
    target_column: str
    """Key of the label in a line of the label file."""
    training_data: Path
    """Folder with the label file of the training records."""
    validation_data: Path | None
    """Folder with the label file of the validation records; None: a share of the training records is held out."""
    validation_size: float
    """Share of the training records, in (0, 1), that is held out when there is no validation folder."""
    split_seed: int
    """Seed of the random choice of held-out records."""
    datastores: dict[str, Path]
    """Folder of each datastore name that label files may refer to."""
    hyperparameters: dict[str, Setting]
    deterministic: bool
    """Whether torch uses its deterministic kernels: true when the user gave a seed."""
    pretrained: bool
    """Whether the network starts from pretrained weights."""
    weights_dir: Path | None
    """Folder with files of pretrained weights; None: the download cache."""
    min_crop_scale: float
    """Smallest share of an image's area, in (0, 1], that a training crop of a classifier covers."""
    apply_mosaic_for_yolo: bool = True
    """Whether yolov5 trains on mosaics of four images."""
    apply_automl_train_augmentations: bool = True
    """Whether training images of detectors are flipped, scaled and moved at random."""
    light_detector: bool = False
    """Whether the R-CNN families use a reduced number of proposals (`networks.families.rcnn.options.LIGHT`)."""
    proposals_per_loss: int | None = None
    """Proposals per image in the loss of the second stage of the R-CNN families; None: their own number."""
    log_verbosity: str
    """Level of the trial's log, in lower case, or `not_set`, which means `info`."""

    @model_validator(mode="after")
    def _has_the_hyperparameters_of_its_model(self) -> Self:
        model_name = self.hyperparameters.get("model_name")
        used = ["model_name"] if model_name is None else used_hyperparameters(self.task, str(model_name.value))
        if missing := [name for name in used if name not in self.hyperparameters]:
            raise PydanticCustomError("missing", f"hyperparameters: {', '.join(missing)} must have a value")
        if unknown := [name for name in self.hyperparameters if name not in HYPERPARAMETERS]:
            raise PydanticCustomError("unknown", f"hyperparameters: {', '.join(unknown)} must be known")
        return self

    def facts(self) -> TrialFacts:
        """What the job shows and mirrors of this trial."""
        return TrialFacts(
            parameters=tuple(Parameter(name, one.value, one.origin) for name, one in self.hyperparameters.items()),
            tags={"model_name": str(self.hyperparameters["model_name"].value)},
        )

    def progress(self, record: JobRecord) -> TrainingProgress:
        """What the live view of a job shows of this trial, before its first event."""
        num_epochs, batch_size = (
            int(self.hyperparameters[name].value or 0) for name in ("number_of_epochs", "training_batch_size")
        )
        return TrainingProgress(num_epochs, batch_size * record.num_processes, record.primary_metric)

    def to_json(self) -> str:
        """The text of `spec.json`."""
        return self.model_dump_json(indent=2) + "\n"


def read_spec(folder: RunFolder) -> TrialSpec:
    """Read the spec of a trial. Raises `UserError` when the file is missing or damaged."""
    try:
        return TrialSpec.model_validate_json(folder.spec_file.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise damaged(folder.spec_file, error) from error
