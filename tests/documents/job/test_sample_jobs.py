"""Job files in the shapes of Azure's published samples: one of each, for all four tasks."""

from typing import Any

import pytest
import yaml

from clearsight.documents.job import JobDocument, candidate_models, read_job
from clearsight.documents.job.rest_body import from_rest_body
from clearsight.documents.job.search_space import Expression

HEAD = """
$schema: https://azuremlschemas.azureedge.net/latest/autoMLJob.schema.json
type: automl
experiment_name: fridge-items
description: Which container is in the fridge
compute: azureml:gpu-cluster
log_verbosity: debug
target_column_name: label
training_data: {type: mltable, path: data/training-mltable-folder}
validation_data: {type: mltable, path: data/validation-mltable-folder}
"""

DETECTION = """
task: image_object_detection
primary_metric: mean_average_precision
limits: {timeout_minutes: 60, max_trials: 10, max_concurrent_trials: 2}
training_parameters:
  early_stopping: True
  evaluation_frequency: 1
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [yolov5]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.01}
    model_size: {type: choice, values: [small, medium]}
  - model_name: {type: choice, values: [fasterrcnn_resnet50_fpn]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.001}
    optimizer: {type: choice, values: [sgd, adam, adamw]}
    min_size: {type: choice, values: [600, 800]}
"""

MULTI_CLASS = """
task: image_classification
primary_metric: accuracy
limits: {timeout_minutes: 60, max_trials: 10, max_concurrent_trials: 2}
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
training_parameters: {early_stopping: True, evaluation_frequency: 1}
search_space:
  - model_name: {type: choice, values: [vitb16r224, vits16r224]}
    learning_rate: {type: uniform, min_value: 0.001, max_value: 0.01}
    number_of_epochs: {type: choice, values: [15, 30]}
  - model_name: {type: choice, values: [seresnext, resnet50]}
    learning_rate: {type: uniform, min_value: 0.001, max_value: 0.01}
    layers_to_freeze: {type: choice, values: [0, 2]}
"""

MULTI_LABEL = """
task: image_classification_multilabel
primary_metric: iou
limits: {timeout_minutes: 60, max_trials: 10, max_concurrent_trials: 2}
training_parameters: {early_stopping: 1, evaluation_frequency: 1}
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [vitb16r224]}
    learning_rate: {type: uniform, min_value: 0.005, max_value: 0.05}
    number_of_epochs: {type: choice, values: [15, 30]}
    gradient_accumulation_step: {type: choice, values: [1, 2]}
  - model_name: {type: choice, values: [seresnext]}
    learning_rate: {type: uniform, min_value: 0.005, max_value: 0.05}
    validation_resize_size: {type: choice, values: [288, 320, 352]}
    validation_crop_size: {type: choice, values: [224, 256]}
    training_crop_size: {type: choice, values: [224, 256]}
"""

SEGMENTATION = """
task: image_instance_segmentation
primary_metric: mean_average_precision
limits: {timeout_minutes: 60, max_trials: 10, max_concurrent_trials: 2}
training_parameters: {early_stopping: True, evaluation_frequency: 1}
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [maskrcnn_resnet50_fpn]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.001}
    optimizer: {type: choice, values: [sgd, adam, adamw]}
    min_size: {type: choice, values: [600, 800]}
"""

SWEEPS = {"detection": DETECTION, "multi-class": MULTI_CLASS, "multi-label": MULTI_LABEL, "masks": SEGMENTATION}
TASKS = ("image_classification", "image_classification_multilabel", "image_object_detection")


def read(text: str) -> tuple[JobDocument, tuple[str, ...]]:
    reading = read_job(yaml.safe_load(HEAD + text))
    assert reading.faults == ()
    assert reading.job is not None
    return reading.job, reading.warnings


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sample_sweep_is_read_without_a_warning(name: str) -> None:
    job, warnings = read(SWEEPS[name])
    assert warnings == ()
    assert (job.limits.max_trials, job.limits.max_concurrent_trials, job.limits.timeout_minutes) == (10, 2, 60)
    assert (job.compute, job.log_verbosity) == ("gpu-cluster", "debug")
    assert job.sweep is not None
    policy = job.sweep.early_termination
    assert policy is not None
    assert (policy.type, policy.evaluation_interval, policy.slack_factor, policy.delay_evaluation) == (
        "bandit",
        2,
        0.2,
        6,
    )
    assert job.parameters == {"early_stopping": True, "evaluation_frequency": 1}
    written = yaml.safe_load(SWEEPS[name])["search_space"]
    assert [list(space) for space in job.search_space] == [list(space) for space in written]
    for space, expected in zip(job.search_space, written, strict=True):
        for key, expression in space.items():
            assert isinstance(expression, Expression)
            fields = {field: value for field, value in expected[key].items() if field != "type"}
            assert {field: _plain(value) for field, value in expression.arguments.items()} == fields


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_sub_spaces_have_their_own_models() -> None:
    job, _ = read(MULTI_CLASS)
    assert [candidate_models(job.task, job.parameters, space) for space in job.search_space] == [
        ("vitb16r224", "vits16r224"),
        ("seresnext", "resnet50"),
    ]


@pytest.mark.parametrize("task", [*TASKS, "image_instance_segmentation"])
def test_a_sample_of_an_automatic_sweep_is_read_without_a_warning(task: str) -> None:
    job, warnings = read(f"task: {task}\nlimits: {{max_trials: 10, max_concurrent_trials: 2}}\n")
    assert warnings == ()
    assert (job.sweep, job.search_space, job.parameters) == (None, (), {})
    assert (job.limits.max_trials, job.limits.max_concurrent_trials) == (10, 2)


def test_a_job_with_a_grid_over_a_range_breaks_the_rule_of_grids() -> None:
    text = "task: image_classification\nsweep: {sampling_algorithm: Grid}\nsearch_space:\n"
    text += "  - learning_rate: {type: uniform, min_value: 0.001, max_value: 0.01}\n    ams_gradient: true\n"
    text += "    warmup_cosine_lr_warmup_epochs: {type: choice, values: [0, 3]}\n"
    assert [fault.code for fault in read_job(yaml.safe_load(HEAD + text)).faults] == ["BAD_SWEEP"]


def test_the_old_form_of_limits_inside_a_sweep_is_refused() -> None:
    text = DETECTION.replace("  sampling_algorithm: random", "  sampling_algorithm: random\n  limits: {max_trials: 2}")
    assert [fault.target for fault in read_job(yaml.safe_load(HEAD + text)).faults] == ["sweep.limits"]


def test_jobs_of_other_kinds_are_refused_with_a_reason() -> None:
    pipeline = {"type": "pipeline", "jobs": {"node": {"type": "automl"}}, "settings": {}}
    [fault] = read_job(pipeline).faults
    assert fault.target == "type"
    assert "but got 'pipeline'; save jobs.node, an automl node, as a job file of its own" in fault.message
    [fault] = read_job({**pipeline, "jobs": {}}).faults
    assert fault.message.endswith("but got 'pipeline'; it has no automl node")
    [fault] = read_job({"type": "command", "command": "echo", "environment": "x"}).faults
    assert fault.message == "must be automl, the one kind of job that runs here, but got 'command'"
    [fault] = read_job(from_rest_body({"properties": {"jobType": "Pipeline", "jobs": {}}}, [])).faults
    assert "it has no automl node" in fault.message
