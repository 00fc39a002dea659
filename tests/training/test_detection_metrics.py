"""VOC against a simple version and pycocotools at every recall, COCO's twelve metrics against pycocotools."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycoco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clearsight.tasks import Task
from clearsight.training.detection.metrics import (
    GroundTruth,
    MetricOptions,
    Predictions,
    detection_metrics,
    metrics_of_resamples,
)
from clearsight.training.detection.metrics.coco import NAMES, coco_metrics
from clearsight.training.detection.metrics.metrics import MetricType
from clearsight.training.detection.metrics.regions import Shape
from clearsight.training.detection.metrics.voc import average_precision, match_classes, match_predictions
from clearsight.vision.masks import CroppedMask
from clearsight.vision.rle import encode_rle

CLASSES = ("bottle", "can", "carton")
SIDE = 240
"""Size of the random images: they have space for COCO's small, medium and large objects."""

Scene = tuple[list[Predictions], list[GroundTruth]]
Boxes = Sequence[Sequence[float]]


def options(method: MetricType, iou: float = 0.5, score: float = 0.3) -> MetricOptions:
    return MetricOptions(method, iou, score)


def found(boxes: Boxes, scores: Sequence[float], class_ids: Sequence[int] | None = None) -> Predictions:
    ids = np.array(class_ids if class_ids is not None else [0] * len(scores), np.int64)
    return Predictions(np.array(boxes, np.float32).reshape(-1, 4), ids, np.array(scores, np.float32))


def there_is(boxes: Boxes, class_ids: Sequence[int] | None = None, crowd: Sequence[bool] | None = None) -> GroundTruth:
    ids = np.array(class_ids if class_ids is not None else [0] * len(boxes), np.int64)
    is_crowd = np.array(crowd if crowd is not None else [False] * len(boxes), np.bool_)
    return GroundTruth(np.array(boxes, np.float32).reshape(-1, 4), ids, is_crowd)


