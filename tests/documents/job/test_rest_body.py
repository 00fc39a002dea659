"""Jobs that Azure's Python client sends and dumps are equal to the same jobs written by hand."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.job import JobDocument, load_document, parse_job, read_job
from clearsight.errors import InvalidDocument

pytestmark = pytest.mark.filterwarnings("ignore")

Make = Callable[..., dict[str, Any]]
DATA = {"training_data": "azureml:train:1", "validation_data": "azureml:valid:2"}


@pytest.fixture(scope="module")
def azure() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import azure.ai.ml as client
        from azure.ai.ml import automl, sweep

    assert automl is not None
    assert sweep is not None
    return client


def multi_class(client: Any) -> tuple[Any, str]:
    """One trial, with every kind of value among its parameters."""
    job = client.automl.image_classification(
        **inputs(client), target_column_name="label", primary_metric="accuracy", name="one", experiment_name="fridge"
    )
    job.set_limits(timeout_minutes=60)
    job.set_training_parameters(
        model_name="seresnext",
        number_of_epochs=3,
        learning_rate=0.00001,
        learning_rate_scheduler="step",
        step_lr_gamma=0.4,
        step_lr_step_size=2,
        warmup_cosine_lr_cycles=0.3,
        warmup_cosine_lr_warmup_epochs=0,
        ams_gradient=True,
        nesterov=False,
        beta1=0.8,
        optimizer="adamw",
        layers_to_freeze=2,
        weighted_loss=1,
        validation_resize_size=288,
        enable_onnx_normalization=True,
        checkpoint_run_id="before_HD_3",
        advanced_settings='{"stream_image_files": true}',
    )
    return (
        job,
        """
task: image_classification
primary_metric: accuracy
name: one
experiment_name: fridge
limits: {timeout_minutes: 60}
training_parameters:
  model_name: seresnext
  number_of_epochs: 3
  learning_rate: 1.0e-5
  learning_rate_scheduler: step
  step_lr_gamma: 0.4
  step_lr_step_size: 2
  warmup_cosine_lr_cycles: 0.3
  warmup_cosine_lr_warmup_epochs: 0
  ams_gradient: true
  nesterov: false
  beta1: 0.8
  optimizer: adamw
  layers_to_freeze: 2
  weighted_loss: 1
  validation_resize_size: 288
  enable_onnx_normalization: true
  checkpoint_run_id: before_HD_3
  advanced_settings: '{"stream_image_files": true}'
""",
    )


def multi_label(client: Any) -> tuple[Any, str]:
    """A sweep with every expression, stopped by the median."""
    sweep = client.sweep
    job = client.automl.image_classification_multilabel(
        **inputs(client), target_column_name="label", primary_metric="iou", tags={"team": "vision"}, name="two"
    )
    job.set_limits(max_trials=4, max_concurrent_trials=2, timeout_minutes=24 * 60 + 90)
    job.set_sweep(sampling_algorithm="Random", early_termination=sweep.MedianStoppingPolicy(delay_evaluation=3))
    job.extend_search_space(
        [
            client.automl.SearchSpace(
                model_name=sweep.Choice(["vitb16r224", "vits16r224"]),
                learning_rate=sweep.LogUniform(-6.9, -2.3),
                number_of_epochs=sweep.QUniform(10, 30, 5),
                training_batch_size=sweep.Choice(range(1, 4)),
                momentum=sweep.Normal(0.9, 0.05),
                weight_decay=0.00001,
                nesterov=sweep.Choice([True, False]),
            ),
            client.automl.SearchSpace(
                model_name="resnet50",
                learning_rate=sweep.Uniform(0.00001, 0.1),
                layers_to_freeze=sweep.Randint(3),
                optimizer=sweep.Choice(["sgd", "adamw"]),
                beta1=sweep.QNormal(0.9, 0.1, 0.05),
                early_stopping=False,
                warmup_cosine_lr_warmup_epochs=sweep.Choice([0, 3]),
            ),
        ]
    )
    return (
        job,
        """
task: image_classification_multilabel
primary_metric: iou
name: two
tags: {team: vision}
limits: {max_trials: 4, max_concurrent_trials: 2, timeout_minutes: 1530}
sweep:
  sampling_algorithm: random
  early_termination: {type: median_stopping, delay_evaluation: 3, evaluation_interval: 1}
