"""The files of labelling tools: shapes, classes of whole images, and what a task has no use for, by hand."""

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clearsight.errors import InvalidData
from clearsight.tasks import Task
from clearsight.training.data.converters import LAYOUTS, ConversionRequest, read_source
from clearsight.training.data.converters.shapes import ellipse, rotated_box

CheckRows = Callable[..., None]
Read = Callable[..., tuple[list[Any], list[str]]]


def test_boxes_turn_clockwise_about_a_point() -> None:
    assert rotated_box((1, 2, 5, 4), 0) == [1, 2, 5, 2, 5, 4, 1, 4]
    assert rotated_box((1, 2, 5, 4), 90) == pytest.approx([4, 1, 4, 5, 2, 5, 2, 1])
    assert rotated_box((1, 2, 5, 4), 90, (1, 2)) == pytest.approx([1, 2, 1, 6, -1, 6, -1, 2])


def test_an_ellipse_is_a_polygon_of_nearly_its_area() -> None:
    points = np.reshape(ellipse(10, 20, 6, 3, 90), (-1, 2))
    assert [*points.min(axis=0), *points.max(axis=0)] == pytest.approx([7, 14, 13, 26])
    following = np.roll(points, -1, axis=0)
    area = abs((points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum()) / 2
    assert 0.998 < area / (math.pi * 6 * 3) < 1


@pytest.fixture
def read(tmp_path: Path, write_image: Callable[..., Path]) -> Read:
    """Reads a source about the images 1.jpg and 2.jpg in `images/`, both of 100 x 50.

    Returns image, part, and class or classes or objects of each, and the warnings. An object is its class, and a box or
    polygons in hundredths of the image.
    """
    for name in ("1.jpg", "2.jpg"):
        write_image(f"images/{name}", (100, 50))

    def shown(item: Any) -> Any:
        if isinstance(item, str):
            return item
        sides = [item[key] for key in ("topX", "topY", "bottomX", "bottomY") if key in item]
        rings = [sides] if sides else item["polygon"]
        return item["label"], *([round(100 * value) for value in ring] for ring in rings)

    def run(layout: str, name: str, content: Any, task: Task | None = None) -> tuple[list[Any], list[str]]:
        source = tmp_path / "data" / name
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(content if isinstance(content, str) else json.dumps(content))
        converted = read_source(LAYOUTS[layout], ConversionRequest(source, task))
        labels = [
            json.loads(entry.label) if isinstance(entry.label, bytes) else entry.label for entry in converted.entries
        ]
        return [
            (entry.image.name, entry.part, label if isinstance(label, str) else [shown(item) for item in label])
            for entry, label in zip(converted.entries, labels, strict=True)
        ], [warning.partition(" (first")[0] for warning in converted.warnings if "no annotation names" not in warning]

    return run


def fault(read: Read, *args: Any) -> str:
    with pytest.raises(InvalidData) as caught:
        read(*args)
    [found] = caught.value.faults
    return f"{found.target}: {found.message}"


def cvat(*images: str) -> str:
    return f"<annotations><version>1.1</version>{''.join(images)}</annotations>"


def cvat_image(name: str, text: str = "", subset: str = "") -> str:
    return f'<image id="0" name="{name}" subset="{subset}" width="100" height="50">{text}</image>'


def test_cvat(read: Read, check_rows: CheckRows) -> None:
    tag, other = '<tag label="can" source="manual"/>', '<tag label="tin"/>'
    box = '<box label="can" xtl="10" ytl="20" xbr="50" ybr="30"><attribute name="open">no</attribute></box>'
    turned = box.replace('label="can"', 'label="can" rotation="90.0"')
    rows: list[tuple[str, Task | None, list[Any], list[str]]] = [
        (cvat_image("1.jpg", turned), None, [("1.jpg", None, [("can", [25, 10, 35, 90])])], []),
        (
            cvat_image("1.jpg", '<polygon label="can" points="10.00,10.00;30.00,10.00;30.00,20.00"/>'),
            None,
            [("1.jpg", None, [("can", [10, 20, 30, 20, 30, 40])])],
            [],
        ),
        # One pixel in the middle of a box of 3 x 3, which lies at 10, 20.
        (
            cvat_image("1.jpg", '<mask label="can" rle="4, 1, 4" left="10" top="20" width="3" height="3"/>'),
            Task.DETECTION,
            [("1.jpg", None, [("can", [11, 42, 12, 44])])],
            [],
        ),
        (
            cvat_image("1.jpg", '<ellipse label="can" cx="50" cy="25" rx="10" ry="5"/>'),
            Task.DETECTION,
            [("1.jpg", None, [("can", [40, 40, 60, 60])])],
            [],
        ),
        (
            cvat_image("1.jpg", tag) + cvat_image("2.jpg", other),
            None,
            [("1.jpg", None, "can"), ("2.jpg", None, "tin")],
            [],
        ),
        (
            cvat_image("1.jpg", tag + other) + cvat_image("2.jpg"),
            None,
            [("1.jpg", None, ["can", "tin"]), ("2.jpg", None, [])],
            [],
        ),
        (
            cvat_image("1.jpg", tag + box + '<points label="x" points="1,1"/>'),
            None,
            [("1.jpg", None, [("can", [10, 40, 50, 60])])],
            ["<tag> that the task has no use for: 1", "<points> that the task has no use for: 1"],
        ),
        (
            cvat_image("1.jpg", tag, "Train")
            + cvat_image("2.jpg", other, "Validation")
            + cvat_image("3.jpg", "", "Test"),
            None,
            [("1.jpg", "training", "can"), ("2.jpg", "validation", "tin")],
            ["picture of the test part left out: 1"],
        ),
    ]

    def check(text: str, task: Task | None, expected: list[Any], warnings: list[str]) -> None:
        task = task or (Task.DETECTION if "<box" in text else None)
        text = text.replace('<image id="0" name="3.jpg"', '<image id="0" name="2.jpg"')
        assert read("cvat", "annotations.xml", cvat(text), task) == (expected, warnings)

    check_rows(check, rows)
    faults = [
        (
            cvat_image("1.jpg", '<mask label="a" rle="4, 1" left="1" top="2" width="3" height="3"/>'),
            "must add up to 3 x 3",
        ),
        (cvat_image("1.jpg", '<polygon label="a" points="1,1;x"/>'), "1.jpg: object 1: points must be"),
        (cvat_image("1.jpg", '<box label="a" xtl="1" ytl="1" xbr="9"/>'), "ybr must be a number, but got ''"),
        (
            cvat_image("1.jpg", '<mask label="a" rle="1" left="1e999" top="2" width="1" height="1"/>'),
            "left must be a number",
        ),
        (cvat_image("9.jpg"), "image 9.jpg: the picture '9.jpg' is in none of"),
        ('<track id="0"/>', "not that of videos"),
    ]
    check_rows(lambda text, words: _contains(fault(read, "cvat", "a.xml", cvat(text)), words), faults)


def _contains(text: str, words: str) -> None:
    assert words in text


def shape(kind: str | None, points: list[list[float]], **values: Any) -> dict[str, Any]:
    return {"label": "can", "points": points, **({} if kind is None else {"shape_type": kind}), **values}


def test_labelme(read: Read, check_rows: CheckRows, tmp_path: Path) -> None:
    mask = io.BytesIO()
    Image.fromarray(np.pad(np.full((2, 3), 255, np.uint8), 1)).save(mask, "PNG")
    text = base64.b64encode(mask.getvalue()).decode()
    triangle, other = [[10, 10], [30, 10], [30, 20]], [[50, 10], [60, 10], [60, 20]]
    first, second = [10, 20, 30, 20, 30, 40], [50, 20, 60, 20, 60, 40]
    rows: list[tuple[list[Any], Task | None, Any, list[str]]] = [
        ([shape(None, triangle)], None, [("can", first)], []),
        ([shape("polygon", triangle), shape("polygon", other)], None, [("can", first), ("can", second)], []),
        (
            [shape("polygon", triangle, group_id=0), shape("polygon", other, group_id=0)],
            None,
            [("can", first, second)],
            [],
        ),
        (
            [shape("polygon", triangle, group_id=0), shape("polygon", other, group_id=1)],
            None,
            [("can", first), ("can", second)],
            [],
        ),
        ([shape("circle", [[50, 25], [50, 35]])], Task.DETECTION, [("can", [40, 30, 60, 70])], []),
        ([shape("mask", [[9, 19], [13, 22]], mask=text)], Task.DETECTION, [("can", [10, 40, 13, 44])], []),
        (
            [shape("rectangle", [[30, 20], [10, 10]]), shape("line", [[1, 1], [2, 2]]), shape("point", [[1, 1]])],
            None,
            [("can", [10, 20, 30, 40])],
            ["shape of type line dropped: 1", "shape of type point dropped: 1"],
        ),
    ]

    def check(shapes: list[Any], task: Task | None, expected: Any, warnings: list[str]) -> None:
        document = {"shapes": shapes, "imagePath": "..\\images\\1.jpg", "imageData": "x", "imageWidth": 100}
        found, said = read("labelme", "labels/1.json", document | {"imageHeight": 50}, task)
        assert (found, said) == ([("1.jpg", None, expected)], warnings)

    check_rows(check, rows)
    flags = {"can": True, "tin": False}
    assert read("labelme", "images/1.json", {"shapes": [], "imagePath": "1.jpg", "flags": flags})[0] == [
        ("1.jpg", None, "can")
    ]
    (tmp_path / "data" / "images" / "settings.json").write_text("{}")
    converted = read_source(LAYOUTS["labelme"], ConversionRequest(tmp_path / "data" / "images"))
    assert converted.warnings[0].startswith("JSON file without shapes passed over: 1")
    faults = [
        (shape("polygon", [[1, 1], [2]]), "shape 1: points must be a list of [x, y]"),
        (shape("polygon", [[1, "a"]]), "a point must be a number, but got 'a'"),
        (shape("circle", [[1, 1]]), "a circle must have 2 points, its centre and one on it, but has 1"),
        (shape("star", [[1, 1]]), "but got 'star'"),
        (shape("mask", [[1, 1], [2, 2]], mask="AAAA"), "mask must be a PNG file"),
        (shape("polygon", triangle, label=" "), "must have a label"),
    ]

    def refused(wrong: dict[str, Any], words: str) -> None:
        assert words in fault(read, "labelme", "images/1.json", {"shapes": [wrong], "imagePath": "1.jpg"})

    check_rows(refused, faults)
    assert "must hold JSON files of LabelMe" in fault(read, "labelme", "empty/a.json", {})


def task(image: str, *results: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"result": list(results)}], **values}


