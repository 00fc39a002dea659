import json
from dataclasses import fields

import pytest

from clearsight.documents.settings import (
    RcnnSettings,
    SegmentationSettings,
    YoloSettings,
    parse_settings,
    to_document,
)
from clearsight.errors import InvalidDocument
from clearsight.tasks import Task

MODELS = {
    "rcnn": (Task.DETECTION, "fasterrcnn_resnet50_fpn", RcnnSettings),
    "retinanet": (Task.DETECTION, "retinanet_resnet50_fpn", RcnnSettings),
    "yolov5": (Task.DETECTION, "yolov5", YoloSettings),
    "maskrcnn": (Task.SEGMENTATION, "maskrcnn_resnet50_fpn", SegmentationSettings),
}

# The defaults of Azure's hyperparameter page, by the names of its settings file.
SHARED = {
    "nms_iou_thresh": 0.5,
    "tile_grid_size": None,
    "tile_overlap_ratio": 0.25,
    "tile_predictions_nms_thresh": 0.25,
}
RCNN = {**SHARED, "box_score_thresh": 0.3, "box_detections_per_img": 100, "min_size": 600, "max_size": 1333}
YOLO = {**SHARED, "box_score_thresh": 0.1, "img_size": 640, "model_size": "medium"}
MASKS = {
    "mask_pixel_score_threshold": 0.5,
    "max_number_of_polygon_points": 100,
    "export_as_image": False,
    "image_type": "JPG",
}
OWN = {"tile_border_margin": 2.0, "exif_orientation": "apply"}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
OWN_OF_MASKS = {"mask_image_allow_lossy": False, "mask_rle": False}


def test_an_empty_document_means_azures_defaults(check_rows):
    def check(name, expected):
        task, model_name, kind = MODELS[name]
        settings, warnings = parse_settings({}, task, model_name)
        assert type(settings) is kind
        assert {field.name: getattr(settings, field.name) for field in fields(settings)} == expected
        assert warnings == []

    check_rows(
        check,
        [
            ("rcnn", RCNN | OWN | IMAGENET),
            ("retinanet", RCNN | OWN | IMAGENET),
            ("yolov5", YOLO | OWN | UNIT),
            ("maskrcnn", RCNN | MASKS | OWN | OWN_OF_MASKS | IMAGENET),
        ],
    )


def test_the_most_boxes_of_a_image(check_rows):
    def check(model, most):
        task, model_name, _ = MODELS[model]
        assert parse_settings({}, task, model_name)[0].max_detections == most

    check_rows(check, [("rcnn", 100), ("maskrcnn", 100), ("yolov5", 300)])


EDITED = {
    "rcnn": RcnnSettings(min_size=320, max_size=640, box_score_thresh=0.0, nms_iou_thresh=1.0, tile_grid_size=(3, 2)),
    "yolov5": YoloSettings(img_size=320, model_size="nano", tile_border_margin=2.5, mean=(0.1, 0.2, 0.3)),
    "maskrcnn": SegmentationSettings(image_type="PNG", export_as_image=True, mask_rle=True, box_detections_per_img=7),
}


def test_what_is_written_is_plain_json_and_reads_back_unchanged(check_rows):
    def check(name):
        task, model_name, _ = MODELS[name]
        document = json.loads(json.dumps(to_document(EDITED[name])))
        assert parse_settings(document, task, model_name) == (EDITED[name], [])

    check_rows(check, EDITED)


def test_azures_other_spellings_are_read(check_rows):
    def check(name, spelling, key, value):
        task, model_name, _ = MODELS[name]
        settings, warnings = parse_settings({spelling: value}, task, model_name)
        assert (getattr(settings, key), warnings) == (value, [])
        with pytest.raises(InvalidDocument, match="keep one of them"):
            parse_settings({spelling: value, key: value / 2}, task, model_name)

    check_rows(
        check,
        [
            ("rcnn", "box_score_threshold", "box_score_thresh", 0.6),
            ("rcnn", "nms_iou_threshold", "nms_iou_thresh", 0.6),
            ("rcnn", "box_nms_thresh", "nms_iou_thresh", 0.6),
            ("yolov5", "box_iou_thresh", "nms_iou_thresh", 0.6),
            ("rcnn", "box_detections_per_image", "box_detections_per_img", 6),
            ("maskrcnn", "tile_predictions_nms_threshold", "tile_predictions_nms_thresh", 0.6),
            ("yolov5", "image_size", "img_size", 64),
        ],
    )


