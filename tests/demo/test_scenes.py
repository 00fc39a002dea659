import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clearsight.demo.containers import CONTAINERS
from clearsight.demo.outlines import box_from_polygons, polygons_from_coverage
from clearsight.demo.rack import RACK_CLASSES, draw_rack
from clearsight.demo.scene import EASY_COLOURS, draw_scene
from clearsight.tasks import Task
from clearsight.training.cli_data import data
from clearsight.training.data.check import check_folder

FOLDERS = {
    "multiclass": Task.MULTI_CLASS,
    "multilabel": Task.MULTI_LABEL,
    "detection": Task.DETECTION,
    "segmentation": Task.SEGMENTATION,
}
PARTS = {
    "training-mltable-folder": "train_annotations.jsonl",
    "validation-mltable-folder": "validation_annotations.jsonl",
}


def fill(polygons: list[list[float]], height: int, width: int) -> np.ndarray[Any, Any]:
    """The polygons filled at four times the size, then averaged: coverage per pixel."""
    canvas = np.zeros((height * 4, width * 4), np.uint8)
    for polygon in polygons:
        points = np.array(polygon).reshape(-1, 2) * [width * 4, height * 4] - 0.5
        cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 1)
    return canvas.reshape(height, 4, width, 4).mean(axis=(1, 3))


def draw(output: Path, *flags: str) -> None:
    result = CliRunner().invoke(data, ["demo", "--output", str(output), *flags])
    assert result.exit_code == 0, result.output