search_space:
  - model_name: {type: choice, values: [vitb16r224, vits16r224]}
    learning_rate: {type: loguniform, min_value: -6.9, max_value: -2.3}
    number_of_epochs: {type: quniform, min_value: 10, max_value: 30, q: 5}
    training_batch_size: {type: choice, values: [1, 2, 3]}
    momentum: {type: normal, mu: 0.9, sigma: 0.05}
    weight_decay: 0.00001
    nesterov: {type: choice, values: [true, false]}
  - model_name: resnet50
    learning_rate: {type: uniform, min_value: 0.00001, max_value: 0.1}
    layers_to_freeze: {type: randint, upper: 3}
    optimizer: {type: choice, values: [sgd, adamw]}
    beta1: {type: qnormal, mu: 0.9, sigma: 0.1, q: 0.05}
    early_stopping: false
    warmup_cosine_lr_warmup_epochs: {type: choice, values: [0, 3]}
""",
    )


def detection(client: Any) -> tuple[Any, str]:
    """Two families of models, stopped by slack; a zero that the client sends means "not set"."""
    sweep = client.sweep
    job = client.automl.image_object_detection(
        training_data=client.Input(type="mltable", path="azureml:train:1"),
        target_column_name="label",
        primary_metric="mean_average_precision",
        validation_data_size=0.3,
        properties={"node_count_per_trial": "1"},
        description="cans",
        display_name="Cans",
        compute="gpu-cluster",
        name="three",
    )
    job.set_limits(max_trials=10, max_concurrent_trials=2, timeout_minutes=7 * 24 * 60)
    job.set_training_parameters(early_stopping=True, evaluation_frequency=1, validation_metric_type="coco_voc")
    job.set_sweep(
        sampling_algorithm="random",
        early_termination=sweep.BanditPolicy(evaluation_interval=2, slack_factor=0.2, delay_evaluation=6),
    )
    job.extend_search_space(
        [
            client.automl.SearchSpace(
                model_name=sweep.Choice(["yolov5"]),
                learning_rate=sweep.Uniform(0.0001, 0.01),
                model_size=sweep.Choice(["small", "extra_large"]),
                tile_grid_size=sweep.Choice(["2x1", "1x1"]),
            ),
            client.automl.SearchSpace(
                model_name=sweep.Choice(["fasterrcnn_resnet50_fpn"]),
                min_size=sweep.Choice([600, 800]),
                box_detections_per_image=100,
                nms_iou_threshold=0.4,
            ),
        ]
    )
    return (
        job,
        """
task: image_object_detection
primary_metric: mean_average_precision
validation_data: null
validation_data_size: 0.3
properties: {node_count_per_trial: "1"}
description: cans
display_name: Cans
compute: gpu-cluster
name: three
limits: {max_trials: 10, max_concurrent_trials: 2, timeout_minutes: 10080}
training_parameters: {early_stopping: true, evaluation_frequency: 1, validation_metric_type: coco_voc}
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [yolov5]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.01}
    model_size: {type: choice, values: [small, extra_large]}
    tile_grid_size: {type: choice, values: [2x1, 1x1]}
  - model_name: {type: choice, values: [fasterrcnn_resnet50_fpn]}
    min_size: {type: choice, values: [600, 800]}
    box_detections_per_image: 100
    nms_iou_threshold: 0.4
""",
    )


def segmentation(client: Any) -> tuple[Any, str]:
    """A grid that stops the worst trials, and an algorithm in the spelling of the client's enum."""
    sweep = client.sweep
    job = client.automl.image_instance_segmentation(
        **inputs(client), target_column_name="label", primary_metric="MeanAveragePrecision", name="four"
    )
    job.set_limits(max_trials=6)
    job.set_training_parameters(min_size=500, log_validation_loss="Disable")
    job.set_sweep(
        sampling_algorithm="Grid",
        early_termination=sweep.TruncationSelectionPolicy(truncation_percentage=20, evaluation_interval=5),
    )
    job.extend_search_space(
        client.automl.SearchSpace(
            model_name=sweep.Choice(["maskrcnn_resnet18_fpn", "maskrcnn_resnet50_fpn"]),
            optimizer=sweep.Choice(["sgd", "adam", "adamw"]),
        )
    )
    return (
        job,
        """
task: image_instance_segmentation
primary_metric: mean_average_precision
name: four
limits: {max_trials: 6}
training_parameters: {min_size: 500, log_validation_loss: Disable}
sweep:
  sampling_algorithm: grid
  early_termination: {type: truncation_selection, truncation_percentage: 20, evaluation_interval: 5}
search_space:
  - model_name: {type: choice, values: [maskrcnn_resnet18_fpn, maskrcnn_resnet50_fpn]}
    optimizer: {type: choice, values: [sgd, adam, adamw]}
""",
    )


def automatic(client: Any) -> tuple[Any, str]:
    """A sweep with nothing but the number of trials."""
    job = client.automl.image_classification(**inputs(client), target_column_name="label", name="five")
    job.set_limits(max_trials=10, max_concurrent_trials=2)
    return (
        job,
        """
task: image_classification
name: five
limits: {max_trials: 10, max_concurrent_trials: 2}
""",
    )


