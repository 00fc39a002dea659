"""Sources that are split already: what trains and what validates is as given."""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clearsight.errors import InvalidData
from clearsight.training.cli_data import data
from clearsight.training.data.converters.parts import part_named

WriteImage = Callable[..., Path]
CheckRows = Callable[..., None]
TRAINING, VALIDATION = "training-mltable-folder", "validation-mltable-folder"


@pytest.fixture
def convert(tmp_path: Path, write_image: WriteImage) -> Callable[..., Result]:
    """Writes images and text files below `data/TOP`, and runs the command on it, with `{top}` in flags replaced."""

    def run(top: str, layout: str, files: Mapping[str, str | None], *flags: str, source: str = "") -> Result:
        for name, text in files.items():
            path = tmp_path / "data" / top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                write_image(f"{top}/{name}", (100, 50))
            else:
                path.write_text(text)
        folder = tmp_path / "data" / top
        args = [flag.replace("{top}", str(folder)) for flag in flags]
        output = str(tmp_path / "out" / top)
        return CliRunner().invoke(data, ["convert", "--from", layout, str(folder / source), "--output", output, *args])

    return run


def parts(tmp_path: Path, top: str) -> list[list[str]]:
    """File names of the images that train, and of those that validate."""
    folders = [tmp_path / "out" / top / part for part in (TRAINING, VALIDATION)]
    texts = [next(folder.glob("*.jsonl")).read_text() for folder in folders]
    return [[Path(json.loads(line)["image_url"]).name for line in text.splitlines()] for text in texts]


def test_names_of_parts(check_rows: CheckRows) -> None:
    rows = [
        ("", None),
        ("can", None),
        ("train", "training"),
        ("Train2017", "training"),
        ("instances_val", "validation"),
    ]
    rows += [("VALID", "validation"), ("validation", "validation"), ("test-dev", "test"), ("Testing", "test")]
    rows += [("trainval", None), ("train_test", None), ("latest", None), ("TRAINING", "training")]
    check_rows(lambda name, part: pytest.fail(f"{part_named(name)}") if part_named(name) != part else None, rows)


VOC = (
    "<annotation><object><name>can</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


def images(**names: Iterable[str]) -> dict[str, str | None]:
    """Files by their names below folders; None stands for an image."""
    return {f"{folder}{name}": None for folder, found in names.items() for name in found}


def csv(*names: str) -> str:
    return "image,label\n" + "".join(f"{name},can\n" for name in names)


def coco(*names: str) -> str:
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    return json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "can"}]})


def test_parts_are_found_in_every_layout(convert: Any, tmp_path: Path, check_rows: CheckRows) -> None:
    """Three images train and one validates, which no drawn split of four images gives in this order."""
    three, four = ("1.jpg", "2.jpg", "3.jpg"), ("4.jpg",)
    split = images(**{"train/": three, "valid/": four})
    flat = images(**{"": three + four})
    official = {"annotations/instances_train2017.json": coco(*three), "annotations/instances_val2017.json": coco(*four)}
    exported = {"train/_annotations.coco.json": coco(*three), "valid/_annotations.coco.json": coco(*four)}
    tables = {"train_labels.csv": csv(*three), "validation_labels.csv": csv(*four)}
    rows: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = [
        ("folders", images(**{"Train/can/": three, "val/can/": four, "test/can/": ("5.jpg",)}), ()),
        ("voc", split | {name.replace("jpg", "xml"): VOC for name in split}, ()),
        ("coco", split | exported | {"test/_annotations.coco.json": "{}", "README.txt": ""}, ()),
        (
            "coco",
            images(**{"train2017/": three, "val2017/": four}) | official | {"annotations/captions.json": "[]"},
            (),
        ),
        ("coco", images(**{"images/train2017/": three, "images/val2017/": four}) | official, ()),
        ("coco", flat | {"train.json": coco(*three), "val.json": coco(*four)}, ()),
        ("coco", flat | {"a.json": coco(*three), "b.json": coco(*four)}, ("--validation-source", "{top}/b.json")),
        ("csv", flat | tables, ()),
        (
            "coco",
            images(**{"a/": three, "b/": ("3.jpg", *four)}) | {"a.json": coco(*three), "b.json": coco(*four)},
            ("--validation-source", "{top}/b.json", "--images", "{top}/a", "--validation-images", "{top}/b"),
        ),
    ]

    def check(layout: str, files: dict[str, str | None], flags: tuple[str, ...]) -> None:
        top = f"tree{len(list((tmp_path).glob('data/tree*')))}"
        source = "a.json" if flags else ""
        result = convert(top, layout, files, *flags, source=source)
        assert result.exit_code == 0, result.exception or result.output
        assert "is split: 3 pictures train, 1 validate" in result.stderr
        assert parts(tmp_path, top) == [["1.jpg", "2.jpg", "3.jpg"], ["4.jpg"]]

    check_rows(check, rows)


