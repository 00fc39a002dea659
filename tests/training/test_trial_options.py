"""The options of a trial's components, and what is wrong with a `spec.json`."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clearsight.documents.job import resolve_parameters
from clearsight.errors import UserError
from clearsight.runs.run_folder import RunFolder
from clearsight.tasks import Task
from clearsight.training.classification.trial import classification_options
from clearsight.training.detection.trial import detection_options
from clearsight.training.trial.spec import TrialSpec, read_spec

Make = Callable[..., TrialSpec]
GIVEN: dict[str, Any] = {
    "number_of_epochs": 3,
    "training_batch_size": 4,
    "validation_batch_size": 5,
    "gradient_accumulation_step": 6,
    "number_of_workers": 7,
    "random_seed": 8,
    "layers_to_freeze": 1,
    "learning_rate": 1,
    "optimizer": "adam",
    "beta1": 0.2,
    "early_stopping_delay": 9,
    "early_stopping": False,
    "step_lr_gamma": 0.25,
    "step_lr_step_size": 2,
    "learning_rate_scheduler": "step",
    "checkpoint_frequency": 11,
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a spec; keywords replace hyperparameters after the defaults were filled in, `_` removes one."""

    def make(task: Task, model: str, given: dict[str, Any], **replaced: Any) -> TrialSpec:
        resolved = {name: one.value for name, one in resolve_parameters(task, given, model).items()} | replaced
        spec = {
            "run_id": "t_HD_0",
            "job_name": "t",
            "task": task,
            "target_column": "label",
            "training_data": str(tmp_path),
            "validation_data": None,
            "validation_size": 0.2,
            "split_seed": 0,
            "datastores": {},
            "hyperparameters": {
                name: {"value": value, "origin": "user"} for name, value in resolved.items() if value != "_"
            },
            "deterministic": True,
            "pretrained": False,
            "weights_dir": None,
            "min_crop_scale": 0.5,
            "apply_mosaic_for_yolo": False,
            "log_verbosity": "error",
        }
        folder = RunFolder(tmp_path)
        folder.spec_file.write_text(json.dumps(spec))
        return read_spec(folder)

    return make


def test_each_component_gets_its_values(make: Make) -> None:
    trial = classification_options(make(Task.MULTI_CLASS, "resnet18", GIVEN)).trial
    assert asdict(trial.model) == {
        "name": "resnet18",
        "layers_to_freeze": 1,
        "pretrained": False,
        "weights_dir": None,
        "enable_onnx_normalization": False,
    }
    assert asdict(trial.batches) == {"training_size": 4, "validation_size": 5, "num_workers": 7, "seed": 8}
    assert (trial.optimizer.name, trial.optimizer.learning_rate, trial.optimizer.beta1) == ("adam", 1.0, 0.2)
    assert asdict(trial.schedule) == {"gamma": 0.25, "step_size": 2}
    loop = trial.loop
    assert (loop.num_epochs, loop.accumulation, loop.checkpoint_frequency, loop.seed) == (3, 6, 11, 8)
    assert asdict(trial.early_stopping) == {"enabled": False, "delay": 9, "patience": 5}


def test_a_classifier_has_settings_augmentation_and_loss(make: Make) -> None:
    given = {"validation_crop_size": 30, "validation_resize_size": 40, "training_crop_size": 20, "weighted_loss": 2}
    options = classification_options(make(Task.MULTI_LABEL, "vitb16r224", given, random_seed=0))
    assert (options.settings.valid_crop_size, options.settings.valid_resize_size) == (30, 40)
    assert options.settings.mean == (0.5, 0.5, 0.5)
    assert (options.augmentation.crop_size, options.augmentation.scale) == (20, (0.5, 1.0))
    assert options.loss.weighted_loss == 2


def test_a_detector_has_settings_augmentation_and_metrics(make: Make) -> None:
    given = {"image_size": 96, "model_size": "extra_large", "multi_scale": True, "tile_grid_size": "3x2"}
    options = detection_options(make(Task.DETECTION, "yolov5", given, random_seed=0))
    settings = options.settings
    assert (settings.input_size.longer, settings.tile_grid_size) == (96, (3, 2))
    assert options.settings.model_size == "xlarge"
    assert asdict(options.augmentation) == {"with_geometry": True, "with_mosaic": False, "multi_scale": True}
    assert (options.metrics.validation_metric_type, options.metrics.log_validation_loss) == ("voc", "Enable")
    assert options.trial.early_stopping.enabled
    off = make(Task.DETECTION, "yolov5", {"validation_metric_type": "none"}, random_seed=0)
    assert not detection_options(off).trial.early_stopping.enabled


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"momentum": "_"}, "hyperparameters: momentum must have a value"),
        ({"model_name": "_"}, "hyperparameters: model_name must have a value"),
        ({"momentun": 0.9}, "hyperparameters: momentun must be known"),
        ({"momentum": None}, "usable value of momentum, but got None"),
        ({"optimizer": "lion"}, "usable value of optimizer, but got 'lion'"),
        ({"number_of_epochs": 1.5}, "usable value of number_of_epochs, but got 1.5"),
        ({"learning_rate_scheduler": "linear"}, "usable value of learning_rate_scheduler, but got 'linear'"),
        ({"weighted_loss": 3}, "usable value of weighted_loss, but got 3"),
    ],
)
def test_a_bad_hyperparameter_is_one_line_with_its_name(make: Make, changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError) as caught:
        classification_options(make(Task.MULTI_CLASS, "resnet18", {}, random_seed=0, **changed))
    [line] = str(caught.value).splitlines()
    assert fault in line
    assert "spec.json" in line
    assert line.endswith("; create the job again")
