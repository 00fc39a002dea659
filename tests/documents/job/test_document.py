from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.job import JobDocument, apply_overrides, load_document, parse_job, read_job
from clearsight.documents.job.search_space import Expression
from clearsight.documents.job.sweep import EarlyTermination, JobLimits
from clearsight.errors import InvalidDocument
from clearsight.tasks import Task

Make = Callable[..., dict[str, Any]]


def test_an_empty_document_lists_every_missing_key() -> None:
    reading = read_job({})
    assert [(fault.code, fault.target) for fault in reading.faults] == [
        ("MISSING_KEY", "type"),
        ("MISSING_KEY", "task"),
        ("MISSING_KEY", "target_column_name"),
        ("MISSING_KEY", "training_data"),
    ]
    assert reading.job is None


def test_the_smallest_job_has_azures_defaults(document: Make) -> None:
    job = parse_job(document())
    assert job.task is Task.MULTI_CLASS
    assert job.limits == JobLimits(max_trials=1, max_concurrent_trials=1, timeout_minutes=7 * 24 * 60)
    assert (job.compute, job.log_verbosity, job.data.validation_size) == ("local", "info", None)


def test_a_full_sweep_is_read() -> None:
    job = parse_job(
        yaml.safe_load("""
        $schema: https://azuremlschemas.azureedge.net/latest/autoMLJob.schema.json
        type: automl
        experiment_name: demo
        compute: azureml:gpu-cluster
        task: image_object_detection
        primary_metric: mean_average_precision
        log_verbosity: debug
        target_column_name: label
        training_data:   {type: mltable, path: data/training-mltable-folder}
        validation_data: {type: mltable, path: data/validation-mltable-folder}
        limits: {timeout_minutes: "60", max_trials: 10, max_concurrent_trials: 20}
        training_parameters:
          early_stopping: 1
          evaluation_frequency: 1
          advanced_settings: >
            {"apply_mosaic_for_yolo": false}
        sweep:
          sampling_algorithm: Random
          early_termination:
            {type: Bandit, evaluation_interval: 2, slack_factor: 0.2, slack_amount: 0.0, delay_evaluation: 6}
        search_space:
          - model_name: {type: choice, values: [yolov5]}
            learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.01}
            model_size: choice('small','ExtraLarge')
          - model_name: fasterrcnn_resnet50_fpn
            optimizer: {type: choice, values: [sgd, adam, AdamW]}
            min_size: {type: choice, values: [600, 800]}
            layers_to_freeze: {type: randint, upper: 3}
        outputs:
          best_model: {type: mlflow_model, storage_uri: ignored}
        """)
    )
    assert job.limits == JobLimits(max_trials=10, max_concurrent_trials=10, timeout_minutes=60)
    assert job.parameters == {"early_stopping": True, "evaluation_frequency": 1}
    assert job.advanced.apply_mosaic_for_yolo is False
    assert job.sweep is not None
    assert job.sweep.sampling_algorithm == "random"
    assert job.sweep.early_termination == EarlyTermination("bandit", 2, 6, slack_factor=0.2)
    first, second = job.search_space
    assert first["learning_rate"] == Expression("uniform", {"min_value": 0.0001, "max_value": 0.01})
    assert first["model_size"] == Expression("choice", {"values": ("small", "extra_large")})
    assert second["model_name"] == "fasterrcnn_resnet50_fpn"
    assert second["optimizer"] == Expression("choice", {"values": ("sgd", "adam", "adamw")})
    assert second["layers_to_freeze"] == Expression("randint", {"upper": 3})


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"nesterov": 0, "early_stopping": "True", "distributed": "false"}, (False, True, False)),
        ({"nesterov": True, "early_stopping": "1", "distributed": False}, (True, True, False)),
    ],
)
def test_booleans_may_be_numbers_or_text(written: Any, expected: Any, document: Make) -> None:
    parameters = parse_job(document(training_parameters=written)).parameters
    assert tuple(parameters[name] for name in ("nesterov", "early_stopping", "distributed")) == expected


def test_numbers_may_be_text_and_enums_in_any_case(document: Make) -> None:
    written = {
        "learning_rate": "1e-3",
        "number_of_epochs": "7",
        "training_batch_size": 4.0,
        "learning_rate_scheduler": "WarmupCosine",
        "optimizer": "ADAMW",
    }
    assert parse_job(document(training_parameters=written)).parameters == {
        "learning_rate": 0.001,
        "number_of_epochs": 7,
        "training_batch_size": 4,
        "learning_rate_scheduler": "warmup_cosine",
        "optimizer": "adamw",
    }


def test_none_and_null_mean_not_set(document: Make) -> None:
    job = parse_job(document(training_parameters={"optimizer": "none", "momentum": None}, sweep=None, limits=None))
    assert job.parameters == {}
    assert job.sweep is None