def result(kind: str, labels: list[str], **value: Any) -> dict[str, Any]:
    return {"type": kind, "value": {kind: labels, **value}, "original_width": 100, "original_height": 50}


def test_label_studio(read: Read, check_rows: CheckRows) -> None:
    box = result("rectanglelabels", ["can"], x=50, y=20, width=20, height=10, rotation=0)
    turned = result("rectanglelabels", ["can"], x=50, y=20, width=20, height=10, rotation=90)
    triangle = result("polygonlabels", ["can"], points=[[10, 20], [30, 20], [30, 40]], closed=True)
    can, tin = result("choices", ["can"]), result("choices", ["tin"])
    brush = result("brushlabels", ["can"], format="rle", rle=[0, 1])
    rows: list[tuple[list[Any], Task | None, Any, list[str]]] = [
        ([task("1.jpg", box)], None, [("1.jpg", None, [("can", [50, 20, 70, 30])])], []),
        # 20 pixels wide and 5 high, turned about its corner at 50, 10: 5 pixels wide to the left, and 20 high.
        ([task("1.jpg", turned)], None, [("1.jpg", None, [("can", [45, 20, 50, 60])])], []),
        ([task("1.jpg", triangle)], None, [("1.jpg", None, [("can", [10, 20, 30, 20, 30, 40])])], []),
        (
            [task("1.jpg", result("ellipselabels", ["can"], x=50, y=50, radiusX=10, radiusY=10, rotation=0))],
            Task.DETECTION,
            [("1.jpg", None, [("can", [40, 40, 60, 60])])],
            [],
        ),
        ([task("1.jpg", can), task("2.jpg", tin)], None, [("1.jpg", None, "can"), ("2.jpg", None, "tin")], []),
        (
            [task("1.jpg", result("choices", ["tin", "can"])), task("2.jpg")],
            None,
            [("1.jpg", None, ["can", "tin"]), ("2.jpg", None, [])],
            [],
        ),
        (
            [task("1.jpg", can, box, result("keypointlabels", ["can"], x=1, y=1))],
            None,
            [("1.jpg", None, [("can", [50, 20, 70, 30])])],
            [
                "result of type choices that the task has no use for: 1",
                "result of type keypointlabels that the task has no use for: 1",
            ],
        ),
        ([task("1.jpg", brush)], Task.MULTI_CLASS, [("1.jpg", None, "can")], []),
        (
            [
                task("1.jpg", annotations=[{"was_cancelled": True, "result": [tin]}, {"result": [can]}]),
                task("2.jpg", annotations=[{"result": [can]}, {"ground_truth": True, "result": [tin]}]),
                task("3.jpg", annotations=[]),
            ],
            None,
            [("1.jpg", None, "can"), ("2.jpg", None, "tin")],
            ["task with several annotations, of which one is used: 1", "task without annotation left out: 1"],
        ),
        ([task("/data/local-files/?d=photos/1.jpg", can)], None, [("1.jpg", None, "can")], []),
        ([task("s3://bucket/1.jpg", can)], None, [("1.jpg", None, "can")], []),
        ([task("https://host/photos/1.jpg?X-Amz-Signature=ab", can)], None, [("1.jpg", None, "can")], []),
        ([task("/data/upload/3/1f2e3d4c-2.jpg", can)], None, [("2.jpg", None, "can")], []),
    ]

    def check(tasks: list[Any], wanted: Task | None, expected: list[Any], warnings: list[str]) -> None:
        wanted = wanted or (Task.DETECTION if "rectanglelabels" in json.dumps(tasks) else None)
        assert read("labelstudio", "export.json", tasks, wanted) == (expected, warnings)

    check_rows(check, rows)
    faults = [
        ([task("1.jpg", brush)], "task 7: result 1: brush labels cannot be read; export them as PNG files"),
        ([task("1.jpg", box | {"image_rotation": 90})], "image_rotation must be 0, but got 90"),
        (
            [task("1.jpg", result("rectanglelabels", ["can"], x=1, y=1, width=1))],
            "height must be a number, but got None",
        ),
        ([task("1.jpg", result("rectanglelabels", [], x=1, y=1))], "must have a label, but got none"),
        ([task("9.jpg", can)], "task 7: the picture '9.jpg' is in none of"),
        (
            [task("1.jpg", box | {"original_width": 50, "original_height": 100})],
            "the annotations are for 50x100 pixels",
        ),
        ([task("1.jpg", annotations=True)], "task 7: annotations must be a list, but got True"),
        ([{"id": 1, "image": "1.jpg", "label": []}], "(not JSON-MIN)"),
    ]
    check_rows(lambda tasks, words: _contains(fault(read, "labelstudio", "export.json", tasks), words), faults)


