"""Which model uses which parameter, also when several models can be drawn."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from clearsight.catalogue.models import MODELS, models_of
from clearsight.documents.job import read_job
from clearsight.tasks import Task

Make = Callable[..., dict[str, Any]]
YOLO, RCNN = "yolov5", "fasterrcnn_resnet50_fpn"
DETECTION, CLASSES, MASKS = "image_object_detection", "image_classification", "image_instance_segmentation"


def choice(*values: Any) -> dict[str, Any]:
    return {"type": "choice", "values": list(values)}


def test_a_job_without_parameters_has_no_faults(document: Make) -> None:
    for task in (DETECTION, CLASSES, MASKS):
        reading = read_job(document(task=task))
        assert (reading.faults, reading.warnings) == ((), ())


@pytest.mark.parametrize("name", ["min_size", "max_size", "box_detections_per_image"])
def test_what_only_rcnn_uses_is_an_error_for_yolov5_alone(name: str, document: Make) -> None:
    for changes in (
        {"training_parameters": {name: 10}},
        {"search_space": [{"model_name": YOLO, name: 10}]},
        {"search_space": [{"model_name": YOLO, name: choice(10, 20)}]},
        {"training_parameters": {name: 10}, "search_space": [{"model_name": YOLO}]},
    ):
        [fault] = read_job(document(task=DETECTION, **changes)).faults
        assert fault.code == "BAD_PARAM_FOR_MODEL"
        assert YOLO in fault.message


@pytest.mark.parametrize(("name", "value"), [("image_size", 640), ("model_size", "small"), ("multi_scale", True)])
@pytest.mark.parametrize("task", [DETECTION, MASKS])
def test_what_only_yolov5_uses_is_an_error_for_others(name: str, value: Any, task: str, document: Make) -> None:
    model = RCNN if task == DETECTION else "maskrcnn_resnet18_fpn"
    for changes in (
        {"training_parameters": {"model_name": model, name: value}},
        {"search_space": [{"model_name": model, name: value}]},
    ):
        assert [fault.code for fault in read_job(document(task=task, **changes)).faults] == ["BAD_PARAM_FOR_MODEL"]


def test_a_parameter_that_some_models_use_is_a_warning(document: Make) -> None:
    one_space = [{"model_name": choice(YOLO, RCNN), "min_size": 500}]
    reading = read_job(document(task=DETECTION, search_space=one_space, sweep={"sampling_algorithm": "random"}))
    assert reading.faults == ()
    assert [warning for warning in reading.warnings if "min_size" in warning and YOLO in warning]
    two_spaces = [{"model_name": YOLO}, {"model_name": RCNN}]
    changes = {"search_space": two_spaces, "training_parameters": {"model_size": "small"}}
    reading = read_job(document(task=DETECTION, **changes))
    assert reading.faults == ()
    assert [warning for warning in reading.warnings if "model_size" in warning and RCNN in warning]


def test_an_automatic_sweep_may_draw_any_model(document: Make) -> None:
    parameters = {"min_size": 500, "model_size": "small"}
    alone = read_job(document(task=DETECTION, training_parameters=parameters))
    assert [fault.target for fault in alone.faults] == ["training_parameters.min_size"]
    several = read_job(document(task=DETECTION, training_parameters=parameters, limits={"max_trials": 4}))
    assert several.faults == ()
    assert len(several.warnings) == 2
    fixed = {**parameters, "model_name": YOLO}
    named = read_job(document(task=DETECTION, training_parameters=fixed, limits={"max_trials": 4}))
    assert [fault.target for fault in named.faults] == ["training_parameters.min_size"]


def test_a_size_that_some_models_refuse_is_a_warning_in_an_automatic_sweep(document: Make) -> None:
    parameters = {"training_crop_size": 192}  # differs from validation_crop_size, which ViTs do not take
    reading = read_job(document(training_parameters=parameters, limits={"max_trials": 4}))
    assert reading.faults == ()
    assert any("vitb16r224" in warning for warning in reading.warnings)
    frozen = read_job(document(training_parameters={"layers_to_freeze": 30}, limits={"max_trials": 4}))
    assert {fault.code for fault in frozen.faults} == {"BAD_PARAM_FOR_MODEL"}


def test_a_sub_space_without_a_model_takes_the_fixed_one_or_the_default(document: Make) -> None:
    space = [{"min_size": choice(500, 600)}]
    assert read_job(document(task=DETECTION, search_space=space)).faults  # yolov5
    changes = {"search_space": space, "training_parameters": {"model_name": RCNN}}
    assert read_job(document(task=DETECTION, **changes)).faults == ()
    assert read_job(document(task=MASKS, search_space=space)).faults == ()


def test_a_sub_space_wins_over_a_fixed_value_with_one_warning(document: Make) -> None:
    spaces = [{"learning_rate": 0.1}, {"learning_rate": 0.2}, {"momentum": 0.5}]
    reading = read_job(document(search_space=spaces, training_parameters={"learning_rate": 0.01}))
    [warning] = [warning for warning in reading.warnings if "learning_rate" in warning]
    assert "search_space[0], search_space[1]" in warning


@pytest.mark.parametrize(
    ("task", "model", "parameters", "key"),
    [
        (CLASSES, "mobilenetv2", {"layers_to_freeze": 20}, "layers_to_freeze"),
        (CLASSES, "resnet152", {"layers_to_freeze": 6}, "layers_to_freeze"),
        (CLASSES, "vitl16r224", {"layers_to_freeze": 14}, "layers_to_freeze"),
        (DETECTION, YOLO, {"layers_to_freeze": 11}, "layers_to_freeze"),
        (DETECTION, RCNN, {"layers_to_freeze": 6}, "layers_to_freeze"),
        (MASKS, "maskrcnn_resnet18_fpn", {"layers_to_freeze": 6}, "layers_to_freeze"),
        (CLASSES, "resnet50", {"validation_resize_size": 200}, "validation_resize_size"),
        (CLASSES, "vitb16r224", {"training_crop_size": 256}, "training_crop_size"),
        (CLASSES, "seresnext", {"training_crop_size": 200}, "training_crop_size"),
        (CLASSES, "seresnext", {"training_crop_size": 32}, "training_crop_size"),
        (CLASSES, "resnet18", {"training_crop_size": 16}, "training_crop_size"),
    ],
)
def test_a_value_that_the_model_cannot_take_is_refused(
    task: str, model: str, parameters: dict[str, Any], key: str, document: Make
) -> None:
    fixed = read_job(document(task=task, training_parameters={"model_name": model, **parameters}))
    assert [(fault.code, fault.target) for fault in fixed.faults] == [
        ("BAD_PARAM_FOR_MODEL", f"training_parameters.{key}")
    ]
    swept = read_job(document(task=task, search_space=[{"model_name": model, **parameters}]))
    assert [fault.target for fault in swept.faults] == [f"search_space[0].{key}"]
    drawn = {name: choice(value) for name, value in parameters.items()}
    assert read_job(document(task=task, search_space=[{"model_name": model, **drawn}])).faults


@pytest.mark.parametrize(
    "space",
    [
        {"model_name": "vitb16r224", "training_crop_size": choice(224, 256), "validation_crop_size": choice(224, 256)},
        {"model_name": "seresnext", "training_crop_size": choice(200, 224), "validation_crop_size": 224},
        {"model_name": "resnet18", "layers_to_freeze": choice(2, 9)},
        {"model_name": "resnet18", "validation_crop_size": choice(224, 320), "validation_resize_size": 256},
    ],
)
def test_a_choice_with_a_possible_draw_is_left_to_the_draw(space: dict[str, Any], document: Make) -> None:
    assert read_job(document(search_space=[space])).faults == ()


def test_a_fault_that_several_sub_spaces_share_is_named_once(document: Make) -> None:
    spaces = [{"model_name": "resnet18", "learning_rate": 0.1}, {"model_name": "resnet18", "momentum": 0.5}]
    reading = read_job(document(search_space=spaces, training_parameters={"layers_to_freeze": 9}))
    assert [fault.target for fault in reading.faults] == ["training_parameters.layers_to_freeze"]


@pytest.mark.parametrize(
    ("task", "name", "words"),
    [
        (CLASSES, "resnet20", "resnet18"),
        (CLASSES, "ResNet50", "resnet50"),
        (CLASSES, "yolov5", "resnet18"),
        (DETECTION, "resnet50", "yolov5"),
        (DETECTION, "owner/name", "yolov5"),
        (DETECTION, "mmd-3x-yolof_r50_c5_8x8_1x_coco", "MMDetection"),
        (DETECTION, "atss_r50_fpn_1x_coco", "MMDetection"),
        (MASKS, "mmd-3x-mask-rcnn_swin-t-p4-w7_fpn_1x_coco", "MMDetection"),
        (MASKS, "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"),
    ],
)
def test_a_model_of_no_backend_is_refused_with_the_names_that_are_known(
    task: str, name: str, words: str, document: Make
) -> None:
    [fault] = read_job(document(task=task, training_parameters={"model_name": name})).faults
    assert (fault.code, fault.target) == ("BAD_MODEL", "training_parameters.model_name")
    assert words in fault.message
    others = {name for name in MODELS if name not in models_of(Task(task))} - {name}
    assert not others & set(re.split(r"[^\w-]+", fault.message))
    [fault] = read_job(document(task=task, search_space=[{"model_name": choice(name)}])).faults
    assert (fault.code, fault.target) == ("BAD_MODEL", "search_space[0].model_name")


@pytest.mark.parametrize(
    "name", ["google/vit-base-patch16-224", "google-vit-base-patch16-224", "somebody/some-classifier"]
)
def test_a_hugging_face_name_is_a_valid_document(name: str, document: Make) -> None:
    assert read_job(document(training_parameters={"model_name": name, "training_crop_size": 384})).faults == ()