def test_none_is_a_value_of_the_validation_metric(document: Make) -> None:
    written = {"validation_metric_type": "none", "model_size": "xlarge", "tile_grid_size": "(3, 2)"}
    job = parse_job(document(task="image_object_detection", training_parameters=written))
    assert job.parameters == {"validation_metric_type": "none", "model_size": "extra_large", "tile_grid_size": "3x2"}


@pytest.mark.parametrize("value", ["accuracy", "Accuracy", "ACCURACY"])
def test_the_primary_metric_may_be_written_in_any_case(value: str, document: Make) -> None:
    assert read_job(document(primary_metric=value)).faults == ()


def test_advanced_settings_may_be_a_mapping_with_extensions(document: Make) -> None:
    settings = {"x_pretrained": False, "x_weights_dir": "weights", "stream_image_files": 1, "x_min_crop_scale": "0.5"}
    advanced = parse_job(document(training_parameters={"advanced_settings": settings})).advanced
    assert (advanced.x_pretrained, advanced.x_weights_dir, advanced.stream_image_files) == (False, "weights", True)
    assert advanced.x_min_crop_scale == 0.5


def test_an_unknown_advanced_setting_is_a_warning_with_a_suggestion(document: Make) -> None:
    reading = read_job(document(training_parameters={"advanced_settings": '{"x_pretraind": false}'}))
    assert reading.faults == ()
    [warning] = reading.warnings
    assert "did you mean 'x_pretrained'?" in warning


def test_what_azure_ignores_is_ignored_with_a_warning(document: Make) -> None:
    reading = read_job(
        document(
            test_data={"path": "x"},
            validation_data={"path": "v", "description": "mine"},
            validation_data_size=0.3,
            properties={"node_count_per_trial": 2},
            queue_settings={"job_tier": "spot"},
            status="Completed",
        )
    )
    assert reading.faults == ()
    assert {warning.partition(":")[0] for warning in reading.warnings} == {
        "test_data",
        "validation_data_size",
        "properties.node_count_per_trial",
    }


def parameters(**values: Any) -> dict[str, Any]:
    return {"training_parameters": values}


def detection(**values: Any) -> dict[str, Any]:
    return {"task": "image_object_detection", "training_parameters": values}


def sweep(space: Any, **values: Any) -> dict[str, Any]:
    return {"sweep": {"sampling_algorithm": "random", **values}, "search_space": space}


SPACE = [{"learning_rate": {"type": "uniform", "min_value": 0.001, "max_value": 0.01}}]

FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "AutoML"}, "BAD_ENUM", "type"),
    ({"type": "pipeline"}, "BAD_ENUM", "type"),
    ({"task": "ImageClassification"}, "BAD_ENUM", "task"),
    ({"name": "a b"}, "BAD_TYPE", "name"),
    ({"tags": {"version": 1}}, "BAD_TYPE", "tags"),
    ({"traning_parameters": {}}, "UNKNOWN_KEY", "traning_parameters"),
    ({"training_data": {"type": "mltable"}}, "MISSING_KEY", "training_data.path"),
    ({"training_data": {"type": "uri_folder", "path": "x"}}, "BAD_ENUM", "training_data.type"),
    ({"training_data": "${{parent.inputs.train}}"}, "BAD_TYPE", "training_data"),
    ({"training_data": {"path": "x", "uri": "y"}}, "UNKNOWN_KEY", "training_data.uri"),
    ({"validation_data_size": 0}, "OUT_OF_RANGE", "validation_data_size"),
    ({"validation_data_size": 1.0}, "OUT_OF_RANGE", "validation_data_size"),
    ({"primary_metric": "auc_weighted"}, "BAD_ENUM", "primary_metric"),
    ({"primary_metric": "iou"}, "BAD_ENUM", "primary_metric"),
    ({"log_verbosity": "loud"}, "BAD_ENUM", "log_verbosity"),
    ({"resources": {"instance": "x"}}, "UNKNOWN_KEY", "resources.instance"),
    ({"outputs": {"best_model": {"type": "model"}}}, "BAD_ENUM", "outputs.best_model.type"),
    ({"limits": {"max_trials": 0}}, "OUT_OF_RANGE", "limits.max_trials"),
    ({"limits": {"max_concurrent_trials": 101}}, "OUT_OF_RANGE", "limits.max_concurrent_trials"),
    ({"limits": {"timeout_minutes": 86_401}}, "OUT_OF_RANGE", "limits.timeout_minutes"),
    ({"limits": {"trial_timeout_minutes": 5}}, "UNKNOWN_KEY", "limits.trial_timeout_minutes"),
    ({"limits": [1]}, "BAD_TYPE", "limits"),
    (parameters(number_of_epochs=1.5), "BAD_TYPE", "training_parameters.number_of_epochs"),
    (parameters(number_of_epochs=0), "OUT_OF_RANGE", "training_parameters.number_of_epochs"),
    (parameters(number_of_epochs=True), "BAD_TYPE", "training_parameters.number_of_epochs"),
    (parameters(learning_rate=1.01), "OUT_OF_RANGE", "training_parameters.learning_rate"),
    (parameters(learning_rate="nan"), "BAD_TYPE", "training_parameters.learning_rate"),
    (parameters(step_lr_step_size=0), "OUT_OF_RANGE", "training_parameters.step_lr_step_size"),
    (parameters(nesterov=2), "BAD_TYPE", "training_parameters.nesterov"),
    (parameters(optimizer="lamb"), "BAD_ENUM", "training_parameters.optimizer"),
    (parameters(weighted_loss=3), "OUT_OF_RANGE", "training_parameters.weighted_loss"),
    (parameters(label_smoothing=0.1), "UNKNOWN_KEY", "training_parameters.label_smoothing"),
    (parameters(lr_scheduler="step"), "UNKNOWN_KEY", "training_parameters.lr_scheduler"),
    (parameters(min_size=600), "BAD_PARAM_FOR_TASK", "training_parameters.min_size"),
    (parameters(image_type="jpg"), "BAD_PARAM_FOR_TASK", "training_parameters.image_type"),
    (parameters(model_name="resnet19"), "BAD_MODEL", "training_parameters.model_name"),
    (parameters(model_name="ResNet18"), "BAD_MODEL", "training_parameters.model_name"),
    (
        parameters(model_name="resnet18", layers_to_freeze=6),
        "BAD_PARAM_FOR_MODEL",
        "training_parameters.layers_to_freeze",
    ),
    (
        parameters(model_name="resnet18", validation_crop_size=300),
        "BAD_PARAM_FOR_MODEL",
        "training_parameters.validation_resize_size",
    ),
    (
        parameters(model_name="vits16r224", training_crop_size=192),
        "BAD_PARAM_FOR_MODEL",
        "training_parameters.training_crop_size",
    ),
    (
        parameters(model_name="seresnext", training_crop_size=200),
        "BAD_PARAM_FOR_MODEL",
        "training_parameters.training_crop_size",
    ),
    (parameters(advanced_settings="{x"), "BAD_ADVANCED_SETTINGS", "training_parameters.advanced_settings"),
    (parameters(advanced_settings="[1]"), "BAD_ADVANCED_SETTINGS", "training_parameters.advanced_settings"),
    (
        parameters(advanced_settings={"x_pretrained": "maybe", "x_min_crop_scale": 1}),
        "BAD_ADVANCED_SETTINGS",
        "training_parameters.advanced_settings.x_pretrained",
    ),
    (detection(training_crop_size=224), "BAD_PARAM_FOR_TASK", "training_parameters.training_crop_size"),
    (detection(min_size=600), "BAD_PARAM_FOR_MODEL", "training_parameters.min_size"),
    (
        detection(model_name="fasterrcnn_resnet50_fpn", image_size=640),
        "BAD_PARAM_FOR_MODEL",
        "training_parameters.image_size",
    ),
    (detection(tile_grid_size="3"), "BAD_TYPE", "training_parameters.tile_grid_size"),
    (detection(tile_grid_size="21x1"), "OUT_OF_RANGE", "training_parameters.tile_grid_size"),
    (detection(tile_overlap_ratio=1), "OUT_OF_RANGE", "training_parameters.tile_overlap_ratio"),
    (detection(validation_iou_threshold=0.05), "OUT_OF_RANGE", "training_parameters.validation_iou_threshold"),
    (detection(model_name="mmd-3x-yolof_r50_c5_8x8_1x_coco"), "BAD_MODEL", "training_parameters.model_name"),
    (
        {"task": "image_instance_segmentation", "training_parameters": {"tile_grid_size": "2x2"}},
        "BAD_PARAM_FOR_TASK",
        "training_parameters.tile_grid_size",
    ),
    ({"sweep": {"sampling_algorithm": "random"}}, "BAD_SWEEP", "sweep"),
    (sweep(SPACE, sampling_algorithm=None), "MISSING_KEY", "sweep.sampling_algorithm"),
    (sweep(SPACE, sampling_algorithm="genetic"), "BAD_ENUM", "sweep.sampling_algorithm"),
    (sweep(SPACE, limits={"max_trials": 2}), "UNKNOWN_KEY", "sweep.limits"),
    (sweep(SPACE, sampling_algorithm="grid"), "BAD_SWEEP", "search_space[0].learning_rate"),
    (sweep(SPACE * 2, sampling_algorithm="bayesian"), "BAD_SWEEP", "search_space"),
    (sweep(SPACE, early_termination={}), "MISSING_KEY", "sweep.early_termination.type"),
    (sweep(SPACE, early_termination={"type": "bandit"}), "BAD_SWEEP", "sweep.early_termination"),
    (
        sweep(SPACE, early_termination={"type": "bandit", "slack_factor": 0.1, "slack_amount": 0.1}),
        "BAD_SWEEP",
        "sweep.early_termination",
    ),
    (
        sweep(SPACE, early_termination={"type": "truncation_selection"}),
        "MISSING_KEY",
        "sweep.early_termination.truncation_percentage",
    ),
    (sweep({"learning_rate": 0.1}), "BAD_TYPE", "search_space"),
    (sweep([{"learning_rate": {"values": [0.1]}}]), "MISSING_KEY", "search_space[0].learning_rate.type"),
    (sweep([{"learning_rate": {"type": "choice", "values": []}}]), "BAD_SWEEP", "search_space[0].learning_rate.values"),
    (sweep([{"optimizer": {"type": "choice", "values": ["x"]}}]), "BAD_ENUM", "search_space[0].optimizer.values"),
    (
        sweep([{"learning_rate": {"type": "uniform", "min_value": 2, "max_value": 1}}]),
        "OUT_OF_RANGE",
        "search_space[0].learning_rate.min_value",
    ),
    (
        sweep([{"number_of_epochs": {"type": "uniform", "min_value": 1, "max_value": 2}}]),
        "BAD_SWEEP",
        "search_space[0].number_of_epochs.type",
    ),
    (sweep([{"momentum": {"type": "normal", "mu": 0}}]), "MISSING_KEY", "search_space[0].momentum.sigma"),
    (
        sweep([{"checkpoint_frequency": {"type": "choice", "values": [1]}}]),
        "BAD_SWEEP",
        "search_space[0].checkpoint_frequency",
    ),
]


