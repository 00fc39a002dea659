"""JSON Schemas accept what the readers accept, and refuse unknown keys where the readers refuse them."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.cli import root
from clearsight.console import run
from clearsight.documents.batch.document import parse_batch_deployment, parse_batch_endpoint
from clearsight.documents.deployment.document import parse_deployment, parse_endpoint
from clearsight.documents.job import read_job
from clearsight.documents.model import parse_model
from clearsight.documents.schemas import DOCUMENTS, document_schema
from clearsight.documents.settings import RcnnSettings, to_document
from clearsight.errors import InvalidDocument
from clearsight.tasks import Task

jsonschema = pytest.importorskip("jsonschema")

JOB = """
$schema: https://azuremlschemas.azureedge.net/latest/autoMLJob.schema.json
type: automl
experiment_name: demo
compute: azureml:gpu-cluster
task: image_object_detection
primary_metric: mean_average_precision
target_column_name: label
training_data:   {type: mltable, path: data/training-mltable-folder}
validation_data: {type: mltable, path: data/validation-mltable-folder, description: mine}
limits: {timeout_minutes: "60", max_trials: 10, max_concurrent_trials: 2}
training_parameters:
  early_stopping: 1
  learning_rate: 1e-3
  advanced_settings: '{"apply_mosaic_for_yolo": false}'
sweep:
  sampling_algorithm: Random
  early_termination: {type: Bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [yolov5]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.01}
    model_size: choice('small','ExtraLarge')
  - model_name: fasterrcnn_resnet50_fpn
    optimizer: {type: choice, values: [sgd, adam, AdamW]}
    layers_to_freeze: RANDINT(3)
outputs:
  best_model: {type: mlflow_model, storage_uri: ignored}
"""

DEPLOYMENT = """
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: Blue
endpoint_name: my-endpoint
model: azureml:od-fridge:1
instance_type: Standard_DS3_v2
instance_count: "2"
environment_variables: {WORKER_COUNT: "2", DEBUG: true}
environment: {image: some/image, inference_config: {liveness_route: {port: 8080, path: /ping}}}
request_settings: {request_timeout_ms: 90000, max_concurrent_requests_per_instance: 2}
liveness_probe: {failure_threshold: 30, success_threshold: 1, timeout: 2, period: 10, initial_delay: 2000}
"""

ENDPOINT = "{name: my-endpoint, auth_mode: AMLToken, tags: {team: vision}, traffic: {blue: 90, green: '10'}}"
BATCH_ENDPOINT = "{name: my-batch, auth_mode: AADToken, defaults: {deployment_name: Blue}, tags: {team: vision}}"
BATCH_DEPLOYMENT = """
$schema: https://azuremlschemas.azureedge.net/latest/modelBatchDeployment.schema.json
name: Blue
endpoint_name: my-batch
type: model
model: {path: /models/fridge, version: 2}
compute: azureml:batch-cluster
resources: {instance_count: 2, shm_size: 2g}
settings:
  mini_batch_size: "5"
  retry_settings: {max_retries: 0, timeout: 0.5}
  output_file_name: rows.parquet
  logging_level: DEBUG
  environment_variables: {WORKER_COUNT: 2}
