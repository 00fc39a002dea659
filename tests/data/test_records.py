from collections import Counter
from typing import Any

import pytest

from clearsight.tasks import Task
from clearsight.training.data.records import BadRecord, Labels, SizeHint, parse_labels, parse_size_hint


def parse(value: object, task: Task, tally: Counter[str] | None = None, size_wh: Any = (100, 100)) -> Labels:
    return parse_labels(value, task, lambda: size_wh, Counter() if tally is None else tally)


def box(**changes: object) -> dict[str, object]:
    return {"label": "can", "topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.6} | changes


@pytest.mark.parametrize(
    ("value", "name"), [("can", "can"), (["can"], "can"), (7, "7"), (1.5, "1.5"), ("  a b ", "  a b ")]
)
def test_a_multi_class_label_is_one_name(value: object, name: str) -> None:
    assert parse(value, Task.MULTI_CLASS).names == (name,)


@pytest.mark.parametrize("value", [None, "", "  ", [], ["a", "b"], True, {"label": "can"}, [""], [None]])
def test_anything_else_is_no_multi_class_label(value: object) -> None:
    with pytest.raises(BadRecord):
        parse(value, Task.MULTI_CLASS)


@pytest.mark.parametrize(
    ("value", "names"), [([], ()), (["b", "a", "b"], ("b", "a")), ("can", ("can",)), ([3, "x"], ("3", "x"))]
)
def test_multi_label_names_keep_their_order_and_collapse(value: object, names: tuple[str, ...]) -> None:
    assert parse(value, Task.MULTI_LABEL).names == names


@pytest.mark.parametrize("value", [None, False, [True], {"a": 1}, [""], [["a"]]])
def test_anything_else_is_no_list_of_labels(value: object) -> None:
    with pytest.raises(BadRecord):
        parse(value, Task.MULTI_LABEL)


def test_an_empty_list_is_a_background_image() -> None:
    assert parse([], Task.DETECTION) == Labels(())
    assert parse([], Task.SEGMENTATION) == Labels(())


def test_a_box_keeps_its_corners_and_a_lone_object_is_a_list_of_one() -> None:
    for value in (box(), [box()]):
        labels = parse(value, Task.DETECTION)
        assert labels.names == ("can",)
        assert [item.xyxy_unit for item in labels.boxes] == [(0.1, 0.2, 0.5, 0.6)]
        assert not labels.boxes[0].is_crowd


def test_coordinates_may_be_text_and_other_keys_are_ignored() -> None:
    labels = parse([box(topX="0.1", bottomY="6e-1", bbox="null", difficult=1)], Task.DETECTION)
    assert labels.boxes[0].xyxy_unit == (0.1, 0.2, 0.5, 0.6)


@pytest.mark.parametrize(
    ("value", "is_crowd"),
    [
        (None, False),
        (0, False),
        (1, True),
        (1.0, True),
        (False, False),
        (True, True),
        ("0", False),
        ("1", True),
        ("TRUE", True),
        ("False", False),
    ],
)
def test_is_crowd_comes_in_many_forms(value: object, is_crowd: bool) -> None:
    assert parse([box(isCrowd=value)], Task.DETECTION).boxes[0].is_crowd is is_crowd


def test_a_coordinate_just_outside_is_clipped_and_counted() -> None:
    tally: Counter[str] = Counter()
    labels = parse([box(topX=-0.01, bottomX=1.01), box()], Task.DETECTION, tally)
    assert labels.boxes[0].xyxy_unit == (0.0, 0.2, 1.0, 0.6)
    assert sum(tally.values()) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topX": -0.0101}, "topX must be a fraction"),
        ({"bottomX": 499}, "bottomX must be a fraction"),
        ({"topY": float("nan")}, "topY must be a fraction"),
        ({"topY": "high"}, "topY must be a fraction"),
        ({"topY": True}, "topY must be a fraction"),
        ({"topY": None}, "topY is missing"),
        ({"bottomX": 0.1}, "must be greater"),
        ({"topY": 0.9}, "must be greater"),
        ({"label": ""}, "class name"),
        ({"label": False}, 'class name, but got False; a class of that name is "false"'),
        ({"label": None}, "class name"),
        ({"isCrowd": 2}, "isCrowd must be"),
        ({"isCrowd": "yes"}, "isCrowd must be"),
    ],
)
def test_a_box_that_breaks_a_rule_is_named_by_its_position(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadRecord, match=f"object 2: .*{words}"):
        parse([box(), box(**changes)], Task.DETECTION)


@pytest.mark.parametrize("value", [None, "can", [1], 3])
def test_anything_else_is_no_list_of_objects(value: object) -> None:
    with pytest.raises(BadRecord, match="list of objects"):
        parse(value, Task.DETECTION)


def test_a_box_below_one_pixel_is_dropped_and_counted() -> None:
    tally: Counter[str] = Counter()
    thin, kept = box(bottomX=0.1099), box(bottomX=0.111)
    labels = parse([thin, kept], Task.DETECTION, tally)
    assert len(labels.boxes) == 1
    assert tally == {"box narrower than one pixel dropped": 1}
    assert len(parse([thin], Task.DETECTION, size_wh=None).boxes) == 1


