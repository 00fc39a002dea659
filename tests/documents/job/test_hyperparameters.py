"""Every hyperparameter against a second table, typed from Azure's page.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from clearsight.documents.job import read_job, resolve_parameters
from clearsight.documents.job.hyperparameters import HYPERPARAMETERS, LEGACY_NAMES
from clearsight.tasks import Task

Make = Callable[..., dict[str, Any]]
CheckRows = Callable[[Callable[..., None], Iterable[Any]], None]


class Row(NamedTuple):
    model: str
    """A model that uses the hyperparameter."""
    accepted: list[tuple[Any, Any]]
    """Accepted values: (as written, as read)."""
    refused: list[tuple[Any, str]]
    """Refused values: (as written, code of the fault)."""
    default: Any
    """Default for `model`; `...`: another test checks it."""


COUNT: list[tuple[Any, str]] = [
    (0, "OUT_OF_RANGE"),
    (-1, "OUT_OF_RANGE"),
    (1.5, "BAD_TYPE"),
    ("1.5", "BAD_TYPE"),
    ("x", "BAD_TYPE"),
    (True, "BAD_TYPE"),
    ([1], "BAD_TYPE"),
]
FROM_0: list[tuple[Any, str]] = [(-1, "OUT_OF_RANGE"), (0.5, "BAD_TYPE"), ("two", "BAD_TYPE")]
UNIT: list[tuple[Any, str]] = [
    (-0.001, "OUT_OF_RANGE"),
    (1.001, "OUT_OF_RANGE"),
    ("x", "BAD_TYPE"),
    (True, "BAD_TYPE"),
    (float("inf"), "BAD_TYPE"),
]
COUNTS: list[tuple[Any, Any]] = [(1, 1), ("7", 7), (3.0, 3)]
FROM_0S: list[tuple[Any, Any]] = [(0, 0), ("7", 7)]
UNITS: list[tuple[Any, Any]] = [(0, 0.0), (1, 1.0), ("1e-3", 0.001), (0.5, 0.5)]
BOOLS: list[tuple[Any, Any]] = [(True, True), (False, False), (1, True), (0, False), ("True", True), ("off", False)]
NO_BOOL: list[tuple[Any, str]] = [(2, "BAD_TYPE"), ("maybe", "BAD_TYPE"), (0.5, "BAD_TYPE"), ([True], "BAD_TYPE")]
CNN, RCNN, YOLO, MASK = "resnet50", "fasterrcnn_resnet50_fpn", "yolov5", "maskrcnn_resnet50_fpn"

TABLE: dict[str, Row] = {
    "model_name": Row(CNN, [("resnet18", "resnet18")], [(18, "BAD_TYPE"), ("", "BAD_TYPE")], ...),
    "number_of_epochs": Row(CNN, COUNTS, COUNT, 15),
    "training_batch_size": Row(CNN, COUNTS, COUNT, 78),
    "validation_batch_size": Row(CNN, COUNTS, COUNT, 78),
    "gradient_accumulation_step": Row(CNN, COUNTS, COUNT, 1),
    "learning_rate": Row(CNN, UNITS, UNIT, 0.01),
    "learning_rate_scheduler": Row(
        CNN,
        [("warmup_cosine", "warmup_cosine"), ("WarmupCosine", "warmup_cosine"), ("STEP", "step")],
        [("cosine", "BAD_ENUM"), (1, "BAD_ENUM")],
        "warmup_cosine",
    ),
    "warmup_cosine_lr_cycles": Row(CNN, UNITS, UNIT, 0.45),
    "warmup_cosine_lr_warmup_epochs": Row(CNN, FROM_0S, FROM_0, 2),
    "step_lr_gamma": Row(CNN, UNITS, UNIT, 0.5),
    "step_lr_step_size": Row(CNN, COUNTS, COUNT, 5),
    "optimizer": Row(
        CNN,
        [
            ("sgd", "sgd"),
            ("Adam", "adam"),
            ("ADAM", "adam"),
            ("adamw", "adamw"),
            ("AdamW", "adamw"),
            ("Adamw", "adamw"),
        ],
        [("rmsprop", "BAD_ENUM")],
        "sgd",
    ),
    "momentum": Row(CNN, UNITS, UNIT, 0.9),
    "nesterov": Row(CNN, BOOLS, NO_BOOL, True),
    "weight_decay": Row(CNN, UNITS, UNIT, 1e-4),
    "beta1": Row(CNN, UNITS, UNIT, 0.9),
    "beta2": Row(CNN, UNITS, UNIT, 0.999),
    "ams_gradient": Row(CNN, BOOLS, NO_BOOL, False),
    "early_stopping": Row(CNN, BOOLS, NO_BOOL, True),
    "early_stopping_patience": Row(CNN, COUNTS, COUNT, 5),
    "early_stopping_delay": Row(CNN, COUNTS, COUNT, 5),
    "evaluation_frequency": Row(CNN, COUNTS, COUNT, 1),
    "checkpoint_frequency": Row(CNN, COUNTS, COUNT, None),
    "checkpoint_run_id": Row(CNN, [("some_run_HD_3", "some_run_HD_3")], [("", "BAD_TYPE"), (3, "BAD_TYPE")], None),
    "layers_to_freeze": Row(CNN, [(0, 0), ("2", 2)], FROM_0, 0),
    "distributed": Row(CNN, BOOLS, NO_BOOL, True),
    "number_of_workers": Row(CNN, FROM_0S, FROM_0, ...),
    "random_seed": Row(CNN, FROM_0S, [(0.5, "BAD_TYPE"), ("x", "BAD_TYPE")], None),
    "enable_onnx_normalization": Row(CNN, BOOLS, NO_BOOL, False),
    "weighted_loss": Row(CNN, [(0, 0), (1, 1), ("2", 2)], [(3, "OUT_OF_RANGE"), (-1, "OUT_OF_RANGE")], 0),
    "training_crop_size": Row(CNN, [(224, 224), ("256", 256)], COUNT, 224),
    "validation_crop_size": Row(CNN, [(224, 224), ("192", 192)], COUNT, 224),
    "validation_resize_size": Row(CNN, [(288, 288), ("320", 320)], COUNT, ...),
    "min_size": Row(RCNN, COUNTS, COUNT, 600),
    "max_size": Row(RCNN, COUNTS, COUNT, 1333),
    "box_score_threshold": Row(RCNN, UNITS, UNIT, 0.3),
    "nms_iou_threshold": Row(YOLO, UNITS, UNIT, 0.5),
    "box_detections_per_image": Row(RCNN, COUNTS, COUNT, 100),
    "validation_metric_type": Row(
        YOLO,
        [("none", "none"), ("coco", "coco"), ("Voc", "voc"), ("CocoVoc", "coco_voc"), ("coco_voc", "coco_voc")],
        [("pascal", "BAD_ENUM")],
        "voc",
    ),
    "validation_iou_threshold": Row(
        YOLO,
        [(0.1, 0.1), (1, 1.0), ("0.5", 0.5)],
        [(0.09, "OUT_OF_RANGE"), (1.01, "OUT_OF_RANGE")],
        0.5,
    ),
    "tile_grid_size": Row(
        YOLO,
        [("3x2", "3x2"), ("(3, 2)", "3x2"), ("(3,2)", "3x2"), ("1x1", "1x1"), ("20X20", "20x20")],
        [("21x1", "OUT_OF_RANGE"), ("0x1", "OUT_OF_RANGE"), ("3", "BAD_TYPE"), (3, "BAD_TYPE"), ("x", "BAD_TYPE")],
        None,
    ),
    "tile_overlap_ratio": Row(
        YOLO, [(0, 0.0), (0.99, 0.99)], [(1, "OUT_OF_RANGE"), (-0.1, "OUT_OF_RANGE"), ("x", "BAD_TYPE")], 0.25
    ),
    "tile_predictions_nms_threshold": Row(YOLO, UNITS, UNIT, 0.25),
    "log_training_metrics": Row(
        YOLO, [("Enable", "Enable"), ("disable", "Disable")], [("on", "BAD_ENUM"), (True, "BAD_ENUM")], "Disable"
    ),
    "log_validation_loss": Row(
        YOLO, [("Enable", "Enable"), ("DISABLE", "Disable")], [("off", "BAD_ENUM"), (1, "BAD_ENUM")], "Enable"
    ),
    "image_size": Row(YOLO, COUNTS, COUNT, 640),
    "model_size": Row(
        YOLO,
        [
            ("small", "small"),
            ("Medium", "medium"),
            ("large", "large"),
            ("extra_large", "extra_large"),
            ("ExtraLarge", "extra_large"),
            ("xlarge", "extra_large"),
        ],
        [("tiny", "BAD_ENUM")],
        "medium",
    ),
    "multi_scale": Row(YOLO, BOOLS, NO_BOOL, False),
}

LEGACY = {
    # Names of Azure's first SDK and of `settings.json`.
    "grad_accumulation_step": "gradient_accumulation_step",
    "lr_scheduler": "learning_rate_scheduler",
    "amsgrad": "ams_gradient",
    "train_crop_size": "training_crop_size",
    "valid_crop_size": "validation_crop_size",
    "valid_resize_size": "validation_resize_size",
    "box_score_thresh": "box_score_threshold",
    "nms_iou_thresh": "nms_iou_threshold",
    "box_detections_per_img": "box_detections_per_image",
    "tile_predictions_nms_thresh": "tile_predictions_nms_threshold",
    "img_size": "image_size",
}


def task_of(model: str) -> Task:
    return {CNN: Task.MULTI_CLASS, MASK: Task.SEGMENTATION}.get(model, Task.DETECTION)


def test_the_table_holds_every_hyperparameter() -> None:
    assert set(TABLE) == set(HYPERPARAMETERS) - {"advanced_settings"}


def test_each_hyperparameter_is_read_and_refused_as_documented(check_rows: CheckRows, document: Make) -> None:
    def check(name: str) -> None:
        row = TABLE[name]

        def read(written: Any) -> Any:
            parameters = {name: written} if name == "model_name" else {"model_name": row.model, name: written}
            return read_job(document(task=task_of(row.model).value, training_parameters=parameters))

        for written, expected in row.accepted:
            reading = read(written)
            assert reading.faults == (), written
            assert reading.job is not None
            value = reading.job.parameters[name]
            assert (value, type(value)) == (expected, type(expected)), written
        for written, code in row.refused:
            [fault] = read(written).faults
            assert (fault.code, fault.target) == (code, f"training_parameters.{name}"), written
            assert "must" in fault.message
            assert "but got" in fault.message

    check_rows(check, TABLE)


def test_each_hyperparameter_has_its_documented_default(check_rows: CheckRows) -> None:
    def check(name: str) -> None:
        row = TABLE[name]
        assert resolve_parameters(task_of(row.model), {}, row.model)[name].value == row.default

    check_rows(check, [name for name, row in TABLE.items() if row.default is not ...])


def test_yolov5_has_defaults_of_its_own() -> None:
    resolved = resolve_parameters(Task.DETECTION, {}, "yolov5")
    assert (resolved["box_score_threshold"].value, resolved["nms_iou_threshold"].value) == (0.1, 0.5)
    assert resolved["number_of_epochs"].value == 30
    assert not {"min_size", "max_size", "box_detections_per_image"} & set(resolved)


def test_segmentation_has_no_tiles_and_no_names_of_yolov5() -> None:
    resolved = resolve_parameters(Task.SEGMENTATION, {}, MASK)
    assert not {"tile_grid_size", "tile_overlap_ratio", "image_size", "model_size", "multi_scale"} & set(resolved)
    assert resolved["box_score_threshold"].value == 0.3


def test_an_image_size_of_yolov5_is_rounded_up_with_a_warning(document: Make) -> None:
    reading = read_job(document(task="image_object_detection", training_parameters={"image_size": 650}))
    assert reading.faults == ()
    assert any("650" in warning and "32" in warning for warning in reading.warnings)
    assert resolve_parameters(Task.DETECTION, {"image_size": 650}, "yolov5")["image_size"].value == 672
    assert resolve_parameters(Task.DETECTION, {"image_size": 640}, "yolov5")["image_size"].value == 640


def test_the_member_none_of_an_enum_means_not_set(check_rows: CheckRows, document: Make) -> None:
    def check(name: str, none: str) -> None:
        task = "image_object_detection" if name == "model_size" else "image_classification"
        reading = read_job(document(task=task, training_parameters={name: none}))
        assert reading.job is not None
        assert name not in reading.job.parameters
        drawn = {"type": "choice", "values": [none]}
        reading = read_job(document(task=task, search_space=[{name: drawn}]))
        assert reading.job is not None
        assert reading.job.search_space[0][name].values == (HYPERPARAMETERS[name].default,)

    names = ["learning_rate_scheduler", "optimizer", "model_size"]
    check_rows(check, list(itertools.product(names, ["none", "None", "NONE"])))


def test_only_names_of_the_task_are_suggested(check_rows: CheckRows, document: Make) -> None:
    def check(task: str, key: str) -> None:
        [fault] = read_job(document(task=task, training_parameters={key: 1})).faults
        assert fault.code == "UNKNOWN_KEY"
        known = [name for name, row in HYPERPARAMETERS.items() if row.is_known_to(Task(task))]
        suggestion = fault.message.partition("did you mean ")[2].strip("'?")
        assert suggestion in ("", *known)

    rows = [("image_classification", key) for key in ("img_size", "tile_grid_siz", "box_score_thresh", "model_siz")]
    rows += [("image_object_detection", key) for key in ("train_crop_size", "weighted_los", "valid_resize_size")]
    check_rows(check, [*rows, ("image_instance_segmentation", "tile_predictions_nms_thresh")])


def test_a_legacy_name_is_refused_with_todays_name(check_rows: CheckRows, document: Make) -> None:
    def check(legacy: str, name: str) -> None:
        task = "image_classification" if "crop" in legacy or "resize" in legacy else "image_object_detection"
        for section in ({"training_parameters": {legacy: 1}}, {"search_space": [{legacy: 1}]}):
            [fault] = read_job(document(task=task, **section)).faults
            assert fault.code == "UNKNOWN_KEY"
            assert f"did you mean {name!r}?" in fault.message

    check_rows(check, LEGACY.items())


def test_the_table_knows_every_legacy_name() -> None:
    assert dict(LEGACY_NAMES) == LEGACY


def test_names_that_azure_does_not_have_are_unknown(check_rows: CheckRows, document: Make) -> None:
    def check(name: str) -> None:
        [fault] = read_job(document(training_parameters={name: 1})).faults
        assert (fault.code, fault.target) == ("UNKNOWN_KEY", f"training_parameters.{name}")

    check_rows(check, ["label_smoothing", "split_ratio", "warmup_epochs", "dropout", "gradient_clipping"])


def test_settings_of_a_package_are_no_training_parameters(check_rows: CheckRows, document: Make) -> None:
    def check(name: str, task: Task) -> None:
        for section in ({"training_parameters": {name: 1}}, {"search_space": [{name: 1}]}):
            [fault] = read_job(document(task=task.value, **section)).faults
            assert fault.code == "BAD_PARAM_FOR_TASK"
            assert "settings.json" in fault.message

    check_rows(
        check,
        list(
            itertools.product(
                ["mask_pixel_score_threshold", "max_number_of_polygon_points", "export_as_image", "image_type"],
                [Task.SEGMENTATION, Task.MULTI_CLASS],
            )
        ),
    )


CLASSIFICATION_ONLY = ("weighted_loss", "training_crop_size", "validation_crop_size", "validation_resize_size")


def test_a_name_of_the_other_family_of_tasks_is_refused(check_rows: CheckRows, document: Make) -> None:
    def check(name: str, task: Task) -> None:
        row = TABLE[name]
        is_foreign = (
            name in CLASSIFICATION_ONLY
            if not task.is_classification
            else task_of(row.model) is not Task.MULTI_CLASS and name not in CLASSIFICATION_ONLY
        )
        is_foreign |= task is Task.SEGMENTATION and name.startswith("tile_")
        written = row.accepted[0][0]
        sections = [{"training_parameters": {name: written}}]
        if HYPERPARAMETERS[name].sweepable:
            sections.append({"search_space": [{name: written}]})
        for section in sections:
            codes = {fault.code for fault in read_job(document(task=task.value, **section)).faults}
            assert ("BAD_PARAM_FOR_TASK" in codes) == is_foreign

    check_rows(check, list(itertools.product(TABLE, list(Task))))