def read(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for part, name in PARTS.items() for line in (folder / part / name).read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo")
    draw(output, "--num-images", "20", "--seed", "5", "--size", "160x120")
    return output


def test_nothing_covered_has_no_outline() -> None:
    assert polygons_from_coverage(np.zeros((20, 30), np.float32)) == []
    assert polygons_from_coverage(np.full((20, 30), 0.4, np.float32)) == []


def test_a_rectangle_comes_back_to_the_pixel() -> None:
    coverage = np.zeros((100, 200), np.float32)
    coverage[20:60, 30:90] = 1
    [polygon] = polygons_from_coverage(coverage)
    left, top, right, bottom = box_from_polygons([polygon])
    assert np.allclose([left * 200, top * 100, right * 200, bottom * 100], [30, 20, 90, 60], atol=0.3)


def test_a_region_that_fills_the_image_reaches_its_edges() -> None:
    polygons = polygons_from_coverage(np.ones((40, 50), np.float32))
    assert np.allclose(box_from_polygons(polygons), [0, 0, 1, 1], atol=0.01)


def test_separate_regions_are_separate_polygons_and_specks_are_left_out() -> None:
    coverage = np.zeros((60, 60), np.float32)
    coverage[5:15, 5:15] = 1
    coverage[30:50, 30:50] = 1
    coverage[55:57, 5:7] = 1
    polygons = polygons_from_coverage(coverage)
    assert [round(box_from_polygons([polygon])[0] * 60) for polygon in polygons] == [30, 5]


@pytest.mark.parametrize("label", list(CONTAINERS))
def test_polygons_give_the_visible_part_back(label: str) -> None:
    scene = draw_scene(np.random.default_rng([3, len(label)]), 240, 320, (label,))
    [item] = scene.objects
    refilled = fill(polygons_from_coverage(item.visible_HW), 240, 320) >= 0.5
    visible = item.visible_HW >= 0.5
    assert (refilled & visible).sum() / (refilled | visible).sum() > 0.97


def test_visible_parts_never_overlap() -> None:
    scene = draw_scene(np.random.default_rng(8), 120, 160, tuple(CONTAINERS))
    assert len(scene.objects) >= 2
    assert np.sum([item.visible_HW for item in scene.objects], axis=0).max() <= 1.001


def test_a_scene_without_labels_shows_no_object() -> None:
    scene = draw_scene(np.random.default_rng(1), 120, 160, ())
    assert scene.objects == ()
    assert scene.image_HW3.shape == (120, 160, 3)


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path, demo: Path) -> None:
    draw(tmp_path / "again", "--num-images", "20", "--seed", "5", "--size", "160x120")
    files = sorted(path.relative_to(demo) for path in demo.rglob("*") if path.is_file())
    assert len(files) == 2 * 20 + 4 * 4
    assert all((demo / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


def test_another_seed_draws_other_images(tmp_path: Path, demo: Path) -> None:
    draw(tmp_path, "--num-images", "10", "--seed", "6", "--size", "160x120", "--task", "image_classification")
    assert not (tmp_path / "detection").exists()
    assert not (tmp_path / "images" / "several").exists()
    first = "images/single/0000.jpg"
    assert (tmp_path / first).read_bytes() != (demo / first).read_bytes()


@pytest.mark.parametrize(("name", "task"), FOLDERS.items())
def test_every_task_gets_two_faultless_folders(demo: Path, name: str, task: Task) -> None:
    for part, num_records in zip(PARTS, (16, 4), strict=True):
        report = check_folder(demo / name / part, task, "label", {})
        assert report.faults == ()
        assert report.table is not None
        assert len(report.table.records) == num_records
        assert set(report.survey.sizes_wh.values()) == {(160, 120)}


def test_every_class_is_in_both_splits_equally_often(demo: Path) -> None:
    labels = [record["label"] for record in read(demo / "multiclass")]
    assert sorted(labels[16:]) == sorted(CONTAINERS)
    assert all(labels.count(name) == 5 for name in CONTAINERS)


def test_the_three_tasks_of_full_shelves_agree(demo: Path) -> None:
    multilabel, detection, segmentation = (read(demo / name) for name in ("multilabel", "detection", "segmentation"))
    assert len({tuple(record["label"]) for record in multilabel}) > 5
    for names, boxes, polygons in zip(multilabel, detection, segmentation, strict=True):
        assert names["image_url"] == boxes["image_url"] == polygons["image_url"]
        assert names["label"] == sorted({item["label"] for item in boxes["label"]})
        for box, polygon in zip(boxes["label"], polygons["label"], strict=True):
            corners = [box[key] for key in ("topX", "topY", "bottomX", "bottomY")]
            assert corners == list(box_from_polygons(polygon["polygon"]))


def test_default_images_are_the_scenes_of_their_seed_kind_and_number(demo: Path) -> None:
    """Later versions draw the same images, so that jobs on them can be compared."""
    scene = draw_scene(np.random.default_rng([5, 0, 1]), 120, 160, ("carton",))
    buffer = io.BytesIO()
    Image.fromarray(scene.image_HW3).save(buffer, "JPEG", quality=90)
    assert (demo / "images/single/0001.jpg").read_bytes() == buffer.getvalue()


def test_a_window_of_an_image_has_the_outline_that_it_has_in_the_whole_image() -> None:
    whole = np.zeros((90, 120), np.float32)
    cv2.ellipse(whole, (60, 40), (6, 9), 20, 0, 360, (1.0,), -1, cv2.LINE_AA)
    part = polygons_from_coverage(whole[20:60, 45:75], (45, 20), (120, 90))
    assert np.allclose(part, polygons_from_coverage(whole))


def test_racks_hold_many_small_objects_that_no_two_images_share(tmp_path: Path) -> None:
    draw(tmp_path / "rack", "--num-images", "10", "--object-size", "10-16", "--size", "640x480")
    draw(tmp_path / "again", "--num-images", "10", "--object-size", "10-16", "--size", "640x480")
    folders = ["detection", "images", "segmentation"]
    assert sorted(path.name for path in (tmp_path / "rack").iterdir()) == folders
    files = sorted(path.relative_to(tmp_path / "rack") for path in (tmp_path / "rack").rglob("*") if path.is_file())
    for file in files:
        assert (tmp_path / "rack" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    detection, segmentation = (read(tmp_path / "rack" / name) for name in ("detection", "segmentation"))
    assert len({json.dumps(record["label"]) for record in detection}) == 10
    sides = []
    for boxes, polygons in zip(detection, segmentation, strict=True):
        assert len(boxes["label"]) >= 3
        for box, polygon in zip(boxes["label"], polygons["label"], strict=True):
            corners = [box[key] for key in ("topX", "topY", "bottomX", "bottomY")]
            assert corners == list(box_from_polygons(polygon["polygon"]))
            sides.append(((corners[2] - corners[0]) * 640, (corners[3] - corners[1]) * 480, box["label"]))
    assert {label for *_, label in sides} == set(RACK_CLASSES)
    assert min(max(width, height) for width, height, _ in sides) > 7
    assert max(max(width, height) for width, height, _ in sides) <= 16
    slender = {label: np.median([w / h for w, h, name in sides if name == label]) for label in RACK_CLASSES}
    assert slender["can"] > 1.5 * slender["water_bottle"]
    for name, task in (("detection", Task.DETECTION), ("segmentation", Task.SEGMENTATION)):
        assert check_folder(tmp_path / "rack" / name / "training-mltable-folder", task, "label", {}).faults == ()


def test_the_objects_of_a_rack_are_where_their_outlines_are() -> None:
    """Inside the outlines the image differs from the wall around them."""
    rack = draw_rack(np.random.default_rng(4), 480, 640, (10, 16))
    image = rack.image_HW3.astype(float)
    differs = []
    for _, polygons in rack.objects:
        left, top, right, bottom = (np.array(box_from_polygons(polygons)) * [640, 480, 640, 480]).round().astype(int)
        inside = image[top:bottom, left:right].reshape(-1, 3)
        beside = image[top:bottom, np.r_[left - 4 : left - 1, right + 1 : right + 4].clip(0, 639)].reshape(-1, 3)
        differs.append(np.abs(inside - np.median(beside, axis=0)).max(axis=1).mean() > 20)
    assert np.mean(differs) > 0.8


@pytest.mark.parametrize(
    "flags",
    [("--object-size", "16"), ("--object-size", "16-10"), ("--object-size", "2-4"),
     ("--object-size", "10-16", "--task", "image_classification")],
)  # fmt: skip
def test_wrong_racks_are_refused(tmp_path: Path, flags: tuple[str, ...]) -> None:
    result = CliRunner().invoke(data, ["demo", "--output", str(tmp_path / "out"), *flags])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [("--size", "320"), ("--size", "20x20"), ("--num-images", "3"), ("--task", "x")])
def test_wrong_flags_are_refused(tmp_path: Path, flags: tuple[str, ...]) -> None:
    result = CliRunner().invoke(data, ["demo", "--output", str(tmp_path / "out"), *flags])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_colours_and_positions_do_not_reveal_the_class() -> None:
    """A linear model on 8 x 8 thumbnails is far less accurate than a small network."""
    names = list(CONTAINERS)
    scenes = [draw_scene(np.random.default_rng([9, index]), 120, 160, (names[index % 4],)) for index in range(200)]
    thumbnails = np.array([cv2.resize(scene.image_HW3, (8, 8), interpolation=cv2.INTER_AREA) for scene in scenes])
    features, labels = thumbnails.reshape(len(scenes), -1), np.arange(len(scenes)) % 4
    is_validation = np.arange(len(scenes)) % 5 == 0
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    model.fit(features[~is_validation], labels[~is_validation])
    assert model.score(features[is_validation], labels[is_validation]) < 0.6


def test_in_an_easy_scene_the_colour_reveals_the_class() -> None:
    names = tuple(CONTAINERS)
    for seed in range(6):
        scene = draw_scene(np.random.default_rng(seed), 120, 160, names, is_easy=True)
        assert scene.objects
        for item in scene.objects:
            inside = scene.image_HW3[cv2.erode(item.visible_HW, np.ones((3, 3))) > 0.9].astype(np.float64).mean(axis=0)
            likeness = {name: float(inside @ colour / np.linalg.norm(colour)) for name, colour in EASY_COLOURS.items()}
            assert max(likeness, key=lambda name: likeness[name]) == item.label
