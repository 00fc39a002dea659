"""Azure's own client, MIT-licensed, as the oracle: it must load what this reader loads, with the same values."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.job import parse_job, read_job

SWEEP = """
type: automl
name: a_job
experiment_name: demo
compute: azureml:gpu-cluster
log_verbosity: debug
task: image_classification_multilabel
primary_metric: iou
target_column_name: label
tags: {team: vision}
training_data: {type: mltable, path: azureml:training:1}
validation_data: {type: mltable, path: azureml:validation:1}
limits: {timeout_minutes: 60, max_trials: 10, max_concurrent_trials: 2}
training_parameters:
  early_stopping: True
  early_stopping_delay: 2
  checkpoint_frequency: 1
  nesterov: 0
  learning_rate_scheduler: WarmupCosine
  advanced_settings: '{"stream_image_files": true}'
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [vitb16r224, vits16r224]}
    learning_rate: {type: uniform, min_value: 0.005, max_value: 0.05}
    number_of_epochs: {type: choice, values: [15, 30]}
    warmup_cosine_lr_warmup_epochs: {type: choice, values: [0, 3]}
  - model_name: seresnext
    layers_to_freeze: {type: choice, values: [0, 2]}
    validation_resize_size: {type: choice, values: [288, 320]}
    ams_gradient: {type: choice, values: [true, false]}
    weight_decay: {type: loguniform, min_value: -9.2, max_value: -4.6}
"""

SEGMENTATION = """
type: automl
task: image_instance_segmentation
target_column_name: label
training_data: {type: mltable, path: azureml:training:1}
validation_data_size: 0.3
training_parameters: {model_name: maskrcnn_resnet50_fpn, learning_rate: "1e-3", box_score_threshold: 0.4, min_size: 500}
limits: {max_trials: 1}
"""


@pytest.fixture(scope="module")
def azure() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import azure.ai.ml as client
    return client


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", [SWEEP, SEGMENTATION])
def test_a_job_has_the_values_that_azures_client_reads(text: str, azure: Any, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text(text)
    theirs = azure.load_job(file)
    ours = parse_job(yaml.safe_load(text))
    assert ours.data.target_column == theirs.target_column_name
    assert ours.data.validation_size == theirs.validation_data_size
    assert ours.limits.max_trials == theirs.limits.max_trials
    for name, value in ours.parameters.items():
        given = getattr(theirs.training_parameters, name)
        assert str(value).replace("_", "").lower() == str(given).rpartition(".")[2].replace("_", "").lower() or (
            value == pytest.approx(given)
        )
    assert len(ours.search_space) == len(theirs.search_space or [])
    for our_space, their_space in zip(ours.search_space, theirs.search_space or [], strict=True):
        for name, expression in our_space.items():
            given = getattr(their_space, name)
            if isinstance(expression, str):
                assert given == expression
            else:
                for argument, value in expression.arguments.items():
                    assert list(value) if isinstance(value, tuple) else value == getattr(given, argument)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {"type": "AutoML"},
        {"task": "ImageObjectDetection"},
        {"surprise": 1},
        {"tags": {"a": 1}},
        {"limits": {"max_nodes": 2}},
        {"training_parameters": {"label_smoothing": 0.1}},
        {"training_parameters": {"training_crop_size": 224}},
        {"training_parameters": {"mask_pixel_score_threshold": 0.5}},
        {"sweep": {"sampling_algorithm": "random", "limits": {"max_trials": 1}}},
        {"search_space": {"learning_rate": 0.1}},
        {"search_space": [{"checkpoint_frequency": {"type": "choice", "values": [1]}}]},
    ],
    ids=str,
)
def test_what_azures_client_refuses_is_refused(changes: Any, azure: Any, tmp_path: Path) -> None:
    document = {**yaml.safe_load(SEGMENTATION), **changes}
    file = tmp_path / "job.yml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(Exception, match=r".") as caught:
        azure.load_job(file)
    assert type(caught.value).__module__.startswith(("azure", "marshmallow"))
    assert read_job(document).faults


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {"display_name": "", "description": "", "tags": {"a": None}, "log_verbosity": "NotSet"},
        {"outputs": {"best_model": None}},
        {
            "outputs": {
                "best_model": {"type": "mlflow_model", "path": "azureml://datastores/d/paths/x", "mode": "upload"}
            }
        },
        {"resources": {"instance_type": "a", "instance_count": 2, "shm_size": "2g", "docker_args": ["--ipc", "host"]}},
        {"resources": {"locations": ["westeurope"], "max_instance_count": 3, "properties": {"a": {"b": "c"}}}},
        {"identity": {"type": "user_identity"}, "environment_variables": {"A": "b"}},
        {"properties": {"node_count_per_trial": "2", "other": None}},
        {"training_data": {"path": "azureml:training@latest", "mode": "eval_mount", "type": "mltable"}},
        {"training_data": {"path": "wasbs://container@account.blob.core.windows.net/folder"}},
        {"limits": {"max_trials": "3", "max_concurrent_trials": 2, "timeout_minutes": "60"}},
        {"training_parameters": {"nesterov": "yes", "early_stopping": "off", "ams_gradient": 1, "distributed": "T"}},
        {"training_parameters": {"learning_rate": "1e-3", "number_of_epochs": "3", "weight_decay": 0}},
        {"training_parameters": {"optimizer": "Adamw", "learning_rate_scheduler": "None", "advanced_settings": "{}"}},
        {"training_parameters": {"validation_metric_type": "CocoVoc", "log_validation_loss": "Disable"}},
        {"sweep": {"sampling_algorithm": "RANDOM"}, "search_space": [{"learning_rate": 0.1, "min_size": 600}]},
        {
            "sweep": {"sampling_algorithm": {"type": "random", "seed": 3, "rule": "sobol"}},
            "search_space": [{"momentum": {"type": "qlognormal", "mu": 0, "sigma": 1, "q": 0.1}}],
        },
        {
            "sweep": {
                "sampling_algorithm": "Grid",
                "early_termination": {"type": "truncation_selection", "truncation_percentage": 20},
            },
            "search_space": [{"number_of_epochs": {"type": "choice", "values": [1, 2]}, "optimizer": "Sgd"}],
        },
        {
            "sweep": {"sampling_algorithm": "bayesian"},
            "search_space": [{"min_size": {"type": "QUniform", "min_value": 500, "max_value": 800, "q": 100}}],
        },
    ],
    ids=str,
)
def test_what_azures_client_accepts_is_accepted(changes: Any, azure: Any, tmp_path: Path) -> None:
    document = {**yaml.safe_load(SEGMENTATION), **changes}
    file = tmp_path / "job.yml"
    file.write_text(yaml.safe_dump(document))
    assert azure.load_job(file) is not None
    assert read_job(document).faults == ()