def test_vott(read: Read, check_rows: CheckRows) -> None:
    box = {"type": "RECTANGLE", "tags": ["can"], "boundingBox": {"left": 10, "top": 10, "width": 20, "height": 10}}
    points = [{"x": 10, "y": 10}, {"x": 30, "y": 10}, {"x": 30, "y": 20}]
    polygon = {"type": "POLYGON", "tags": ["can"], "points": points}

    def asset(name: str, *regions: Any, state: int = 2) -> dict[str, Any]:
        return {"asset": {"name": name, "size": {"width": 100, "height": 50}, "state": state}, "regions": list(regions)}

    def export(*assets: Any) -> dict[str, Any]:
        return {"name": "fridge", "assets": {str(index): item for index, item in enumerate(assets)}}

    rows: list[tuple[Any, list[Any], list[str]]] = [
        (asset("1.jpg", box), [("1.jpg", None, [("can", [10, 20, 30, 40])])], []),
        (export(asset("%31.jpg", polygon)), [("1.jpg", None, [("can", [10, 20, 30, 20, 30, 40])])], []),
        (
            export(asset("1.jpg", state=0), asset("2.jpg", state=1)),
            [("2.jpg", None, [])],
            ["asset that was not visited left out: 1"],
        ),
        (
            export(asset("1.jpg", box | {"tags": ["can", "tin"]}, {"type": "POINT", "tags": ["a"]})),
            [("1.jpg", None, [("can", [10, 20, 30, 40]), ("tin", [10, 20, 30, 40])])],
            ["region with several tags: an object for each: 1", "region of type POINT dropped: 1"],
        ),
    ]
    check_rows(lambda content, *expected: _same(read("vott", "images/a.json", content), expected), rows)
    faults = [
        (asset("1.jpg", box | {"tags": []}), "a.json: region 1: must have tags"),
        (
            export(asset("1.jpg"), asset("2.jpg", box | {"boundingBox": {}})),
            "asset 2.jpg: region 1: left must be a number",
        ),
        (export(asset("1.jpg", 3)), "a.json: an item of regions must be an object, but got 3"),
        ({"tags": []}, "must be an export of VoTT"),
    ]
    check_rows(lambda content, words: _contains(fault(read, "vott", "images/a.json", content), words), faults)