def inputs(client: Any) -> dict[str, Any]:
    return {key: client.Input(type="mltable", path=path) for key, path in DATA.items()}


def by_hand(text: str) -> JobDocument:
    head = {"type": "automl", "target_column_name": "label"}
    data = {key: {"type": "mltable", "path": path} for key, path in DATA.items()}
    return parse_job({**head, **data, **yaml.safe_load(text)})


JOBS = [multi_class, multi_label, detection, segmentation, automatic]


@pytest.mark.parametrize("build", JOBS)
def test_the_body_that_the_client_sends_is_the_job_written_by_hand(build: Any, azure: Any, tmp_path: Path) -> None:
    job, text = build(azure)
    body = job._to_rest_object().as_dict()
    assert set(body["properties"]["taskDetails"]) >= {"taskType", "trainingData"}
    file = tmp_path / "body.json"
    file.write_text(json.dumps({**body, "name": job.name}))
    notes: list[str] = []
    assert parse_job(load_document(file, notes)) == by_hand(text)
    assert notes == []


@pytest.mark.parametrize("build", JOBS)
def test_the_file_that_the_client_dumps_is_the_job_written_by_hand(build: Any, azure: Any, tmp_path: Path) -> None:
    job, text = build(azure)
    file = tmp_path / "job.yml"
    job.dump(file)
    assert parse_job(load_document(file)) == by_hand(text)


@pytest.mark.parametrize("build", JOBS)
def test_a_file_that_the_client_submits_is_the_same_job(build: Any, azure: Any, tmp_path: Path) -> None:
    _, text = build(azure)
    # The client turns names of registered data into ids only when it calls the service; these stay as they are.
    stored = {key: {"path": f"azureml://datastores/store/paths/{key}"} for key in DATA}
    head = {"type": "automl", "target_column_name": "label", **stored}
    outputs = {"best_model": {"type": "mlflow_model", "mode": "rw_mount"}}
    document = {**head, **yaml.safe_load(text), "outputs": outputs, "log_verbosity": "debug"}
    document = {key: value for key, value in document.items() if value is not None}
    file = tmp_path / "job.yml"
    file.write_text(yaml.safe_dump(document))
    job = azure.load_job(file)
    body = {**job._to_rest_object().as_dict(), "name": job.name}
    (tmp_path / "body.json").write_text(json.dumps(body))
    sent = parse_job(load_document(tmp_path / "body.json"))
    assert sent.outputs.keys() == {"best_model"}  # the client sends every type as that of a folder
    assert replace(sent, outputs={}) == replace(parse_job(document), outputs={})


BODY: dict[str, Any] = {
    "properties": {
        "jobType": "AutoML",
        "taskDetails": {
            "taskType": "ImageObjectDetection",
            "targetColumnName": "label",
            "trainingData": {"jobInputType": "mltable", "uri": "data"},
        },
    }
}


def written(tmp_path: Path, body: Any, indent: int | str | None = None) -> Path:
    file = tmp_path / "body.json"
    file.write_text(json.dumps(body, indent=indent))
    return file


def details(**changes: Any) -> dict[str, Any]:
    return {"properties": {"jobType": "AutoML", "taskDetails": {**BODY["properties"]["taskDetails"], **changes}}}


def test_the_smallest_body_is_a_job(tmp_path: Path) -> None:
    for indent in (None, 2, "\t"):
        job = parse_job(load_document(written(tmp_path, BODY, indent)))
        assert (job.task.value, job.data.training.path, job.name) == ("image_object_detection", "data", None)


def test_a_name_may_stand_in_the_id_that_the_service_gave(tmp_path: Path) -> None:
    body = {**BODY, "id": "/subscriptions/s/resourceGroups/g/jobs/one", "type": "jobs", "systemData": {}}
    assert load_document(written(tmp_path, body))["name"] == "one"
    assert load_document(written(tmp_path, {**body, "name": "two"}))["name"] == "two"


@pytest.mark.parametrize(
    ("duration", "minutes"),
    [("PT1H", 60), ("PT3H", 180), ("PT90M", 90), ("P7D", 10_080), ("P1DT1H30M", 1530), ("P1W", 10_080), ("PT90S", 1)],
)
def test_durations_are_iso_8601(duration: str, minutes: int, tmp_path: Path) -> None:
    job = parse_job(load_document(written(tmp_path, details(limitSettings={"timeout": duration}))))
    assert job.limits.timeout_minutes == minutes