def ellipses(boxes: np.ndarray) -> tuple[dict[str, Any], ...]:
    """A mask that fills its box but for the corners, for each box, as COCO's run lengths made by pycocotools."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    rles = []
    for left, top, right, bottom in boxes:
        inside = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1
        rle = pycoco_masks.encode(np.asfortranarray(inside.astype(np.uint8)))
        rles.append({"size": rle["size"], "counts": rle["counts"].decode()})
    return tuple(rles)


def random_scene(seed: int, with_masks: bool = False, num_images: int = 5) -> Scene:
    """Objects of all sizes, a third of them crowds; detected once, twice, as another class, missed; false ones.

    Scores have one decimal, so that many are equal.
    """
    random = np.random.default_rng(seed)

    def boxes(number: int) -> np.ndarray:
        sides = np.exp(random.uniform(np.log(12), np.log(170), (number, 1))) * random.uniform(0.8, 1.3, (number, 2))
        corners = random.uniform(0, SIDE - sides)
        return np.concatenate([corners, corners + sides], axis=1)

    predictions, truths = [], []
    for image in range(num_images):
        true = boxes(0 if image == 3 else 12)
        class_ids = random.integers(0, len(CLASSES), len(true))
        chosen = random.integers(0, len(true), 0 if image == 1 else 40) if len(true) else np.zeros(0, int)
        shifted = true[chosen] + random.normal(0, 0.04, (len(chosen), 4)) * np.ptp(true[chosen], axis=1, keepdims=True)
        shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        guessed = np.concatenate([shifted, boxes(4)])
        guessed_ids = np.concatenate([class_ids[chosen], random.integers(0, len(CLASSES), 4)])
        scores = random.integers(1, 11, len(guessed)) / 10
        is_crowd = random.random(len(true)) < 0.33
        predictions.append(Predictions(guessed, guessed_ids, scores, ellipses(guessed) if with_masks else None))
        truths.append(GroundTruth(true, class_ids, is_crowd, ellipses(true) if with_masks else None))
    return predictions, truths


def pycocotools_evaluation(scene: Scene, shape: Shape) -> COCOeval:
    """pycocotools on the same scene, which derives sizes of predictions by itself."""
    predictions, truths = scene

    def annotations(images: Sequence[Any]) -> list[dict[str, Any]]:
        entries = []
        for image_id, image in enumerate(images):
            for k, (left, top, right, bottom) in enumerate(image.boxes_xyxy_N4.tolist()):
                entry = {"image_id": image_id, "category_id": int(image.class_ids_N[k])}
                if shape == "mask":
                    entry["segmentation"] = dict(image.masks_N[k])
                else:
                    entry["bbox"] = [left, top, right - left, bottom - top]
                if isinstance(image, Predictions):
                    entry["score"] = float(image.scores_N[k])
                else:
                    entry |= {"id": len(entries) + 1, "iscrowd": int(image.is_crowd_N[k])}
                    area = (right - left) * (bottom - top)
                    entry["area"] = area if shape == "box" else int(pycoco_masks.area(entry["segmentation"]))
                entries.append(entry)
        return entries

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image_id, "height": SIDE, "width": SIDE} for image_id in range(len(truths))],
        "categories": [{"id": class_id} for class_id in range(len(CLASSES))],
        "annotations": annotations(truths),
    }
    truth.createIndex()
    return COCOeval(truth, truth.loadRes(annotations(predictions)), "segm" if shape == "mask" else "bbox")


def plain_iou(box: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Intersection over union, and over the first box."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    first, second = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return shared / (first + second - shared), shared / first


def plain_voc(scene: Scene, class_id: int, threshold: float) -> dict[str, float]:
    """One class by loops over single predictions: precision, recall, average precision by rectangles."""
    predictions, truths = scene
    ranked = [
        (-float(score), image, k, box)
        for image, detections in enumerate(predictions)
        for k, (box, own, score) in enumerate(
            zip(detections.boxes_xyxy_N4.tolist(), detections.class_ids_N, detections.scores_N, strict=True)
        )
        if own == class_id
    ]
    objects = [
        (image, box, crowd)
        for image, truth in enumerate(truths)
        for box, own, crowd in zip(truth.boxes_xyxy_N4.tolist(), truth.class_ids_N, truth.is_crowd_N, strict=True)
        if own == class_id
    ]
    num_objects, taken = sum(not crowd for _, _, crowd in objects), set()
    points, hits, misses = [], 0, 0
    for _, image, _, box in sorted(ranked):
        free = [
            (plain_iou(box, other)[0], -place)
            for place, (where, other, crowd) in enumerate(objects)
            if where == image and not crowd and place not in taken
        ]
        iou, place = max(free, default=(0.0, 0))
        if iou >= threshold:
            taken.add(-place)
            hits += 1
        elif any(plain_iou(box, other)[1] >= threshold for where, other, crowd in objects if crowd and where == image):
            continue
        else:
            misses += 1
        points.append((hits / num_objects, hits / (hits + misses)))
    area, before = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - before) * max(precision for other, precision in points if other >= recall)
        before = recall
    return {"precision": points[-1][1], "recall": points[-1][0], "average_precision": area}


@pytest.mark.parametrize(
    ("predictions", "truths", "expected"),
    [
        ([], [], {}),
        ([found([], [])], [there_is([])], {}),
        ([found([[0, 0, 9, 9]], [0.9])], [there_is([])], {}),
        ([found([[0, 0, 9, 9]], [0.9])], [there_is([[0, 0, 9, 9]], crowd=[True])], {}),
        ([found([], [])], [there_is([[0, 0, 9, 9]])], {"mean_average_precision": 0, "recall": 0, "coco_AP": 0}),
        (
            [found([[0, 0, 9, 9]], [0.9])],
            [there_is([[0, 0, 9, 9]])],
            {"mean_average_precision": 1, "precision": 1, "recall": 1, "coco_AP": 1},
        ),
    ],
)
def test_what_is_undefined_is_left_out(
    predictions: list[Predictions], truths: list[GroundTruth], expected: dict[str, float]
) -> None:
    values = detection_metrics(predictions, truths, CLASSES, options("coco_voc"), Task.DETECTION).values
    assert {name: value for name, value in values.items() if name in expected} == pytest.approx(expected)
    names = {name for name in values if not name.startswith("coco_")}
    assert names == {name for name in expected if not name.startswith("coco_")}
    assert all(np.isfinite(value) for value in values.values())


def test_the_area_counts_every_point_and_cocos_counts_101() -> None:
    """3 objects; found, not, found, found: 1/3 x 1 + 2/3 x 0.75, and (34 x 1 + 67 x 0.75) / 101."""
    places = [[0, 0, 50, 50], [60, 0, 110, 50], [120, 0, 170, 50]]
    truths = [there_is(places)]
    predictions = [found([places[0], [0, 100, 50, 150], places[1], places[2]], [0.9, 0.8, 0.7, 0.6])]
    assert average_precision(np.array([True, False, True, True]), 3) == pytest.approx(1 / 3 + 0.5)
    values = detection_metrics(predictions, truths, CLASSES, options("coco_voc"), Task.DETECTION).values
    assert values["mean_average_precision"] == pytest.approx(0.8333, abs=1e-4)
    assert values["coco_AP"] == pytest.approx((34 + 67 * 0.75) / 101)
    assert (values["precision"], values["recall"]) == (0.75, 1.0)


@pytest.mark.parametrize(
    ("overlaps", "crowd", "outcomes"),
    [
        (np.zeros((0, 2)), [False, False], []),
        (np.zeros((2, 0)), [], [0, 0]),
        ([[0.5]], [False], [1]),
        ([[0.49]], [False], [0]),
        ([[0.9], [0.9]], [False], [1, 0]),
        ([[0.6, 0.9], [0.6, 0.9]], [False, False], [1, 1]),  # the second goes to the free one
        ([[0.9, 0.6], [0.9, 0.4]], [False, False], [1, 0]),
        ([[0.4, 0.5], [0.1, 0.4]], [False, True], [2, 0]),
        ([[0.6, 1.0], [0.6, 1.0], [0.6, 1.0]], [False, True], [1, 2, 2]),  # a crowd takes any number
    ],
)
def test_a_prediction_takes_the_best_free_object_or_is_ignored_in_a_crowd(
    overlaps: Any, crowd: list[bool], outcomes: list[int]
) -> None:
    overlaps_NM = np.array(overlaps, np.float64)
    before = overlaps_NM.copy()
    assert match_predictions(overlaps_NM, np.array(crowd, np.bool_), 0.5).tolist() == outcomes
    assert (overlaps_NM == before).all()


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_voc_is_what_loops_over_single_predictions_give(seed: int, threshold: float) -> None:
    scene = random_scene(seed)
    result = detection_metrics(*scene, CLASSES, options("voc", threshold, score=0.0), Task.DETECTION)
    expected = {label: plain_voc(scene, class_id, threshold) for class_id, label in enumerate(CLASSES)}
    for label in CLASSES:
        assert result.per_label[label] == pytest.approx(expected[label])
    for name, column in (("mean_average_precision", "average_precision"), ("precision",) * 2, ("recall",) * 2):
        assert result.values[name] == pytest.approx(np.mean([row[column] for row in expected.values()]))


@pytest.mark.parametrize("shape", ["box", "mask"])
def test_average_precision_is_that_of_pycocotools_asked_at_every_recall(shape: Shape) -> None:
    scene = random_scene(11, with_masks=True)
    matches = match_classes(*scene, len(CLASSES), 0.5, shape)
    for class_id, match in enumerate(matches):
        oracle = pycocotools_evaluation(scene, shape)
        oracle.params.catIds, oracle.params.iouThrs = [class_id], np.array([0.5])
        oracle.params.recThrs = np.arange(1, match.num_truths + 1) / match.num_truths
        oracle.evaluate()
        oracle.accumulate()
        assert match.average_precision == pytest.approx(oracle.eval["precision"][0, :, 0, 0, -1].mean(), abs=1e-9)
        assert match.recall == pytest.approx(oracle.eval["recall"][0, 0, 0, -1])


@pytest.mark.parametrize("shape", ["box", "mask"])
@pytest.mark.parametrize("seed", [0, 1])
def test_cocos_twelve_numbers_are_those_of_pycocotools(seed: int, shape: Shape) -> None:
    scene = random_scene(seed, with_masks=shape == "mask")
    oracle = pycocotools_evaluation(scene, shape)
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    assert len(set(oracle.stats)) == len(NAMES), "equal numbers could be exchanged unseen"
    assert (oracle.stats > 0).all()
    assert coco_metrics(*scene, len(CLASSES), shape) == pytest.approx(
        dict(zip(NAMES, oracle.stats, strict=True)), abs=1e-6
    )


def test_sizes_without_objects_have_no_numbers() -> None:
    values = coco_metrics([found([[0, 0, 9, 9]], [0.9])], [there_is([[0, 0, 9, 9]])], 1, "box")
    assert set(NAMES) - set(values) == {"AP_medium", "AP_large", "AR_medium", "AR_large"}


def test_only_scores_above_the_threshold_count() -> None:
    box = [0, 0, 9, 9]
    predictions = [found([box, [50, 50, 60, 60]], [0.5, 0.3])]  # 0.3 in float32 is a little more than 0.3
    values = detection_metrics(predictions, [there_is([box])], CLASSES, options("coco_voc"), Task.DETECTION).values
    assert values["precision"] == 1
    values = detection_metrics(
        predictions, [there_is([box])], CLASSES, options("coco_voc", score=0.5), Task.DETECTION
    ).values
    assert (values["mean_average_precision"], values["coco_AP"], values["recall"]) == (0, 0, 0)
    assert "precision" not in values


def test_averages_are_over_classes_with_objects_and_precision_over_those_predicted() -> None:
    """Class 0: found once of two, one wrong. Class 1: never predicted. Class 2: predicted, but not there."""
    box, other, nowhere = [0, 0, 9, 9], [20, 0, 29, 9], [50, 50, 59, 59]
    predictions = [found([box, nowhere, nowhere], [0.9, 0.8, 0.7], [0, 0, 2])]
    truths = [there_is([box, other, other], [0, 0, 1])]
    result = detection_metrics(predictions, truths, CLASSES, options("voc"), Task.DETECTION)
    assert result.per_label == {
        "bottle": {"precision": 0.5, "recall": 0.5, "average_precision": 0.5},
        "can": {"recall": 0.0, "average_precision": 0.0},
        "carton": {"precision": 0.0},
    }
    assert result.values == {"mean_average_precision": 0.25, "precision": 0.5, "recall": 0.25}


@pytest.mark.parametrize(
    ("method", "plain", "has_coco"),
    [
        ("none", set(), False),
        ("voc", {"mean_average_precision", "precision", "recall"}, False),
        ("coco", {"mean_average_precision"}, True),
        ("coco_voc", {"mean_average_precision", "precision", "recall"}, True),
    ],
)
@pytest.mark.parametrize("task", [Task.DETECTION, Task.SEGMENTATION])
def test_the_method_decides_which_names_there_are(
    method: MetricType, plain: set[str], has_coco: bool, task: Task
) -> None:
    scene = random_scene(2, with_masks=task is Task.SEGMENTATION)
    result = detection_metrics(*scene, CLASSES, options(method), task)
    boxes = {"bbox_mean_average_precision"} if task is Task.SEGMENTATION and plain else set()
    assert set(result.values) == plain | boxes | ({f"coco_{name}" for name in NAMES} if has_coco else set())
    assert list(result.per_label) == (list(CLASSES) if "recall" in plain else [])
    if method == "coco":
        assert result.values["mean_average_precision"] == result.values["coco_AP50"]


@pytest.mark.parametrize("method", ["voc", "coco"])
def test_segmentation_compares_masks_and_tells_boxes_apart(method: MetricType) -> None:
    """A frame and what it surrounds: nearly the same box, no common pixel."""
    inside = np.zeros((40, 40), np.bool_)
    inside[2:-2, 2:-2] = True
    frame, core = (encode_rle(CroppedMask(10, 20, bitmap), 100, 80) for bitmap in (~inside, inside))
    zero, one = np.zeros(1, np.int64), np.ones(1)
    prediction = Predictions(np.array([[12.0, 22, 48, 58]]), zero, one, (core,))
    truth = GroundTruth(np.array([[10.0, 20, 50, 60]]), zero, np.array([False]), (frame,))
    values = detection_metrics([prediction], [truth], CLASSES, options(method), Task.SEGMENTATION).values
    assert (values["mean_average_precision"], values["bbox_mean_average_precision"]) == (0, 1)
    own = Predictions(prediction.boxes_xyxy_N4, zero, one, (frame,))
    values = detection_metrics([own], [truth], CLASSES, options(method), Task.SEGMENTATION).values
    assert (values["mean_average_precision"], values["bbox_mean_average_precision"]) == (1, 1)


def test_an_empty_mask_finds_nothing() -> None:
    rle = encode_rle(CroppedMask(0, 0, np.zeros((0, 0), np.bool_)), 20, 20)
    box, zero = np.array([[0.0, 0, 9, 9]]), np.zeros(1, np.int64)
    truth = GroundTruth(
        box, zero, np.array([False]), (encode_rle(CroppedMask(0, 0, np.ones((9, 9), np.bool_)), 20, 20),)
    )
    prediction = Predictions(box, zero, np.ones(1), (rle,))
    values = detection_metrics([prediction], [truth], CLASSES, options("coco_voc"), Task.SEGMENTATION).values
    assert (values["mean_average_precision"], values["coco_AP"], values["precision"]) == (0, 0, 0)


def test_segmentation_without_masks_is_an_error() -> None:
    box = [0, 0, 9, 9]
    for method in ("voc", "coco"):
        with pytest.raises(ValueError, match="need the masks of every picture"):
            detection_metrics([found([box], [1])], [there_is([box])], CLASSES, options(method), Task.SEGMENTATION)


def test_a_box_that_is_not_a_number_is_a_false_positive() -> None:
    nan = float("nan")
    predictions = [found([[nan] * 4, [0, 0, 9, 9], [0, 0, 9, 9]], [0.9, 0.8, nan])]
    values = detection_metrics(
        predictions, [there_is([[0, 0, 9, 9]])], CLASSES, options("coco_voc"), Task.DETECTION
    ).values
    assert (values["mean_average_precision"], values["precision"], values["recall"]) == (0.5, 0.5, 1.0)
    assert values["coco_AP50"] == pytest.approx(0.5)


def test_nothing_is_printed_or_logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        detection_metrics(*random_scene(0, with_masks=True), CLASSES, options("coco_voc"), Task.SEGMENTATION)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("task", [Task.DETECTION, Task.SEGMENTATION])
@pytest.mark.parametrize("method", ["none", "voc", "coco", "coco_voc"])
def test_images_that_are_matched_once_have_the_metrics_of_any_resample(method: MetricType, task: Task) -> None:
    predictions, truths = random_scene(4, with_masks=task is Task.SEGMENTATION)
    measure = metrics_of_resamples(predictions, truths, len(CLASSES), options(method), task)
    names = {"mean_average_precision", "precision", "recall", "bbox_mean_average_precision"}
    for positions in ([0, 1, 2, 3, 4], [2, 2, 0, 4, 2], [3, 3, 3, 3, 3]):
        chosen = [predictions[at] for at in positions], [truths[at] for at in positions]
        expected = detection_metrics(*chosen, CLASSES, options(method), task).values
        if method == "coco":
            names -= {"precision", "recall"}
        known = {name: expected[name] for name in names & set(expected)}
        assert measure(np.array(positions)) == pytest.approx(known, abs=1e-12)
