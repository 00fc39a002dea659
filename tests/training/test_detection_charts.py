"""Charts of detection and segmentation: values by hand and from pycocotools, images that can be opened."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clearsight.tasks import Task
from clearsight.training.charts import write_detection_charts, write_samples
from clearsight.training.detection.metrics import GroundTruth, MetricOptions, Predictions, detection_metrics

BOXES = Task.DETECTION
OPTIONS = MetricOptions("voc", 0.5, 0.3)
CLASSES = ("can", "carton", "absent")
FILES = {
    "precision_recall_curve.json",
    "precision_recall_curve.png",
    "confusion_matrix.json",
    "confusion_matrix.png",
    "confusion_matrix_normalized.png",
    "per_label_metrics.json",
    "per_label_metrics.png",
}

Row = tuple[float, float, float, float, int]


def found(*rows: tuple[float, float, float, float, int, float]) -> Predictions:
    """left, top, right, bottom, class id, score."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Predictions(table[:, :4].astype(np.float32), table[:, 4].astype(np.int64), table[:, 5].astype(np.float32))


def there_is(*rows: Row, crowd: tuple[int, ...] = ()) -> GroundTruth:
    table = np.array(rows, np.float64).reshape(-1, 5)
    is_crowd = np.isin(np.arange(len(table)), crowd)
    return GroundTruth(table[:, :4].astype(np.float32), table[:, 4].astype(np.int64), is_crowd)


def written(folder: Path, truths: Any, predictions: Any, classes: Any = CLASSES, task: Task = BOXES) -> dict[str, Any]:
    files = write_detection_charts(folder, truths, predictions, classes, OPTIONS, task)
    assert {file.name for file in files} == {file.name for file in folder.iterdir()} == FILES
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert min(image.size) > 100
    documents = {file.stem: json.loads(file.read_text()) for file in files if file.suffix == ".json"}
    assert all(document["schema_version"] == "1.0.0" for document in documents.values())
    return {name: document["data"] for name, document in documents.items()}


def square(left: float, class_id: int, *score: float) -> Any:
    """A box of 10 x 10 pixels at (`left`, 0)."""
    return (left, 0, left + 10, 10, class_id, *score)


@pytest.mark.parametrize("num_images", [0, 2])
def test_nothing_there_and_nothing_found_is_drawn(tmp_path: Path, num_images: int) -> None:
    data = written(tmp_path, [there_is()] * num_images, [found()] * num_images)
    assert data["precision_recall_curve"]["per_class"] == [None, None, None]
    assert data["confusion_matrix"]["matrix"] == [[0] * 4] * 4
    empty = {"precision": None, "recall": None, "average_precision": None, "num_objects": 0}
    assert data["per_label_metrics"] == {"class_labels": list(CLASSES), "per_class": [empty] * 3, "mean": empty}


def test_objects_that_were_all_missed_have_a_curve_of_area_zero(tmp_path: Path) -> None:
    data = written(tmp_path, [there_is(square(0, 0), square(20, 0))], [found()])
    [curve, *_] = data["precision_recall_curve"]["per_class"]
    assert (curve["recall"], curve["precision"], curve["average_precision"]) == ([0.0], [0.0], 0.0)
    assert data["confusion_matrix"]["matrix"][0] == [0, 0, 0, 2]
    assert data["per_label_metrics"]["per_class"][0]["precision"] is None
    assert data["per_label_metrics"]["per_class"][0]["recall"] == 0.0


def test_the_curve_is_the_envelope_of_the_worked_example(tmp_path: Path) -> None:
    """Three objects, found as hit, miss, hit, hit: precision 1, 1/2, 2/3, 3/4 at recall 1/3, 1/3, 2/3, 1."""
    truth = there_is(square(0, 0), square(20, 0), square(40, 0))
    hits = found(square(0, 0, 0.9), square(60, 0, 0.8), square(20, 0, 0.7), square(40, 0, 0.6), square(0, 0, 0.3))
    data = written(tmp_path, [truth], [hits])
    [curve, *_] = data["precision_recall_curve"]["per_class"]
    assert curve["recall"] == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-5)
    assert curve["precision"] == [0.75, 0.75, 1.0, 1.0]
    assert curve["thresholds"] == pytest.approx([0.6, 0.7, 0.9, None])
    assert curve["average_precision"] == pytest.approx(1 / 3 + 2 / 3 * 0.75)
    assert data["precision_recall_curve"]["iou_threshold"] == 0.5


