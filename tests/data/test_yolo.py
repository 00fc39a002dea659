"""YOLO: what names classes and images, and lines that are boxes, polygons or faults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import InvalidData
from clearsight.tasks import Task
from clearsight.training.data.converters import ConversionRequest
from clearsight.training.data.converters.yolo import read_yolo

CheckRows = Callable[..., None]
WriteImage = Callable[..., Path]

BOX = "0 .5 .5 .2 .4"


def label(entry: Any) -> Any:
    return json.loads(entry.label) if isinstance(entry.label, bytes) else entry.label


def parts(source: Path, **options: Any) -> list[tuple[str, str | None, list[str]]]:
    """Image, part and classes of every entry."""
    entries = read_yolo(ConversionRequest(source, Task.DETECTION, **options)).entries
    return [(entry.image.name, entry.part, [item["label"] for item in label(entry)]) for entry in entries]


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


IMAGES = ("train/images/1.jpg", "valid/images/2.jpg", "test/images/3.jpg")
LABELS = {"train/labels/1.txt": BOX, "valid/labels/2.txt": BOX.replace("0", "1", 1)}
ALONE = [("train.jpg", None, ["no"]), ("val.jpg", None, ["can"])]
SPLIT = [("1.jpg", "training", ["no"]), ("2.jpg", "validation", ["can"])]


@pytest.mark.parametrize("names", ["names: [no, can]", "names:\n  1: can\n  0: no", 'nc: 2\nnames: ["no", "can"]'])
@pytest.mark.parametrize("train", ["train/images", "../train/images", "./train/images", "[train/images]"])
def test_data_yaml_names_classes_and_parts(names: str, train: str, tmp_path: Path, write_image: WriteImage) -> None:
    """`no` is a class name, although YAML 1.1 reads it as false; exports of Roboflow begin their paths with `../`."""
    for name in IMAGES:
        write_image(name)
    settings = f"{names}\ntrain: {train}\nval: valid/images\ntest: test/images\n"
    source = write_tree(tmp_path / "data", LABELS | {"data.yaml": settings})
    assert parts(source) == parts(source / "data.yaml") == SPLIT
    converted = read_yolo(ConversionRequest(source))
    assert converted.warnings == (f"picture of the test part left out: 1 (first: {source}/test/images/3.jpg)",)


def test_classes_and_images_are_found_in_the_trees_that_tools_write(
    tmp_path: Path, write_image: WriteImage, check_rows: CheckRows
) -> None:
    names = "no\ncan\n"
    listed = {"obj_train_data/1.txt": BOX, "obj_train_data/2.txt": BOX.replace("0", "1", 1), "obj.names": names}
    trees: list[tuple[tuple[str, ...], dict[str, str], Any]] = [
        # Folders of parts without data.yaml.
        (IMAGES, LABELS | {"classes.txt": names}, SPLIT),
        (
            ("images/train/1.jpg", "images/val/2.jpg"),
            {"labels/train/1.txt": BOX, "labels/val/2.txt": "1" + BOX[1:], "labels/classes.txt": names},
            SPLIT,
        ),
        # Darknet: text beside the images, names in each folder.
        (
            ("train/1.jpg", "valid/2.jpg"),
            {f"{part}/_darknet.labels": names for part in ("train", "valid")}
            | {"train/1.txt": BOX, "valid/2.txt": "1" + BOX[1:]},
            SPLIT,
        ),
        # Darknet: settings and lists with paths of another machine.
        (
            ("obj_train_data/1.jpg", "obj_train_data/2.jpg"),
            listed
            | {
                "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n",
                "train.txt": "data/obj_train_data/1.jpg\n",
                "valid.txt": "data/obj_train_data/2.jpg\n",
            },
            SPLIT,
        ),
        # Lists without settings; one that is the label file of an image is none.
        (
            ("images/1.jpg", "images/2.jpg"),
            {"labels/1.txt": BOX, "labels/2.txt": "1" + BOX[1:], "classes.txt": names}
            | {"train.txt": "./images/1.jpg\n", "valid.txt": "./images/2.jpg\n"},
            SPLIT,
        ),
        (("train.jpg", "val.jpg"), {"train.txt": BOX, "val.txt": "1" + BOX[1:], "classes.txt": names}, ALONE),
        # Images in a folder of another name, and names beside the labels.
        (
            ("photos/1.jpg", "photos/2.jpg"),
            {"labels/1.txt": BOX, "labels/2.txt": "1" + BOX[1:], "labels/classes.txt": names},
            [("1.jpg", None, ["no"]), ("2.jpg", None, ["can"])],
        ),
        # No parts; a folder that names none keeps all of them from being parts.
        (
            ("images/1.jpg", "images/train/2.jpg"),
            {"labels/1.txt": BOX, "labels/train/2.txt": "1" + BOX[1:], "classes.txt": names},
            [("1.jpg", None, ["no"]), ("2.jpg", None, ["can"])],
        ),
        # `path` of another machine; parts of several folders.
        (
            ("a/images/1.jpg", "b/images/2.jpg", "c/images/3.jpg"),
            {"a/labels/1.txt": BOX, "b/labels/2.txt": BOX, "c/labels/3.txt": BOX}
            | {"data.yaml": "path: ../datasets/x\ntrain: [a/images, b/images]\nval: c/images\nnames: {0: no}\n"},
            [("1.jpg", "training", ["no"]), ("2.jpg", "training", ["no"]), ("3.jpg", "validation", ["no"])],
        ),
    ]

    def check(images: tuple[str, ...], files: dict[str, str], expected: Any) -> None:
        top = f"tree{len(list((tmp_path / 'data').glob('tree*')))}"
        for name in images:
            write_image(f"{top}/{name}")
        assert parts(write_tree(tmp_path / "data" / top, files)) == expected

    (tmp_path / "data").mkdir()
    check_rows(check, trees)


def test_images_elsewhere_have_their_labels_in_the_source(tmp_path: Path, write_image: WriteImage) -> None:
    write_image("photos/a/1.jpg")
    source = write_tree(tmp_path / "source", {"labels/a/1.txt": BOX, "classes.txt": "can"})
    assert parts(source, images=tmp_path / "data" / "photos") == [("1.jpg", None, ["can"])]


def test_a_file_may_mix_boxes_and_polygons_for_detection_alone(tmp_path: Path, write_image: WriteImage) -> None:
    write_image("1.jpg", (100, 50))
    polygon = "0 .1 .2 .3 .2 .3 .6"
    source = write_tree(tmp_path / "data", {"1.txt": f"{BOX}\n{polygon}\n", "classes.txt": "can"})
    [entry] = read_yolo(ConversionRequest(source, Task.DETECTION)).entries
    assert [[item[key] for key in ("topX", "topY", "bottomX", "bottomY")] for item in label(entry)] == [
        [0.4, 0.3, 0.6, 0.7],
        [0.1, 0.2, 0.3, 0.6],
    ]
    with pytest.raises(
        InvalidData, match=r"1\.txt:1: must have a polygon or a mask.*use --task image_object_detection"
    ):
        read_yolo(ConversionRequest(source))


def test_what_has_no_counterpart_is_counted(tmp_path: Path, write_image: WriteImage) -> None:
    write_image("1.jpg")
    write_image("2.jpg")
    files = {"1.txt": BOX, "3.txt": BOX, "notes.txt": "Taken in May.", "classes.txt": "can"}
    converted = read_yolo(ConversionRequest(write_tree(tmp_path / "data", files)))
    assert [warning.split(" (")[0] for warning in converted.warnings] == [
        "picture without a label file: shows no object: 1",
        "label file without a picture: 1",
    ]
    assert label(converted.entries[1]) == []
    (tmp_path / "data" / "classes.txt").write_text("can\ntin\ncan\n")
    assert read_yolo(ConversionRequest(tmp_path / "data")).warnings[0].startswith("class that several numbers name: 1 ")


def test_faulty_lines_and_settings_are_named(tmp_path: Path, write_image: WriteImage, check_rows: CheckRows) -> None:
    lines = [
        ("0 .5 .5 .2", "has 4 fields"),
        ("0 .5 .5 .2 .4 .9", "has 6 fields"),  # a box with a confidence: what a model found, not a label
        ("0 .5 .5 .2 .4 .9 .9 .9", "has 8 fields"),
        ("0 .5 .5 .2 x", "could not convert string to float: 'x'"),
        ("0 50 25 20 10", "must hold fractions of the picture in [0, 1], but got 50"),
        ("0 nan .5 .2 .4", "but got nan"),
        ("0 .9 .5 .5 .4", "must lie inside the picture"),
        ("2 .5 .5 .2 .4", "must be a number from 0 to 1, but got '2'"),
        ("-1 .5 .5 .2 .4", "but got '-1'"),
        ("can .5 .5 .2 .4", "but got 'can'"),
        ("1 .5 .5 .2 .4", "class 1 must have a name"),
    ]
    settings = [
        ("names: [can]\ntrain: images\nval: nowhere\n", "'nowhere' is not below"),
        ("names: [can]\ntrain: list.txt\nval: images\n", "list.txt:2"),
        ("names: {1: can, 2: tin}\n", "from 0 to 1, but"),
        ("names: [can]\nkpt_shape: [17, 3]\n", "has keypoints"),
        ("train: images\n", "classes must be named by data.yaml"),
        ("names: [can\n", "must be YAML"),
        ("can\n", "holds no keys"),
    ]
    write_image("images/1.jpg", (100, 50))
    source = write_tree(tmp_path / "data", {"labels/1.txt": BOX, "list.txt": "images/1.jpg\nimages/none.jpg\n"})

    def check(line: str, text: str, message: str) -> None:
        write_tree(source, {"labels/1.txt": line, "data.yaml": text})
        with pytest.raises(InvalidData) as caught:
            read_yolo(ConversionRequest(source, Task.DETECTION))
        [fault] = caught.value.faults
        assert message in f"{fault.target}: {fault.message}"

    check_rows(check, [(line, "names: [can, '']", message) for line, message in lines])
    check_rows(check, [(BOX, text, message) for text, message in settings])
    write_tree(source, {"data.yaml": "names: [can]"})
    (source / "labels/1.txt").unlink()
    with pytest.raises(InvalidData, match=r"must have a label file .* but no picture has one"):
        read_yolo(ConversionRequest(source))


def test_labels_of_two_images_of_one_stem_are_a_fault(tmp_path: Path, write_image: WriteImage) -> None:
    for name in ("images/1.jpg", "images/1.png", "images/2.jpg"):
        write_image(name, (100, 50))
    source = write_tree(tmp_path / "data", {"labels/1.txt": BOX, "data.yaml": "names: [can, tin]"})
    with pytest.raises(InvalidData, match=r"labels of one picture, but .*1\.jpg and .*1\.png have its stem"):
        read_yolo(ConversionRequest(source))
    write_tree(source, {"list.txt": "images/1.png\nimages/2.jpg\n"})
    write_tree(source, {"data.yaml": "names: [can, tin]\ntrain: list.txt\nval: list.txt\n"})
    assert len({entry.image for entry in read_yolo(ConversionRequest(source)).entries}) == 2