@pytest.mark.parametrize(("changes", "code", "target"), FAULTS, ids=[f"{code}-{target}" for _, code, target in FAULTS])
def test_each_fault_is_named_with_its_code_and_key(changes: Any, code: str, target: str, document: Make) -> None:
    reading = read_job(document(**changes))
    assert [(fault.code, fault.target) for fault in reading.faults] == [(code, target)]


def test_all_faults_come_together(document: Make) -> None:
    broken = document(limits={"max_trials": 0}, typo=1, training_parameters={"momentum": 2, "learning_rat": 0.1})
    with pytest.raises(InvalidDocument) as caught:
        parse_job(broken)
    assert {fault.target for fault in caught.value.faults} == {
        "limits.max_trials",
        "typo",
        "training_parameters.momentum",
        "training_parameters.learning_rat",
    }
    assert "did you mean 'learning_rate'?" in str(caught.value)


def test_a_size_that_is_drawn_per_trial_is_not_compared(document: Make) -> None:
    space = [{"validation_resize_size": {"type": "choice", "values": [320, 352]}, "validation_crop_size": 288}]
    changes = {**sweep(space), "training_parameters": {"model_name": "resnet50"}}
    assert read_job(document(**changes)).faults == ()


def test_overrides_reach_mappings_lists_and_json_text(document: Make) -> None:
    before = document(
        search_space=[{"learning_rate": 0.1}], training_parameters={"advanced_settings": '{"stream_image_files": true}'}
    )
    after = apply_overrides(
        before,
        {
            "limits.max_trials": 3,
            "search_space.0.learning_rate": 0.2,
            "training_parameters.advanced_settings.x_pretrained": False,
        },
    )
    assert after["limits"] == {"max_trials": 3}
    assert after["search_space"] == [{"learning_rate": 0.2}]
    assert after["training_parameters"]["advanced_settings"] == {"stream_image_files": True, "x_pretrained": False}
    assert "limits" not in before
    assert before["search_space"] == [{"learning_rate": 0.1}]


@pytest.mark.parametrize("path", ["type.x", "search_space.3.learning_rate", "search_space.x"])
def test_an_override_that_leads_nowhere_is_refused(path: str, document: Make) -> None:
    with pytest.raises(InvalidDocument, match="cannot reach"):
        apply_overrides(document(search_space=[{}]), {path: 1})


@pytest.mark.parametrize("content", [None, "", "- a", "a: [", "\xff"])
def test_a_file_that_is_no_job_is_one_fault(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidDocument) as caught:
        load_document(file)
    assert len(caught.value.faults) == 1
    assert str(file) in str(caught.value)


def test_a_job_is_immutable(document: Make) -> None:
    job = parse_job(document())
    assert isinstance(job, JobDocument)
    with pytest.raises(AttributeError):
        job.compute = "x"  # type: ignore[misc]