def test_the_matrix_counts_mistaken_missed_and_made_up_objects(tmp_path: Path) -> None:
    truths = [
        there_is(square(0, 0), square(20, 1), square(40, 0), square(60, 1)),
        there_is((0, 0, 100, 100, 0), (200, 0, 300, 100, 1), crowd=(0, 1)),
    ]
    predictions = [
        found(
            square(0, 1, 0.6),  # the can again, and as a carton: the prediction with the higher score took it
            square(1, 0, 0.9),
            square(20, 0, 0.8),  # a carton taken for a can
            square(46, 0, 0.7),  # less than half of the can at 40
            square(60, 1, 0.2),  # not above the threshold
        ),
        found(
            square(50, 0, 0.9), square(250, 0, 0.8), square(400, 2, 0.7)
        ),  # in the crowd of its class, and in that of another class
    ]
    data = written(tmp_path, truths, predictions)
    assert data["confusion_matrix"]["class_labels"] == [*CLASSES, "background"]
    assert data["confusion_matrix"]["matrix"] == [
        [1, 0, 0, 1],
        [1, 0, 0, 1],
        [0, 0, 0, 0],
        [2, 1, 1, 0],
    ]


def random_pass(seed: int) -> tuple[list[GroundTruth], list[Predictions]]:
    """Objects detected with more or less overlap, twice, as another class, or not at all; all scores differ."""
    random = np.random.default_rng(seed)
    truths, predictions = [], []
    scores = iter(random.permutation(np.linspace(0.31, 0.99, 400)).tolist())
    for _ in range(12):
        num = int(random.integers(0, 6))
        corners = random.uniform(0, 200, (num, 2))
        boxes = np.concatenate([corners, corners + random.uniform(15, 60, (num, 2))], axis=1)
        ids = random.integers(0, 2, num)
        truths.append(there_is(*[(*box, k) for box, k in zip(boxes.tolist(), ids.tolist(), strict=True)]))
        shaken = np.repeat(boxes, 2, axis=0) + random.normal(0, 4, (2 * num, 4))
        found_ids = np.where(random.random(2 * num) < 0.8, np.repeat(ids, 2), 1 - np.repeat(ids, 2))
        kept = random.random(2 * num) < 0.6
        rows = [(*box, k, next(scores)) for box, k in zip(shaken[kept].tolist(), found_ids[kept].tolist(), strict=True)]
        predictions.append(found(*rows))
    return truths, predictions


def pycoco_precisions(truths: list[GroundTruth], predictions: list[Predictions]) -> np.ndarray:
    """Precision at 101 recalls of each class at IoU 0.5."""

    def annotations(image_ids: Any, is_found: bool) -> list[dict[str, Any]]:
        rows = []
        for image_id, objects in enumerate(image_ids, start=1):
            for position, (left, top, right, bottom) in enumerate(objects.boxes_xyxy_N4.astype(float).tolist()):
                row = {"image_id": image_id, "category_id": int(objects.class_ids_N[position]) + 1, "iscrowd": 0}
                row |= {"id": len(rows) + 1, "bbox": [left, top, right - left, bottom - top]}
                row["area"] = row["bbox"][2] * row["bbox"][3]
                rows.append(row | ({"score": float(objects.scores_N[position])} if is_found else {}))
        return rows

    images = [{"id": number + 1, "height": 300, "width": 300} for number in range(len(truths))]
    truth = COCO()
    truth.dataset = {
        "images": images,
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": annotations(truths, False),
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(annotations(predictions, True)), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][0, :, :, 0, -1])


@pytest.mark.parametrize("seed", range(3))
def test_curves_agree_with_pycocotools_and_the_table_with_the_logged_metrics(tmp_path: Path, seed: int) -> None:
    truths, predictions = random_pass(seed)
    data = written(tmp_path, truths, predictions, CLASSES[:2])
    expected_RK = pycoco_precisions(truths, predictions)
    for k, curve in enumerate(data["precision_recall_curve"]["per_class"]):
        recalls, precisions = np.array(curve["recall"]), np.array(curve["precision"])
        for recall, expected in zip(np.linspace(0, 1, 101), expected_RK[:, k], strict=True):
            reached = precisions[recalls >= recall - 1e-6]
            assert (reached[-1] if len(reached) else 0.0) == pytest.approx(expected, abs=1e-5)
    metrics = detection_metrics(predictions, truths, CLASSES[:2], OPTIONS, BOXES)
    for name, row in zip(CLASSES[:2], data["per_label_metrics"]["per_class"], strict=True):
        num_objects = row.pop("num_objects")
        assert row == pytest.approx(metrics.per_label[name])
        assert num_objects == sum(int((truth.class_ids_N == CLASSES.index(name)).sum()) for truth in truths)
    assert data["per_label_metrics"]["mean"]["average_precision"] == metrics.values["mean_average_precision"]
    matrix = np.array(data["confusion_matrix"]["matrix"])
    assert matrix[:2].sum() == sum(len(truth.class_ids_N) for truth in truths)
    assert matrix[:, :2].sum() == sum(len(one.class_ids_N) for one in predictions)


