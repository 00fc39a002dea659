"""What a trial is asked to do: one JSON file with every default filled in."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from clearsight.tasks import Task

__all__ = ["Setting", "TrialSpec"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Setting(_Document):
    """A hyperparameter and who chose it."""

    value: bool | int | float | str | None
    origin: Literal["user", "azure-default", "model-default", "machine", "drawn"]


class TrialSpec(_Document):
    """`spec.json`. Folders are absolute."""

    schema_version: Literal[1] = 1
    run_id: str
    """Also the id of the MLflow run."""
    job_name: str
    task: Task
    target_column: str
    training_data: Path
    validation_data: Path | None
    validation_size: float
    """Share of the training records held out when there is no validation folder."""
    split_seed: int
    datastores: dict[str, Path]
    hyperparameters: dict[str, Setting]
    deterministic: bool
    """Whether the user gave a seed: then torch's deterministic kernels are used."""
    pretrained: bool
    weights_dir: Path | None
    min_crop_scale: float
    """Smallest share of an image's area that a training crop covers."""
    apply_mosaic_for_yolo: bool = True
    apply_automl_train_augmentations: bool = True
    """Of detectors."""
    light_detector: bool = False
    """Whether the R-CNN families look at few proposals (`networks.rcnn.options.LIGHT`)."""
    log_verbosity: str

    def value(self, name: str) -> Any:
        """The value of a hyperparameter."""
        return self.hyperparameters[name].value