"""
OLD_BATCH_DEPLOYMENT = """
name: Blue
endpoint_name: my-batch
model: azureml:fridge@latest
compute: local
mini_batch_size: 5
error_threshold: 0
"""
MODEL = "{name: fridge, path: ./mlflow-model, version: 3, type: mlflow_model, tags: {stable: true}}"

READERS: dict[str, Any] = {
    "job": read_job,
    "deployment": parse_deployment,
    "endpoint": parse_endpoint,
    "batch-endpoint": parse_batch_endpoint,
    "batch-deployment": parse_batch_deployment,
    "model": lambda document: parse_model(document, Path("jobs")),
}
SAMPLES = {
    "job": JOB,
    "deployment": DEPLOYMENT,
    "endpoint": ENDPOINT,
    "batch-endpoint": BATCH_ENDPOINT,
    "batch-deployment": BATCH_DEPLOYMENT,
    "model": MODEL,
}

MISSPELT: list[tuple[str, list[Any]]] = [
    ("job", []),
    ("job", ["limits"]),
    ("job", ["training_data"]),
    ("job", ["training_parameters"]),
    ("job", ["sweep"]),
    ("job", ["sweep", "early_termination"]),
    ("job", ["search_space", 0]),
    ("job", ["search_space", 0, "learning_rate"]),
    ("job", ["outputs", "best_model"]),
    ("deployment", []),
    ("deployment", ["request_settings"]),
    ("deployment", ["liveness_probe"]),
    ("deployment", ["environment"]),
    ("deployment", ["environment", "inference_config", "liveness_route"]),
    ("endpoint", []),
    ("batch-endpoint", []),
    ("batch-endpoint", ["defaults"]),
    ("batch-deployment", []),
    ("batch-deployment", ["resources"]),
    ("batch-deployment", ["settings"]),
    ("batch-deployment", ["settings", "retry_settings"]),
    ("model", []),
]


@functools.cache
def validator(document: str, task: Task | None = None) -> Any:
    schema = document_schema(document, task)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def errors(document: str, value: Any, task: Task | None = None) -> list[str]:
    return [error.message for error in validator(document, task).iter_errors(value)]


@pytest.mark.parametrize("document", SAMPLES)
def test_a_sample_that_is_read_is_valid(document: str) -> None:
    sample = yaml.safe_load(SAMPLES[document])
    assert READERS[document](sample) is not None
    assert errors(document, sample) == []


def test_a_batch_deployment_is_valid_in_one_of_two_layouts() -> None:
    old = yaml.safe_load(OLD_BATCH_DEPLOYMENT)
    assert parse_batch_deployment(old).mini_batch_size == 5
    assert errors("batch-deployment", old) == []
    for mixture in ({**old, "type": "model"}, {**old, "settings": {"mini_batch_size": 5}}):
        assert errors("batch-deployment", mixture) != []
        with pytest.raises(InvalidDocument, match="Unknown field"):
            parse_batch_deployment(mixture)


def test_a_job_is_valid_for_its_own_task_only() -> None:
    assert read_job(yaml.safe_load(JOB)).faults == ()
    assert errors("job", yaml.safe_load(JOB), Task.DETECTION) == []
    assert errors("job", yaml.safe_load(JOB), Task.SEGMENTATION) != []


@pytest.mark.parametrize(("document", "path"), MISSPELT)
def test_an_unknown_key_is_refused_at_every_depth(document: str, path: list[Any]) -> None:
    sample = yaml.safe_load(SAMPLES[document])
    holder = sample
    for key in path:
        holder = holder[key]
    holder["no_such_key"] = 1
    assert errors(document, sample) != []
    if document == "job":
        target = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in [*path, "no_such_key"])
        assert [fault.target for fault in read_job(sample).faults] == [target.removeprefix(".")]
    else:
        with pytest.raises(Exception, match="no_such_key: Unknown field"):
            READERS[document](sample)


@pytest.mark.parametrize(
    ("key", "value"), [("min_size", 0), ("box_score_thresh", 1.5), ("tile_grid_size", "3"), ("exif_orientation", "no")]
)
def test_settings_are_checked_and_foreign_keys_are_allowed(key: str, value: Any) -> None:
    written = json.loads(json.dumps(to_document(RcnnSettings()))) | {"box_score_threshold": 0.3, "labels": ["a"]}
    assert errors("settings", written, Task.DETECTION) == []
    assert errors("settings", {**written, key: value}, Task.DETECTION) != []


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "settings"])
def test_the_verb_prints_the_schema(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, ["schema", document]) == 0
    assert json.loads(capsys.readouterr().out) == document_schema(document)


def test_settings_need_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, ["schema", "settings"]) == 2
    assert "--task" in capsys.readouterr().err
    assert run(root, ["schema", "settings", "--task", "image_object_detection", "--model-name", "yolov5"]) == 0
    assert "img_size" in json.loads(capsys.readouterr().out)["properties"]