@pytest.mark.parametrize("duration", ["1 hour", "P", "PT", "PTH", "", 60.5, {}])
def test_a_duration_of_another_kind_is_a_fault(duration: Any, tmp_path: Path) -> None:
    [fault] = read_job(load_document(written(tmp_path, details(limitSettings={"timeout": duration})))).faults
    assert (fault.code, fault.target) == ("BAD_TYPE", "limits.timeout_minutes")


def test_zeros_of_a_policy_mean_not_set(tmp_path: Path) -> None:
    policy = {
        "policyType": "Bandit",
        "evaluationInterval": 0,
        "delayEvaluation": 0,
        "slackFactor": 0,
        "slackAmount": 0.1,
    }
    space = [{"modelName": "yolov5", "learningRate": "uniform(0.001,0.01)"}]
    sweep = {"samplingAlgorithm": "Random", "earlyTermination": policy}
    job = parse_job(load_document(written(tmp_path, details(sweepSettings=sweep, searchSpace=space))))
    assert job.sweep is not None
    assert job.sweep.early_termination is not None
    assert job.sweep.early_termination.evaluation_interval == 1
    assert job.sweep.early_termination.slack_amount == 0.1
    truncation = {"samplingAlgorithm": "Random", "earlyTermination": {"policyType": "TruncationSelection"}}
    truncation["earlyTermination"] |= {"truncationPercentage": 0}  # type: ignore[operator]
    [fault] = read_job(load_document(written(tmp_path, details(sweepSettings=truncation, searchSpace=space)))).faults
    assert fault.code == "MISSING_KEY"


def test_what_only_newer_clients_send_is_ignored_by_name(tmp_path: Path) -> None:
    body = details(
        modelSettings={"checkpointModel": {"uri": "x"}, "augmentations": "flip", "learningRate": 0.1},
        somethingNew=3,
        fixedParameters=None,
    )
    notes: list[str] = []
    job = parse_job(load_document(written(tmp_path, body), notes))
    assert job.parameters == {"learning_rate": 0.1}
    assert [note.partition(":")[0] for note in notes] == [
        "properties.taskDetails.modelSettings.checkpointModel",
        "properties.taskDetails.modelSettings.augmentations",
        "properties.taskDetails.somethingNew",
    ]


def test_faults_of_a_body_come_together_under_the_keys_of_job_files(tmp_path: Path) -> None:
    body = details(
        taskType="ImageDetection",
        limitSettings={"maxTrials": 0},
        trainingData={"jobInputType": "uri_folder", "uri": "x"},
    )
    found = {fault.target: fault.code for fault in read_job(load_document(written(tmp_path, body))).faults}
    assert found == {"task": "BAD_ENUM", "limits.max_trials": "OUT_OF_RANGE", "training_data.type": "BAD_ENUM"}
    body = details(
        modelSettings={"learningRte": 0.1, "trainingCropSize": 224},
        searchSpace=[{"minSize": "choice(a,b)"}],
        sweepSettings={"samplingAlgorithm": "Random", "earlyTermination": {"policyType": "Hyperband"}},
    )
    reading = read_job(load_document(written(tmp_path, body)))
    assert {(fault.code, fault.target) for fault in reading.faults} == {
        ("UNKNOWN_KEY", "training_parameters.learning_rte"),
        ("BAD_PARAM_FOR_TASK", "training_parameters.training_crop_size"),
        ("BAD_TYPE", "search_space[0].min_size.values"),
        ("BAD_ENUM", "sweep.early_termination.type"),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"limitSettings": 3},
        {"sweepSettings": "random"},
        {"modelSettings": []},
        {"searchSpace": {"learningRate": "0.1"}},
        {"searchSpace": [3]},
        {"trainingData": "data"},
        {"sweepSettings": {"samplingAlgorithm": "Random", "earlyTermination": "Bandit"}},
    ],
)
def test_a_part_of_another_shape_is_a_fault_and_no_crash(changes: dict[str, Any], tmp_path: Path) -> None:
    assert "BAD_TYPE" in {fault.code for fault in read_job(load_document(written(tmp_path, details(**changes)))).faults}


def test_bodies_of_other_jobs_are_refused(tmp_path: Path) -> None:
    body = {"properties": {**BODY["properties"], "jobType": "Command"}}
    assert "type" in {fault.target for fault in read_job(load_document(written(tmp_path, body))).faults}


def test_a_job_file_may_be_json_with_its_own_keys(document: Make, tmp_path: Path) -> None:
    assert parse_job(load_document(written(tmp_path, document(), "\t"))) == parse_job(document())
    with pytest.raises(InvalidDocument, match="must hold a mapping"):
        load_document(written(tmp_path, [1]))