def test_options_of_splitting_draw_anew_from_all_that_is_no_test(convert: Any, tmp_path: Path) -> None:
    files = {f"{part}/can/{name}.jpg": None for part, name in (("train", 1), ("train", 2), ("val", 3), ("test", 4))}
    result = convert("anew", "folders", files, "--validation-every", "2")
    assert parts(tmp_path, "anew") == [["2.jpg"], ["1.jpg", "3.jpg"]]
    assert "is split" not in result.stderr
    warning, few = json.loads(result.stdout)["warnings"]
    assert few == "classes with fewer than 5 pictures: can (3)"
    assert warning == f"part that is kept for tests left out: {tmp_path}/data/anew/test"


def test_a_source_without_validating_part_is_split_as_others_are(convert: Any, tmp_path: Path) -> None:
    files = {f"{part}/can/{name}.jpg": None for part, name in (("train", 1), ("train", 2), ("test", 3))}
    assert convert("two", "folders", files).exit_code == 0
    assert sorted(chain(*parts(tmp_path, "two"))) == ["1.jpg", "2.jpg"]


def test_classes_that_are_named_like_parts_stay_classes(convert: Any, tmp_path: Path) -> None:
    convert("classes", "folders", {"train/1.jpg": None, "test/2.jpg": None, "val/3.jpg": None, "train/notes.txt": ""})
    text = "".join(path.read_text() for path in (tmp_path / "out" / "classes").rglob("*.jsonl"))
    assert sorted(json.loads(line)["label"] for line in text.splitlines()) == ["test", "train", "val"]


def test_the_same_images_in_both_parts_are_drawn_and_some_of_them_refused(convert: Any, tmp_path: Path) -> None:
    labels = {f"{name}.txt": "0 .5 .5 .1 .1" for name in (1, 2)}
    files = {"1.jpg": None, "2.jpg": None, **labels, "data.yaml": "train: .\nval: .\nnames: [can]\n"}
    result = convert("same", "yolo", files)
    assert sorted(chain(*parts(tmp_path, "same"))) == ["1.jpg", "2.jpg"]
    assert "are the same pictures: a split is drawn" in result.stderr
    files |= {
        "train.txt": "1.jpg\n2.jpg",
        "val.txt": "2.jpg",
        "data.yaml": "train: train.txt\nval: val.txt\nnames: [can]\n",
    }
    error = convert("some", "yolo", files).exception
    assert isinstance(error, InvalidData)
    assert "no picture may train and validate, but 1 do, first" in str(error)
    assert not (tmp_path / "out" / "some").exists()


def test_a_second_source_is_for_a_source_of_one_part(convert: Any, tmp_path: Path) -> None:
    files = {f"{part}/images/{part}.jpg": None for part in ("train", "val", "other")}
    files |= {f"{part}/labels/{part}.txt": "0 .5 .5 .1 .1" for part in ("train", "val", "other")}
    files |= {"data.yaml": "train: train\nval: val\nnames: [can]\n", "other/classes.txt": "can\n"}
    error = convert("both", "yolo", files, "--validation-source", "{top}/other").exception
    assert isinstance(error, InvalidData)
    assert "must be one part, since another source is the other one, but it is split itself" in str(error)
    assert convert("both", "yolo", {}, "--validation-images", "{top}/other").exit_code == 2


def test_parts_that_cannot_be_read_together_are_refused(convert: Any, tmp_path: Path, check_rows: CheckRows) -> None:
    polygon = json.loads(coco("1.jpg")) | {
        "annotations": [{"image_id": 0, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}]
    }
    two = images(**{"": ("1.jpg", "2.jpg")})
    rows = [
        (two | {"train.json": json.dumps(polygon), "val.json": coco("2.jpg")}, "choose with --task"),
        (two | {"a.json": coco("1.jpg"), "b.json": coco("2.jpg")}, "holds a.json, b.json; name one of them"),
        (two, "but holds none"),
        (two | {"train.json": coco("1.jpg", "x.jpg"), "val.json": coco("y.jpg")}, "2 faults"),
    ]

    def check(files: dict[str, str | None], message: str) -> None:
        top = f"bad{len(list((tmp_path).glob('data/bad*')))}"
        error = convert(top, "coco", files).exception
        assert isinstance(error, InvalidData)
        assert message in f"{error} {len(error.faults)} faults"
        assert not (tmp_path / "out" / top).exists()

    check_rows(check, rows)


def test_image_sets_are_named_and_used_when_asked_for(convert: Any, tmp_path: Path) -> None:
    names = ("1", "2", "3")
    files = {f"JPEGImages/{name}.jpg": None for name in names} | {f"Annotations/{name}.xml": VOC for name in names}
    files |= {"ImageSets/Main/val.txt": "2\n", "ImageSets/Main/train.txt": "1\n3\n"}
    assert "ImageSets/Main/val.txt is not used; --validation-list takes it" in convert("drawn", "voc", files).stderr
    listed = convert("listed", "voc", files, "--validation-list", "{top}/ImageSets/Main/val.txt")
    assert "is not used" not in listed.stderr
    assert parts(tmp_path, "listed") == [["1.jpg", "3.jpg"], ["2.jpg"]]