def mask_of(rows: slice, columns: slice, side: int = 100) -> dict[str, Any]:
    bitmap = np.zeros((side, side), np.uint8, order="F")
    bitmap[rows, columns] = 1
    rle = pycoco_masks.encode(bitmap)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_segmentation_compares_masks(tmp_path: Path) -> None:
    """The boxes are equal, the masks are halves of it that do not touch."""
    truth, detections = there_is((0, 0, 50, 50, 0)), found((0, 0, 50, 50, 0, 0.9))
    truth = GroundTruth(truth.boxes_xyxy_N4, truth.class_ids_N, truth.is_crowd_N, (mask_of(slice(25), slice(50)),))
    masks = (mask_of(slice(25, 50), slice(50)),)
    detections = Predictions(detections.boxes_xyxy_N4, detections.class_ids_N, detections.scores_N, masks)
    data = written(tmp_path / "masks", [truth], [detections], task=Task.SEGMENTATION)
    assert data["confusion_matrix"]["matrix"][0] == [0, 0, 0, 1]
    data = written(tmp_path / "boxes", [truth], [detections])
    assert data["confusion_matrix"]["matrix"][0] == [1, 0, 0, 0]


@pytest.mark.slow
def test_awkward_and_many_classes_are_drawn_without_a_warning(tmp_path: Path) -> None:
    truths, predictions = random_pass(4)
    names = ("background", "牛乳 $x^2$", *(f"class {k}" for k in range(120)))
    data = written(tmp_path, truths, predictions, names)  # warnings are errors here
    assert data["confusion_matrix"]["class_labels"] == [*names, "background"]
    for file in tmp_path.glob("*.png"):
        with Image.open(file) as image:
            assert max(image.size) < 3500


def test_no_images_are_no_samples(tmp_path: Path) -> None:
    assert write_samples(tmp_path, [], CLASSES) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(1, 1), (48, 64), (600, 400), (400, 1000), (1500, 2000)])
def test_a_sample_shows_truth_and_prediction_of_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    image = np.full((height, width, 3), 90, np.uint8)
    truth = there_is((0, 0, width / 2, height, 0), (0, 0, width, height, 1), crowd=(1,))
    detections = found((0, 0, width, height, 1, 0.4), (-3, 0, width / 2, height + 5, 0, 0.9))
    [file] = write_samples(tmp_path, [(image, truth, detections)], CLASSES)
    assert file == tmp_path / "samples" / "0.jpg"
    with Image.open(file) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    is_stacked = width > 2 * height
    first, second = np.array_split(pixels, 2, axis=0 if is_stacked else 1)
    assert min(first.shape[:2]) >= 64
    for half in (first, second):
        assert (np.abs(half - 90).max(axis=2) > 60).mean() > 0.01  # boxes and labels are there


def test_at_most_eight_samples_are_drawn_and_masks_with_them(tmp_path: Path) -> None:
    image = np.full((100, 100, 3), 90, np.uint8)
    truth, detections = there_is((20, 20, 80, 80, 0)), found((20, 20, 80, 80, 0, 0.9))
    masks = (mask_of(slice(20, 80), slice(20, 80)),)
    with_mask = Predictions(detections.boxes_xyxy_N4, detections.class_ids_N, detections.scores_N, masks)
    files = write_samples(tmp_path, [(image, truth, with_mask)] * 10, CLASSES)
    assert [file.name for file in files] == [f"{number}.jpg" for number in range(8)]
    with Image.open(files[0]) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    left, right = pixels[height // 2, width // 4], pixels[height // 2, 3 * width // 4]
    assert np.abs(left - 90).max() < 10  # a box is a frame, a mask is filled
    assert np.abs(right - 90).max() > 20