def test_every_form_of_a_grid_is_tiles_across_and_tiles_down(check_rows):
    def check(value, grid):
        assert parse_settings({"tile_grid_size": value}, Task.DETECTION)[0].tile_grid_size == grid

    check_rows(
        check,
        [
            (None, None),
            ("", None),
            ("1x1", None),
            ("3x2", (3, 2)),
            (" 3 X 2 ", (3, 2)),
            ("(3, 2)", (3, 2)),
            ("( 3,2 )", (3, 2)),
            ([3, 2], (3, 2)),
            ([1, 1], None),
            ("1x64", (1, 64)),
            ("8x8", (8, 8)),
        ],
    )


def test_the_largest_yolov5_has_three_spellings(check_rows):
    def check(word, size):
        assert parse_settings({"model_size": word}, Task.DETECTION, "yolov5")[0].model_size == size

    check_rows(check, [("extra_large", "xlarge"), ("ExtraLarge", "xlarge"), ("small", "small")])


def test_image_types_are_read_in_any_case(check_rows):
    def check(word):
        assert parse_settings({"image_type": word}, Task.SEGMENTATION)[0].image_type == "PNG"

    check_rows(check, ["png", "PNG", "Png"])


def test_yolov5s_side_is_rounded_up_to_its_grid_with_a_warning():
    settings, warnings = parse_settings({"img_size": 601}, Task.DETECTION, "yolov5")
    assert settings.img_size == 608  # 19 * 32
    assert warnings == ["settings.json: img_size 601 is rounded up to 608, a multiple of 32"]


def test_keys_of_other_models_and_misspelt_ones_are_warned_about():
    document = {"min_size": 300, "mask_rle": True, "valid_crop_size": 1, "image_sise": 2, "labels": ["a"]}
    settings, warnings = parse_settings(document, Task.DETECTION, "yolov5")
    assert settings == YoloSettings()
    assert warnings == [
        "settings.json: 'min_size' is ignored: yolov5 does not use it",
        "settings.json: 'mask_rle' is ignored: yolov5 does not use it",
        "settings.json: 'valid_crop_size' is ignored: yolov5 does not use it",
        "settings.json: unknown key 'image_sise' is ignored (did you mean 'image_size'?)",
    ]


NOT_FRACTIONS = [-0.1, 1.1, "0.5", None, True, float("nan"), float("inf"), [0.5]]
NOT_COUNTS = [0, -1, 1.5, "1", None, True, 10**12]


def test_a_bad_value_is_refused_with_its_key(check_rows):
    def check(name, key, value):
        task, model_name, _ = MODELS[name]
        with pytest.raises(InvalidDocument) as caught:
            parse_settings({key: value}, task, model_name)
        assert [fault.target for fault in caught.value.faults] == [key]

    check_rows(
        check,
        [
            *(("rcnn", "box_score_thresh", value) for value in NOT_FRACTIONS),
            *(("yolov5", "nms_iou_thresh", value) for value in NOT_FRACTIONS),
            *(("rcnn", "tile_predictions_nms_thresh", value) for value in NOT_FRACTIONS),
            *(("maskrcnn", "mask_pixel_score_threshold", value) for value in NOT_FRACTIONS),
            *(("rcnn", "tile_overlap_ratio", value) for value in [*NOT_FRACTIONS, 1.0]),
            *(("rcnn", "min_size", value) for value in NOT_COUNTS),
            *(("rcnn", "max_size", value) for value in NOT_COUNTS),
            *(("yolov5", "img_size", value) for value in NOT_COUNTS),
            *(("rcnn", "box_detections_per_img", value) for value in NOT_COUNTS),
            *(("maskrcnn", "max_number_of_polygon_points", value) for value in [*NOT_COUNTS, 1, 2]),
            *(("maskrcnn", "export_as_image", value) for value in [0, "true", None]),
            *(("maskrcnn", "image_type", value) for value in ["gif", "", None, 1]),
            *(("yolov5", "model_size", value) for value in ["tiny", "Small", None, 1, ["small"]]),
            *(("rcnn", "tile_border_margin", value) for value in [-1, "1", float("nan"), True]),
            *(
                ("rcnn", "tile_grid_size", value)
                for value in ["0x2", "3", "x", "3x", "3x2x1", "-1x2", "(3, 2", "3,2", "(3x2)", [3], [3, 2, 1], [3, 0]]
            ),
            *(("rcnn", "tile_grid_size", value) for value in [[1.5, 2], [True, 2], 32, 3.2, {}, "65x1", "9x8"]),
        ],
    )
