"""Keys of a job beside its hyperparameters and its sweep.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-cli-classification
"""

from collections.abc import Callable, Iterable
from typing import Any

from clearsight.documents.job import DataInput, Output, read_job
from clearsight.tasks import Task

Make = Callable[..., dict[str, Any]]
CheckRows = Callable[[Callable[..., None], Iterable[Any]], None]

ACCEPTED: dict[str, list[Any]] = {
    "$schema": ["https://azuremlschemas.azureedge.net/latest/autoMLJob.schema.json", "", None],
    "name": ["a", "A_job-3", "7", None],
    "display_name": ["What is in the fridge?", "", None],
    "description": ["any text\nof several lines", "", None],
    "experiment_name": ["fridge", "", None],
    "tags": [{}, {"team": "vision", "empty": None}, None],
    "properties": [{}, {"a": "b", "c": None}, {"node_count_per_trial": "1"}, {"node_count_per_trial": 1}, None],
    "compute": ["local", "azureml:gpu-cluster", "gpu-cluster", None],
    "resources": [
        {},
        {"instance_type": "Standard_NC24ads_A100_v4", "instance_count": 2, "shm_size": "2g", "max_instance_count": 4},
        {"locations": ["westeurope"], "docker_args": "--ipc=host", "properties": {"a": {"b": 1}}},
        {"docker_args": ["--ipc", "host"]},
        None,
    ],
    "queue_settings": [{"job_tier": "spot", "priority": "low"}, {}, None],
    "identity": [{"type": "user_identity"}, {"type": "managed", "client_id": "x"}, None],
    "environment_id": ["azureml:env:1", None],
    "environment_variables": [{}, {"NCCL_DEBUG": "INFO"}, None],
    "services": [{}, {"ui": {"type": "jupyter_lab"}}, None],
    "log_verbosity": ["not_set", "NotSet", "debug", "Info", "WARNING", "error", "critical", None],
    "validation_data": [None, {"path": "v"}, {"type": "mltable", "path": "azureml:v:3", "mode": "eval_mount"}],
    "limits": [{}, {"max_trials": "1000", "max_concurrent_trials": 100, "timeout_minutes": 86_400.0}, None],
    "training_parameters": [{}, None],
    "sweep": [None],
    "search_space": [[], None],
    "outputs": [{}, {"best_model": None}, {"best_model": {"type": "mlflow_model"}}, None],
    # The service adds these keys to the documents that it returns.
    "id": ["azureml:/subscriptions/x"],
    "status": ["Completed"],
    "creation_context": [{"created_by": "me"}],
    "log_files": [{"a": "b"}],
}