def _same(found: Any, expected: Any) -> None:
    assert found == tuple(expected)


def test_custom_vision(read: Read, check_rows: CheckRows) -> None:
    region = {"tagName": "can", "left": 0.1, "top": 0.2, "width": 0.2, "height": 0.2}
    rows: list[tuple[Any, list[Any], list[str]]] = [
        (
            [region | {"file": "1.jpg"}, region | {"file": "2.jpg"}, region | {"file": "1.jpg", "left": 0.5}],
            [
                ("1.jpg", None, [("can", [10, 20, 30, 40]), ("can", [50, 20, 70, 40])]),
                ("2.jpg", None, [("can", [10, 20, 30, 40])]),
            ],
            [],
        ),
        # What the training API returns: the image is named by its id.
        (
            [{"id": "1", "width": 100, "height": 50, "tags": [{"tagName": "can"}], "regions": [region]}],
            [("1.jpg", None, [("can", [10, 20, 30, 40])])],
            [],
        ),
        ([{"id": "1", "tags": [{"tagName": "can"}]}], [("1.jpg", None, "can")], []),
        ([{"id": "1", "tags": [{"tagName": "b"}, {"tagName": "a"}]}], [("1.jpg", None, ["a", "b"])], []),
    ]
    check_rows(lambda content, *expected: _same(read("customvision", "regions.json", content), expected), rows)
    faults = [
        ([region | {"file": "1.jpg", "left": 10}], "item 1: must hold fractions of the picture in [0, 1], but got 10"),
        ([region | {"file": "1.jpg", "tagName": ""}], "item 1: must have a tag"),
        ([region | {"file": "1.jpg", "width": None}], "width must be a number, but got None"),
        ([{"file": "1.jpg", "regions": 3}], "item 1: regions must be a list, but got 3"),
        ([region], "item 1: must name an image"),
        ({"regions": []}, "must be a list of regions"),
    ]
    check_rows(lambda content, words: _contains(fault(read, "customvision", "regions.json", content), words), faults)