def test_a_polygon_below_one_pixel_is_dropped_and_a_pixel_is_enough() -> None:
    tally: Counter[str] = Counter()
    sides = [(0.1, 0.1095), (0.56, 0.57), (0.1, 0.11)]  # 0.95 and, but for rounding, 1 pixel of 100
    labels = parse([box(topX=left, bottomX=right) for left, right in sides], Task.DETECTION, tally)
    assert [item.xyxy_unit[::2] for item in labels.boxes] == sides[1:]
    outlines = [[left, 0.2, right, 0.2, right, 0.6] for left, right in sides]
    objects = [{"label": "can", "polygon": [outline]} for outline in outlines]
    assert len(parse([*objects, {"label": "can", "polygon": outlines[:2]}], Task.SEGMENTATION, tally).instances) == 3
    assert tally == {f"{shape} narrower than one pixel dropped": 1 for shape in ("box", "polygon")}
    assert len(parse(objects, Task.SEGMENTATION, tally, size_wh=None).instances) == 3


def test_keys_that_are_almost_right_are_counted_and_named_in_faults() -> None:
    tally: Counter[str] = Counter()
    parse([box(iscrowd=1), box(is_crowd=1, isCrowd=0), box(iscrowd=0)], Task.DETECTION, tally)
    assert tally == {"object with the unknown key 'iscrowd', which is ignored; is 'isCrowd' meant?": 2}
    for item, task, message in (
        ({"label": "can", "topx": 0.1}, Task.DETECTION, "topX is missing; the object has 'topx', is 'topX' meant?"),
        ({"label": "can", "bbox": [1]}, Task.DETECTION, "topX is missing; the object has 'bbox', is 'topX' meant?"),
        ({"label": "can", "polygons": []}, Task.SEGMENTATION, "the object has 'polygons', is 'polygon' meant?"),
    ):
        with pytest.raises(BadRecord) as caught:
            parse([item], task)
        assert message in str(caught.value)


def instance(*polygons: list[float], **changes: object) -> dict[str, object]:
    return {"label": "can", "polygon": list(polygons), "bbox": "null"} | changes


def test_an_instance_keeps_its_polygons_and_knows_its_box() -> None:
    labels = parse([instance([0.1, 0.2, 0.5, 0.2, 0.5, 0.6], [0.7, 0.1, 0.9, 0.1, 0.9, 0.3])], Task.SEGMENTATION)
    assert labels.names == ("can",)
    assert len(labels.instances[0].polygons_unit) == 2
    assert labels.instances[0].xyxy_unit == (0.1, 0.1, 0.9, 0.6)


def test_short_and_odd_polygons_are_dropped_and_so_is_an_instance_without_any() -> None:
    tally: Counter[str] = Counter()
    good = [0.1, 0.2, 0.5, 0.2, 0.5, 0.6]
    labels = parse([instance([0.1, 0.2, 0.5, 0.2], good, good[:5]), instance([]), instance()], Task.SEGMENTATION, tally)
    assert [item.polygons_unit for item in labels.instances] == [(tuple(good),)]
    assert tally["ring with an odd count of numbers or fewer than 3 points dropped"] == 3
    assert tally["object without a usable ring dropped"] == 2


@pytest.mark.parametrize("polygon", [None, "x", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], {"size": [1, 1], "counts": "x"}])
def test_masks_and_flat_lists_are_no_polygons(polygon: object) -> None:
    with pytest.raises(BadRecord, match="polygon must be a list of rings"):
        parse([instance(polygon=polygon)], Task.SEGMENTATION)


def test_a_polygon_point_far_outside_is_a_fault() -> None:
    with pytest.raises(BadRecord, match="a polygon point must be a fraction"):
        parse([instance([0.1, 0.2, 0.5, 0.2, 0.5, 1.02])], Task.SEGMENTATION)


@pytest.mark.parametrize(
    ("details", "hint"),
    [
        (None, SizeHint()),
        ({}, SizeHint()),
        ({"format": None, "width": None, "height": None}, SizeHint()),
        ({"format": "JPG", "width": 499, "height": 666}, SizeHint(499, 666)),
        ({"width": "400px", "height": "30"}, SizeHint(400, 30)),
        ({"width": 400.0}, SizeHint(400, None)),
        ({"format": "image/webp", "width": 4}, SizeHint(4, None)),
        ("x", SizeHint(0, 0)),
        ([], SizeHint(0, 0)),
        ({"width": 0, "height": -4}, SizeHint(0, 0)),
        ({"width": "4em", "height": ""}, SizeHint(0, 0)),
        ({"width": 1.5, "height": True}, SizeHint(0, 0)),
        ({"width": [400], "height": {}}, SizeHint(0, 0)),
    ],
)
def test_image_details_are_a_hint_that_nothing_depends_on(details: object, hint: SizeHint) -> None:
    assert parse_size_hint(details) == hint