REFUSED: list[tuple[str, Any, str, str]] = [
    ("name", "a b", "BAD_TYPE", "name"),
    ("name", "_a", "BAD_TYPE", "name"),
    ("name", "a" * 201, "BAD_TYPE", "name"),
    ("name", 7, "BAD_TYPE", "name"),
    ("display_name", 7, "BAD_TYPE", "display_name"),
    ("description", ["a"], "BAD_TYPE", "description"),
    ("experiment_name", 1.5, "BAD_TYPE", "experiment_name"),
    ("tags", {"a": 1}, "BAD_TYPE", "tags"),
    ("tags", {"a": True}, "BAD_TYPE", "tags"),
    ("tags", ["a"], "BAD_TYPE", "tags"),
    ("properties", {"a": 1}, "BAD_TYPE", "properties"),
    ("properties", {"node_count_per_trial": "two"}, "BAD_TYPE", "properties.node_count_per_trial"),
    ("properties", {"node_count_per_trial": "1.5"}, "BAD_TYPE", "properties.node_count_per_trial"),
    ("properties", {"node_count_per_trial": 0}, "OUT_OF_RANGE", "properties.node_count_per_trial"),
    ("compute", "", "BAD_TYPE", "compute"),
    ("compute", {"type": "local"}, "BAD_TYPE", "compute"),
    ("resources", "gpu", "BAD_TYPE", "resources"),
    ("resources", {"instance": "x"}, "UNKNOWN_KEY", "resources.instance"),
    ("resources", {"instance_count": 0}, "OUT_OF_RANGE", "resources.instance_count"),
    ("resources", {"instance_count": "two"}, "BAD_TYPE", "resources.instance_count"),
    ("resources", {"locations": "westeurope"}, "BAD_TYPE", "resources.locations"),
    ("resources", {"docker_args": 3}, "BAD_TYPE", "resources.docker_args"),
    ("resources", {"properties": "a"}, "BAD_TYPE", "resources.properties"),
    ("queue_settings", "spot", "BAD_TYPE", "queue_settings"),
    ("queue_settings", {"tier": "spot"}, "UNKNOWN_KEY", "queue_settings.tier"),
    ("identity", "me", "BAD_TYPE", "identity"),
    ("environment_id", 3, "BAD_TYPE", "environment_id"),
    ("environment_variables", {"A": 1}, "BAD_TYPE", "environment_variables"),
    ("log_verbosity", "verbose", "BAD_ENUM", "log_verbosity"),
    ("log_verbosity", 10, "BAD_ENUM", "log_verbosity"),
    ("target_column_name", None, "MISSING_KEY", "target_column_name"),
    ("target_column_name", 3, "BAD_TYPE", "target_column_name"),
    ("target_column_name", " ", "BAD_TYPE", "target_column_name"),
    ("training_data", None, "MISSING_KEY", "training_data"),
    ("training_data", "data", "BAD_TYPE", "training_data"),
    ("training_data", {}, "MISSING_KEY", "training_data.path"),
    ("training_data", {"path": 3}, "BAD_TYPE", "training_data.path"),
    ("training_data", {"path": "x", "type": "uri_folder"}, "BAD_ENUM", "training_data.type"),
    ("training_data", {"path": "x", "mode": "stream"}, "BAD_ENUM", "training_data.mode"),
    ("training_data", {"path": "x", "version": 1}, "UNKNOWN_KEY", "training_data.version"),
    ("validation_data", {"type": "mltable"}, "MISSING_KEY", "validation_data.path"),
    ("validation_data_size", 0, "OUT_OF_RANGE", "validation_data_size"),
    ("validation_data_size", "1", "OUT_OF_RANGE", "validation_data_size"),
    ("validation_data_size", "a fifth", "BAD_TYPE", "validation_data_size"),
    ("limits", {"max_trials": 0}, "OUT_OF_RANGE", "limits.max_trials"),
    ("limits", {"max_trials": 1001}, "OUT_OF_RANGE", "limits.max_trials"),
    ("limits", {"max_trials": 1.5}, "BAD_TYPE", "limits.max_trials"),
    ("limits", {"max_concurrent_trials": 0}, "OUT_OF_RANGE", "limits.max_concurrent_trials"),
    ("limits", {"max_concurrent_trials": 101}, "OUT_OF_RANGE", "limits.max_concurrent_trials"),
    ("limits", {"timeout_minutes": 0}, "OUT_OF_RANGE", "limits.timeout_minutes"),
    ("limits", {"timeout_minutes": 86_401}, "OUT_OF_RANGE", "limits.timeout_minutes"),
    ("limits", {"timeout_minutes": "PT1H"}, "BAD_TYPE", "limits.timeout_minutes"),
    ("limits", {"trial_timeout_minutes": 5}, "UNKNOWN_KEY", "limits.trial_timeout_minutes"),
    ("limits", {"max_nodes": 2}, "UNKNOWN_KEY", "limits.max_nodes"),
    ("limits", 3, "BAD_TYPE", "limits"),
    ("training_parameters", [1], "BAD_TYPE", "training_parameters"),
    ("sweep", "random", "BAD_TYPE", "sweep"),
    ("outputs", ["best_model"], "BAD_TYPE", "outputs"),
    ("outputs", {"best_model": "x"}, "BAD_TYPE", "outputs.best_model"),
    ("outputs", {"best_model": {"type": "onnx"}}, "BAD_ENUM", "outputs.best_model.type"),
    ("outputs", {"best_model": {"mode": "copy"}}, "BAD_ENUM", "outputs.best_model.mode"),
    ("outputs", {"best_model": {"folder": "x"}}, "UNKNOWN_KEY", "outputs.best_model.folder"),
    ("colour", "red", "UNKNOWN_KEY", "colour"),
]


def test_each_key_takes_what_azure_takes(check_rows: CheckRows, document: Make) -> None:
    def check(key: str) -> None:
        for value in ACCEPTED[key]:
            reading = read_job(document(**{key: value}))
            assert reading.faults == (), value
            assert reading.warnings == (), value

    check_rows(check, ACCEPTED)


def test_each_key_refuses_the_rest_by_name(check_rows: CheckRows, document: Make) -> None:
    def check(key: str, value: Any, code: str, target: str) -> None:
        faults = read_job(document(**{key: value})).faults
        # With a faulty `sweep`, the search space is not read either.
        assert [(fault.code, fault.target) for fault in faults if fault.code != "BAD_SWEEP"] == [(code, target)]

    check_rows(check, REFUSED)


def test_every_mode_of_an_input_means_the_same(check_rows: CheckRows, document: Make) -> None:
    def check(mode: str) -> None:
        data = {"path": "x", "mode": mode, "datastore": "d", "path_on_compute": "file:/x", "description": "mine"}
        reading = read_job(document(training_data=data))
        assert reading.data is not None
        assert reading.data.training == DataInput("x")

    check_rows(check, ["direct", "download", "ro_mount", "eval_mount", "eval_download"])


