"""Photographs in the layouts that their authors published."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from clearsight.documents.data.mltable import MLTABLE_TEXT
from clearsight.runs.cli_job import job
from clearsight.tasks import Task
from clearsight.training.cli_data import data
from clearsight.training.data.converters import ConversionRequest
from clearsight.training.data.converters.coco import read_coco
from clearsight.training.data.converters.csv_list import read_csv

SHARED = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photographs are not there")


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_the_fridge_photographs_convert_and_pass_the_check(layout: str, tmp_path: Path) -> None:
    source = SHARED / "fridge_multiclass"
    source = source if layout == "folders" else source / "labels.csv"
    result = CliRunner().invoke(data, ["convert", "--from", layout, str(source), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    counts: dict[str, int] = {}
    for folder in ("training-mltable-folder", "validation-mltable-folder"):
        args = ["check", str(tmp_path / folder), "--task", "image_classification", "--output", "json"]
        document = json.loads(CliRunner().invoke(data, args).stdout)
        assert document["faults"] == []
        for name, count in document["records_per_class"].items():
            counts[name] = counts.get(name, 0) + count
    assert counts == {"can": 16, "carton": 16, "milk_bottle": 19, "water_bottle": 17}


def test_the_blood_smears_convert_with_several_labels(tmp_path: Path) -> None:
    args = ["convert", "--from", "csv", str(SHARED / "bccd" / "multilabel.csv"), "--output", str(tmp_path)]
    result = CliRunner().invoke(
        data, [*args, "--validation-every", "5", "--images", str(SHARED / "bccd" / "JPEGImages")]
    )
    assert json.loads(result.stdout)["task"] == "image_classification_multilabel"
    train = (tmp_path / "training-mltable-folder" / "train_annotations.jsonl").read_text().splitlines()
    validation = (tmp_path / "validation-mltable-folder" / "validation_annotations.jsonl").read_text().splitlines()
    assert len(train) + len(validation) == 159
    assert json.loads(train[1])["label"] == ["Platelets", "RBC", "WBC"]


def test_decoding_finds_the_file_that_was_cut_off(tmp_path: Path) -> None:
    names = ["gray_16bit.png", "truncated.jpg", "bad_exif.jpg", "cmyk.jpg"]
    lines = [json.dumps({"image_url": str(SHARED / "tricky" / name), "label": "x"}) for name in names]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "MLTable").write_text(MLTABLE_TEXT.format(file_name="a.jsonl"))
    args = ["check", str(tmp_path), "--task", "image_classification", "--output", "json"]
    assert json.loads(CliRunner().invoke(data, args).stdout)["faults"] == []
    [fault] = json.loads(CliRunner().invoke(data, [*args, "--decode"]).stdout)["faults"]
    assert fault["target"].endswith("a.jsonl:2")


def convert_and_check(source: Path, output: Path, layout: str, task: str, *flags: str) -> dict[str, dict[str, int]]:
    """Convert, require a clean check of both folders, and return records and objects per class of all."""
    args = ["convert", str(source), "--from", layout, "--output", str(output), "--task", task, *flags]
    result = CliRunner().invoke(data, args)
    assert result.exit_code == 0, result.exception or result.output
    total: dict[str, dict[str, int]] = {"records": {}, "objects": {}}
    for folder in ("training-mltable-folder", "validation-mltable-folder"):
        if not (output / folder / "MLTable").read_text() or not list((output / folder).glob("*.jsonl")):
            continue
        report = json.loads(
            CliRunner().invoke(data, ["check", str(output / folder), "--task", task, "--output", "json"]).stdout
        )
        assert report["faults"] == []
        assert report["warnings"] == []
        for kind in total:
            for name, count in report.get(f"{kind}_per_class", {}).items():
                total[kind][name] = total[kind].get(name, 0) + count
    return total


def test_the_blood_smears_convert_with_their_boxes(tmp_path: Path) -> None:
    found = convert_and_check(SHARED / "bccd", tmp_path, "voc", "image_object_detection")
    # One of the 1773 boxes around red cells has no extent.
    assert found["objects"] == {"RBC": 1772, "WBC": 158, "Platelets": 152}


def test_the_fridge_photographs_convert_from_coco_for_every_task(tmp_path: Path) -> None:
    source = SHARED / "fridge_od" / "coco.json"
    boxes = convert_and_check(source, tmp_path / "boxes", "coco", "image_object_detection")
    assert sum(boxes["objects"].values()) == 22
    assert convert_and_check(source, tmp_path / "masks", "coco", "image_instance_segmentation") == boxes
    labels = convert_and_check(source, tmp_path / "labels", "coco", "image_classification_multilabel")
    assert labels["records"] == boxes["records"]
    listed = convert_and_check(
        SHARED / "fridge_od" / "labels.csv",
        tmp_path / "csv",
        "csv",
        "image_classification_multilabel",
        "--images",
        str(SHARED / "fridge_od" / "images"),
    )
    assert listed == labels


def test_voc_and_coco_of_the_same_photographs_agree_to_a_pixel(tmp_path: Path) -> None:
    convert_and_check(SHARED / "fridge_od", tmp_path / "voc", "voc", "image_object_detection")
    convert_and_check(SHARED / "fridge_od" / "coco.json", tmp_path / "coco", "coco", "image_object_detection")
    keys = ("topX", "topY", "bottomX", "bottomY")
    found: dict[str, dict[str, list[tuple[str, list[float]]]]] = {"voc": {}, "coco": {}}
    for layout, images in found.items():
        for path in sorted((tmp_path / layout).glob("*/*.jsonl")):
            for record in map(json.loads, path.read_text().splitlines()):
                boxes = [(item["label"], [item[key] for key in keys]) for item in record["label"]]
                images[Path(record["image_url"]).name] = sorted(boxes)
    assert len(found["voc"]) == 6
    for name, boxes in found["voc"].items():
        for (label, box), (other_label, other) in zip(boxes, found["coco"][name], strict=True):
            assert label == other_label
            # VOC counts pixels from 1, so that its left and top edges are one pixel farther left and up.
            assert box == pytest.approx(other, abs=1.01 / 499)


MULTI_LABEL = """
$schema: https://azuremlschemas.azureedge.net/latest/autoMLJob.schema.json
type: automl
compute: azureml:gpu-cluster
task: image_classification_multilabel
primary_metric: iou
target_column_name: label
training_data: {type: mltable, path: training-mltable-folder}
validation_data: {type: mltable, path: validation-mltable-folder}
limits: {timeout_minutes: 60, max_trials: 1}
training_parameters: {model_name: mobilenetv2, number_of_epochs: 10, training_batch_size: 16}
"""


@pytest.mark.parametrize(
    ("name", "images"), [("bccd/multilabel.csv", "bccd/JPEGImages"), ("fridge_od/labels.csv", "fridge_od/images")]
)
def test_real_labels_of_several_classes_make_a_job(
    name: str, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLEARSIGHT_WEIGHTS", str(tmp_path))
    (tmp_path / "mobilenetv2.pth").touch()
    task = "image_classification_multilabel"
    convert_and_check(SHARED / name, tmp_path, "csv", task, "--images", str(SHARED / images))
    job_file = tmp_path / "job.yml"
    job_file.write_text(MULTI_LABEL)
    body = {
        "properties": {
            "jobType": "AutoML",
            "taskDetails": {
                "taskType": "ImageClassificationMultilabel",
                "primaryMetric": "Iou",
                "targetColumnName": "label",
                "trainingData": {"jobInputType": "mltable", "uri": "training-mltable-folder"},
                "validationData": {"jobInputType": "mltable", "uri": "validation-mltable-folder"},
                "limitSettings": {"maxTrials": 1, "timeout": "PT1H"},
                "modelSettings": {"modelName": "mobilenetv2", "numberOfEpochs": 10, "trainingBatchSize": 16},
            },
        }
    }
    (tmp_path / "body.json").write_text(json.dumps(body))
    validated = [
        json.loads(CliRunner().invoke(job, ["validate", "--file", str(file)]).stdout)
        for file in (job_file, tmp_path / "body.json")
    ]
    assert validated[0]["result"] == "Succeeded"
    assert validated[0]["parameters"]["number_of_epochs"] == {"value": 10, "origin": "user"}
    for document in validated:  # a seed is drawn for each
        document["parameters"].pop("random_seed")
    assert validated[0] == validated[1]


@pytest.mark.parametrize(
    ("layout", "source", "classes"),
    [
        ("voc", "aerial_trees", {"Tree": 61, "Dead": 28, "Alive": 9}),
        ("coco", "drone/terrain2_coco.json", {"car": 5}),
    ],
)
def test_images_from_above_convert(layout: str, source: str, classes: dict[str, int], tmp_path: Path) -> None:
    task = "image_object_detection"
    if layout == "coco":  # one image cannot be split
        converted = read_coco(ConversionRequest(SHARED / source, Task(task)))
        assert len(json.loads(converted.entries[0].label)) == classes["car"]
    else:
        assert convert_and_check(SHARED / source, tmp_path, layout, task)["objects"] == classes


def test_forks_and_scissors_convert_from_custom_vision(tmp_path: Path) -> None:
    source = SHARED / "fork_scissors"
    found = convert_and_check(source, tmp_path, "customvision", "image_object_detection")
    assert found["objects"] == {"fork": 20, "scissors": 20}
    boxes = {}
    for path in tmp_path.glob("*/*.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()):
            [boxes[Path(record["image_url"]).name]] = record["label"]
    for region in json.loads((source / "regions.json").read_text()):
        box = boxes[Path(region["file"]).name]
        assert (box["topX"], box["topY"]) == pytest.approx((region["left"], region["top"]), abs=1e-6)
        size = box["bottomX"] - box["topX"], box["bottomY"] - box["topY"]
        assert size == pytest.approx((region["width"], region["height"]), abs=1e-6)


def test_lists_of_trees_convert_with_their_boxes_and_outlines() -> None:
    """The geometry of one list is the outline of its boxes."""
    for name, classes in (("2018_SJER_3_252000_4107000_image_477_truth", ["0"] * 7), ("2019_BLAN", ["Tree"] * 4)):
        stem = name if name.endswith("truth") else f"{name}_3_751000_4330000_image_crop_bbox"
        source = SHARED / "aerial_trees" / f"{stem}.csv"
        [entry] = read_csv(ConversionRequest(source)).entries
        boxes = json.loads(entry.label)
        assert [box["label"] for box in boxes] == classes
    [entry] = read_csv(ConversionRequest(source, Task.SEGMENTATION)).entries
    for box, outline in zip(boxes, json.loads(entry.label), strict=True):
        corners = np.reshape(outline["polygon"], (-1, 2))
        bounds = [*corners.min(axis=0), *corners.max(axis=0)]
        assert bounds == pytest.approx([box[key] for key in ("topX", "topY", "bottomX", "bottomY")], abs=1e-6)


def test_cell_nuclei_convert_and_their_polygons_fill_the_masks(tmp_path: Path) -> None:
    source = SHARED / "nuclei"
    found = convert_and_check(source, tmp_path, "masks", "image_instance_segmentation", "--label", "nucleus")
    assert found["objects"] == {"nucleus": 822}
    worst = 1.0
    for path in tmp_path.glob("*/*.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()[:5]):
            width, height = record["image_details"]["width"], record["image_details"]["height"]
            folder = (path.parent / record["image_url"]).parent.parent
            masks = [np.asarray(Image.open(file).convert("L")) > 0 for file in sorted((folder / "masks").glob("*.png"))]
            for mask, item in zip(masks, record["label"], strict=True):
                polygons = [np.reshape(polygon, (-1, 2)) * [width, height] for polygon in item["polygon"]]
                again = centres_inside(polygons, height, width)
                worst = min(worst, (again & mask).sum() / (again | mask).sum())
    assert worst >= 0.98


def centres_inside(polygons: list[NDArray[np.float64]], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies in any polygon, by counting crossings in a slow and simple loop."""
    covered = np.zeros((height, width), bool)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    for polygon in polygons:
        inside = np.zeros((height, width), bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y0 != y1:
                top, bottom = sorted((round(y0), round(y1)))
                part = slice(max(top - 1, 0), bottom + 2)
                crosses = (y0 <= rows[part]) != (y1 <= rows[part])
                inside[part] ^= crosses & (columns < x0 + (rows[part] - y0) / (y1 - y0) * (x1 - x0))
        covered |= inside
    return covered