def test_the_best_model_may_be_an_output(check_rows: CheckRows, document: Make) -> None:
    def check(written: Any, read: Output) -> None:
        job = read_job(document(outputs={"best_model": written})).job
        assert job is not None
        assert job.outputs == {"best_model": read}

    check_rows(
        check,
        [
            (None, Output()),
            ({}, Output()),
            ({"type": "mlflow_model", "storage_uri": "x", "name": "n", "version": "1"}, Output()),
            ({"type": "uri_folder", "path": "models/best", "mode": "rw_mount"}, Output("uri_folder", "models/best")),
        ],
    )


def test_other_outputs_are_ignored_with_a_warning(document: Make) -> None:
    [warning] = read_job(document(outputs={"model": None})).warnings
    assert "best_model" in warning


def test_several_machines_per_trial_are_a_warning(document: Make) -> None:
    for count in (2, "2"):
        [warning] = read_job(document(properties={"node_count_per_trial": count})).warnings
        assert "node_count_per_trial" in warning


SUPPORTED_METRICS = {
    Task.MULTI_CLASS: ["accuracy", "Accuracy", "ACCURACY"],
    Task.MULTI_LABEL: ["iou", "Iou", "IOU"],
    Task.DETECTION: ["mean_average_precision", "MeanAveragePrecision", "MEAN_AVERAGE_PRECISION"],
    Task.SEGMENTATION: ["mean_average_precision", "MeanAveragePrecision"],
}
OTHER_METRICS = [
    "auc_weighted",
    "AUCWeighted",
    "norm_macro_recall",
    "average_precision_score_weighted",
    "precision_score_weighted",
]


def test_each_task_has_one_primary_metric(check_rows: CheckRows, document: Make) -> None:
    def check(task: Task) -> None:
        for metric in SUPPORTED_METRICS[task]:
            assert read_job(document(task=task.value, primary_metric=metric)).faults == ()
        others = [names[0] for other, names in SUPPORTED_METRICS.items() if names != SUPPORTED_METRICS[task]]
        for metric in {*others, *OTHER_METRICS} - set(SUPPORTED_METRICS[task]):
            [fault] = read_job(document(task=task.value, primary_metric=metric)).faults
            assert (fault.code, fault.target) == ("BAD_ENUM", "primary_metric")
            assert SUPPORTED_METRICS[task][0] in fault.message
        for metric in OTHER_METRICS:
            assert "not supported for image tasks" in str(read_job(document(primary_metric=metric)).faults[0])

    check_rows(check, list(Task))


def test_a_task_is_spelled_as_azure_does(check_rows: CheckRows, document: Make) -> None:
    def check(name: Any) -> None:
        [fault] = read_job(document(task=name)).faults
        assert fault.target == "task"

    check_rows(check, ["image_classificaton", "ImageClassification", "image_detection", 3, None])


def test_advanced_settings_are_a_json_object(check_rows: CheckRows, document: Make) -> None:
    def check(settings: Any, expected: str | None) -> None:
        faults = read_job(document(training_parameters={"advanced_settings": settings})).faults
        assert [fault.code for fault in faults] == ([] if expected is None else [expected])

    check_rows(
        check,
        [
            ("", "BAD_ADVANCED_SETTINGS"),
            ("not JSON", "BAD_ADVANCED_SETTINGS"),
            ("[]", "BAD_ADVANCED_SETTINGS"),
            ("3", "BAD_ADVANCED_SETTINGS"),
            (3, "BAD_ADVANCED_SETTINGS"),
            ('{"stream_image_files": "perhaps"}', "BAD_ADVANCED_SETTINGS"),
            ('{"apply_mosaic_for_yolo": 2}', "BAD_ADVANCED_SETTINGS"),
            ('{"apply_automl_train_augmentations": null}', None),
            ('{"stream_image_files": true}\n', None),
            ({"stream_image_files": "True"}, None),
            ("{}", None),
        ],
    )


def test_a_misspelt_key_is_refused_with_the_near_one(check_rows: CheckRows, document: Make) -> None:
    def check(wrong: str, right: str) -> None:
        [fault] = read_job(document(**{wrong: None})).faults
        assert (fault.code, fault.target) == ("UNKNOWN_KEY", wrong)
        assert f"did you mean {right!r}?" in fault.message

    check_rows(
        check,
        [
            ("trainning_data", "training_data"),
            ("traning_parameters", "training_parameters"),
            ("search_spaces", "search_space"),
            ("primary_metrics", "primary_metric"),
            ("validation_size", "validation_data_size"),
        ],
    )
