"""VOC, COCO and masks, with values worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from clearsight.errors import InvalidData
from clearsight.tasks import Task
from clearsight.training.cli_data import data
from clearsight.training.data.check import check_folder
from clearsight.training.data.converters import ConversionRequest, Entry, OnFault
from clearsight.training.data.converters.coco import read_coco
from clearsight.training.data.converters.data_folders import write_table
from clearsight.training.data.converters.masks import read_masks
from clearsight.training.data.converters.objects import UNTOLD_ORIENTATION
from clearsight.training.data.converters.outlines import polygons_from_mask
from clearsight.training.data.converters.voc import read_voc

MakeImage = Callable[..., Path]
TRAINING, VALIDATION = "training-mltable-folder", "validation-mltable-folder"


def clearsight_data(*args: str | Path) -> Result:
    return CliRunner().invoke(data, [str(arg) for arg in args])


def lines(folder: Path) -> list[dict[str, Any]]:
    [path] = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def label(entry: Any) -> Any:
    """The label of an entry as the reader of data folders gets it."""
    return json.loads(entry.label) if isinstance(entry.label, bytes) else entry.label


def messages(error: pytest.ExceptionInfo[InvalidData]) -> list[str]:
    return [f"{fault.target}: {fault.message}" for fault in error.value.faults]


def voc_object(name: str, *box: object, difficult: int | None = 0) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False)
    )
    mark = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{mark}<bndbox>{sides}</bndbox></object>"


@pytest.fixture
def write_voc(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *objects: str, filename: str | None = None, size: tuple[int, int] | None = (100, 50)) -> Path:
        folder = tmp_path / "data" / "Annotations"
        folder.mkdir(parents=True, exist_ok=True)
        stated = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        title = f"<filename>{filename or name + '.jpg'}</filename>"
        (folder / f"{name}.xml").write_text(f"<annotation>{title}{stated}{''.join(objects)}</annotation>")
        return tmp_path / "data"

    return write


def test_a_file_without_the_lists_of_coco_is_refused(tmp_path: Path) -> None:
    for content in ("", "[]", "{}", '{"images": [], "annotations": []}', '{"images": [1]}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(InvalidData):
            read_coco(ConversionRequest(tmp_path / "a.json"))


def test_voc_pixels_count_from_one_and_include_their_ends(write_voc: Any, write_image: MakeImage) -> None:
    write_image("JPEGImages/1.jpg", (100, 50))
    objects = (voc_object("can", 1, 1, 100, 50), voc_object("tin", 11, 6, 20, 30, difficult=1))
    converted = read_voc(
        ConversionRequest(write_voc("1", *objects, voc_object("lid", 51, 26, 51.5, 40, difficult=None)))
    )
    assert (converted.task, converted.warnings) == (Task.DETECTION, ())
    assert label(converted.entries[0]) == [
        {"label": "can", "topX": 0, "topY": 0, "bottomX": 1, "bottomY": 1, "isCrowd": 0},
        {"label": "tin", "topX": 0.1, "topY": 0.1, "bottomX": 0.2, "bottomY": 0.6, "isCrowd": 1},
        {"label": "lid", "topX": 0.5, "topY": 0.5, "bottomX": 0.515, "bottomY": 0.8, "isCrowd": 0},
    ]
    assert converted.entries[0].size_wh == (100, 50)


@pytest.mark.parametrize(
    ("origin", "left", "warning"),
    [(None, 4, "counted from 0"), (0, 4, None), (1, 3, "starts at 0, although coordinates count from 1: clipped: 1")],
)
def test_voc_pixels_counted_from_zero(
    write_voc: Any, write_image: MakeImage, origin: int | None, left: int, warning: str | None
) -> None:
    """In an image of 10 pixels, where one pixel is more than the tolerance of fractions."""
    for name, box in (("1", (4, 4, 10, 10)), ("2", (0, 2, 10, 10))):
        write_image(f"JPEGImages/{name}.jpg", (10, 10))
        source = write_voc(name, voc_object("can", *box), size=(10, 10))
    converted = read_voc(ConversionRequest(source, voc_origin=origin))
    first, second = (label(entry)[0] for entry in converted.entries)
    assert (first["topX"], first["bottomX"]) == (left / 10, 1)
    assert (second["topX"], second["topY"], second["bottomX"]) == (0, (left - 2) / 10, 1)
    assert [warning in told for told in converted.warnings] == ([] if warning is None else [True])


@pytest.mark.parametrize("origin", [0, 1])
def test_a_fault_of_a_voc_box_shows_the_number_of_the_file(write_voc: Any, write_image: MakeImage, origin: int) -> None:
    write_image("JPEGImages/1.jpg", (10, 10))
    with pytest.raises(InvalidData) as error:
        read_voc(ConversionRequest(write_voc("1", voc_object("can", -3, 1, 9, 9), size=(10, 10)), voc_origin=origin))
    assert messages(error)[0].endswith("but a coordinate is -3")


def test_voc_boxes_of_a_scaled_image_keep_their_position(write_voc: Any, write_image: MakeImage) -> None:
    write_image("JPEGImages/1.jpg", (50, 25))
    [entry] = read_voc(ConversionRequest(write_voc("1", voc_object("can", 1, 1, 50, 25)))).entries
    assert (label(entry)[0]["bottomX"], label(entry)[0]["bottomY"], entry.size_wh) == (0.5, 0.5, (50, 25))


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
def test_a_size_tells_whether_a_turned_image_was_annotated_upright(
    suffix: str, write_voc: Any, write_image: MakeImage
) -> None:
    """Stored 50 wide and 100 high, the image stands upright with 100 by 50."""
    write_image(f"JPEGImages/1.{suffix}", (50, 100), orientation=6)
    [entry] = read_voc(ConversionRequest(write_voc("1", voc_object("can", 1, 1, 50, 25)))).entries
    assert entry.size_wh == (100, 50)
    write_image(f"JPEGImages/1.{suffix}", (100, 50), orientation=6)
    with pytest.raises(InvalidData, match="stands upright with 50x100"):
        read_voc(ConversionRequest(write_voc("1", voc_object("can", 1, 1, 50, 25))))


@pytest.mark.parametrize(("orientation", "size_wh"), [(2, (100, 50)), (3, (100, 50)), (4, (100, 50)), (8, (50, 50))])
def test_a_turned_image_whose_size_tells_nothing_is_a_warning(
    orientation: int, size_wh: tuple[int, int], write_voc: Any, write_image: MakeImage
) -> None:
    write_image("JPEGImages/1.jpg", size_wh, orientation=orientation)
    source = write_voc("1", voc_object("can", 1, 1, 50, 25), size=size_wh)
    [warning] = read_voc(ConversionRequest(source)).warnings
    assert warning.startswith(UNTOLD_ORIENTATION)


def test_voc_boxes_without_extent_are_dropped_and_counted(write_voc: Any, write_image: MakeImage) -> None:
    write_image("JPEGImages/1.jpg", (100, 50))
    objects = (voc_object("can", 5, 5, 5, 9), voc_object("can", 5, 9, 9, 5), voc_object("can", 1, 1, 9, 9))
    converted = read_voc(ConversionRequest(write_voc("1", *objects)))
    assert len(label(converted.entries[0])) == 1
    [warning] = converted.warnings
    assert "dropped: 2" in warning
    assert "1.xml: object 1" in warning


def test_voc_images_are_found_beside_and_by_stem(write_voc: Any, write_image: MakeImage, tmp_path: Path) -> None:
    image = write_image("images/1.png", (100, 50))
    source = write_voc("1", filename="C:\\photos\\1.tif")
    assert [entry.image for entry in read_voc(ConversionRequest(source)).entries] == [image]
    assert label(read_voc(ConversionRequest(source)).entries[0]) == []
    other = write_image("elsewhere/1.jpg", (100, 50))
    assert [entry.image for entry in read_voc(ConversionRequest(source, images=other.parent)).entries] == [other]
    xml = source / "Annotations" / "1.xml"
    xml.rename(source / "images" / "1.xml")
    xml.parent.rmdir()
    assert [entry.image for entry in read_voc(ConversionRequest(source / "images")).entries] == [image]


def test_what_other_programs_write_into_voc_files_is_read(write_image: MakeImage, tmp_path: Path) -> None:
    image = write_image("JPEGImages/Train/\u7f50 1.JPG", (100, 50))
    file = tmp_path / "data" / "Annotations" / "1.XML"
    file.parent.mkdir()
    size = "<size><width/><height></height></size>"
    marked = voc_object("\u7f50", 1, 1, 50, 25)
    text = f"<annotation><filename>train\\\u7f50%201.jpg</filename>{size}{marked}</annotation>"
    file.write_bytes(f'<?xml version="1.0" encoding="gb2312"?>{text}'.encode("gb2312"))
    [entry] = read_voc(ConversionRequest(tmp_path / "data")).entries
    assert (entry.image, label(entry)[0]["label"], label(entry)[0]["bottomX"]) == (image, "\u7f50", 0.5)


def test_an_xml_file_is_about_the_picture_of_its_own_name(write_voc: Any, write_image: MakeImage) -> None:
    """Three files that were copied keep the `filename` of the first one; the last has no picture of its own name."""
    first, second = (write_image(f"JPEGImages/{name}.jpg", (100, 50)) for name in ("1", "2"))
    for name, box in (("1", (1, 1, 9, 9)), ("2", (1, 1, 50, 25))):
        source = write_voc(name, voc_object("can", *box), filename="1.jpg")
    converted = read_voc(ConversionRequest(source))
    assert [entry.image for entry in converted.entries] == [first, second]
    [warning] = converted.warnings
    assert warning.startswith("XML file with another <filename>: the picture of its own name taken: 1 (first: ")
    write_voc("3", voc_object("can", 1, 1, 20, 20), filename="1.jpg")
    with pytest.raises(InvalidData) as caught:
        read_voc(ConversionRequest(source))
    [message] = messages(caught)
    assert all(str(path) in message for path in (source / "Annotations/3.xml", source / "Annotations/1.xml", first))


def test_every_faulty_voc_file_is_named_with_its_object(write_voc: Any, write_image: MakeImage) -> None:
    for name in "12345":
        write_image(f"JPEGImages/{name}.jpg", (100, 50))
    write_voc("1", voc_object("", 1, 1, 9, 9), voc_object("can", 1, 1, 9), voc_object("can", "a", 1, 9, 9))
    write_voc("2", voc_object("can", 1, 1, 130, 9))
    write_voc("3", size=(50, 100))
    write_voc("none", voc_object("can", 1, 1, 9, 9))
    write_voc("5", voc_object("can", 1, 1, 101, 50))  # within the tolerance
    source = write_voc("4", "<object>")
    with pytest.raises(InvalidData) as caught:
        read_voc(ConversionRequest(source))
    found = [message.partition("Annotations/")[2] for message in messages(caught)]
    for message, beginning in zip(
        found,
        (
            "1.xml: object 1: must have a name",
            "1.xml: object 2: bndbox/ymax must be a number",
            "1.xml: object 3: bndbox/xmin must be a number",
            "2.xml: object 1: must lie inside the picture",
        ),
        strict=False,
    ):
        assert message.startswith(beginning)
    rest = "\n".join(messages(caught)[4:])
    assert "3.xml: the annotations are for 50x100 pixels" in rest
    assert "4.xml: must be an XML file" in rest
    assert "none.xml: the picture 'none.jpg' is in none of" in rest
    assert len(caught.value.faults) == 7


@pytest.mark.parametrize(
    ("task", "expected"),
    [(Task.MULTI_LABEL, ["can", "tin"]), (Task.MULTI_CLASS, None)],
)
def test_objects_can_label_whole_images(task: Task, expected: Any, write_voc: Any, write_image: MakeImage) -> None:
    write_image("JPEGImages/1.jpg", (100, 50))
    boxes = [voc_object(name, 1, 1, 9, 9) for name in ("tin", "can", "tin")]
    request = ConversionRequest(write_voc("1", *boxes), task)
    if expected is None:
        with pytest.raises(InvalidData, match="one class per picture, but got can, tin"):
            read_voc(request)
        write_voc("1", boxes[0], boxes[2])
        assert read_voc(request).entries[0].label == "tin"
    else:
        assert read_voc(request).entries[0].label == expected


@pytest.fixture
def write_coco(tmp_path: Path, write_image: MakeImage) -> Callable[..., Path]:
    """A COCO file with one image of 100 x 50 and one more without objects."""

    def write(*annotations: dict[str, Any], **changes: Any) -> Path:
        write_image("1.jpg", (100, 50))
        write_image("images/2.jpg", (100, 50))
        document = {
            "images": [
                {"id": 7, "file_name": "1.jpg", "width": 100, "height": 50},
                {"id": 8, "file_name": "2.jpg", "width": 100, "height": 50},
            ],
            "categories": [{"id": 3, "name": "can"}, {"id": 4, "name": "tin"}],
            "annotations": [{"id": i, "image_id": 7, "category_id": 3, **a} for i, a in enumerate(annotations)],
            **changes,
        }
        path = tmp_path / "data" / "coco.json"
        path.write_text(json.dumps(document))
        return path

    return write


def test_coco_fractions_are_recognised_by_the_largest_value_of_the_file(write_coco: Any) -> None:
    [entry, _] = read_coco(ConversionRequest(write_coco({"bbox": [0.1, 0.1, 0.2, 0.6]}))).entries
    assert label(entry)[0] == {"label": "can", "topX": 0.1, "topY": 0.1, "bottomX": 0.3, "bottomY": 0.7, "isCrowd": 0}
    # One pixel at the corner is no fraction when another box is not.
    [entry, _] = read_coco(ConversionRequest(write_coco({"bbox": [0, 0, 1, 1]}, {"bbox": [10, 5, 20, 30]}))).entries
    assert label(entry)[0]["bottomX"] == 0.01


def test_coco_ids_as_numbers_and_as_text_are_the_same(write_coco: Any) -> None:
    box = {"bbox": [10, 5, 20, 30], "image_id": "7", "category_id": 3.0}
    path = write_coco(box, categories=[{"id": "3", "name": "can"}])
    path.write_bytes(path.read_text().encode("utf-16"))
    entry, _ = read_coco(ConversionRequest(path)).entries
    assert [one["label"] for one in label(entry)] == ["can"]


def test_a_coco_image_stands_for_one_picture_and_a_picture_for_one_image(write_coco: Any) -> None:
    one, two, other = ({"id": number, "file_name": f"{name}.jpg"} for number, name in ((7, 1), (8, 1), (7, 2)))
    box = {"bbox": [10, 5, 20, 30]}
    with pytest.raises(InvalidData) as caught:
        read_coco(ConversionRequest(write_coco(box, images=[one, two])))
    [message] = messages(caught)
    assert all(f"coco.json: images[{index}]" in message for index in (0, 1))
    converted = read_coco(ConversionRequest(write_coco(box, box | {"image_id": 8}, images=[one, two])))
    assert len(converted.entries) == 1
    assert "with the same label: kept once: 1 (first: " in converted.warnings[0]
    for images, words in (([one, other], "'1.jpg' has too"), ([one, {"file_name": "2.jpg"}], "but got None")):
        with pytest.raises(InvalidData) as caught:
            read_coco(ConversionRequest(write_coco(box, images=images)))
        [message] = messages(caught)
        assert "images[1]: id must be the number of this picture alone" in message
        assert words in message


def test_files_that_voc_does_not_read_are_counted(write_voc: Any, write_image: MakeImage, tmp_path: Path) -> None:
    for name in ("JPEGImages/1.jpg", "JPEGImages/2.jpg", "JPEGImages/.3.jpg", "JPEGImages/more/4.jpg"):
        write_image(name, (100, 50))
    source = write_voc("1", "<Object><name>can</name></Object>")
    for name in ("2.xml", "Annotations/more/2.xml", "Annotations/1.json", "Annotations/.DS_Store", "notes.txt"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    converted = read_voc(ConversionRequest(source))
    assert converted.unnamed_images() == [source / "JPEGImages" / "2.jpg"]
    folder = source / "Annotations"
    assert list(converted.warnings) == [
        f"XML file outside of {folder} passed over: 2 (first: {source / '2.xml'})",
        f"file without the suffix .xml passed over: 1 (first: {folder / '1.json'})",
        f"<Object>, which is ignored; is <object> meant?: 1 (first: {folder / '1.xml'})",
    ]
    write_voc("1", voc_object("can", 1, 1, 9, 9, difficult=None).replace("<name>", "<Difficult>1</Difficult><name>"))
    [*_, warning] = read_voc(ConversionRequest(source)).warnings
    assert warning.startswith("<Difficult>, which is ignored; is <difficult> meant?: 1 (first: ")
    result = clearsight_data(
        "convert", "--from", "voc", source, "--output", tmp_path / "out", "--validation-every", "2"
    )
    assert "at least 2 pictures" in str(result.exception)


def test_pictures_that_no_annotation_names_are_counted(write_coco: Any, write_image: MakeImage, tmp_path: Path) -> None:
    path = write_coco({"bbox": [10, 5, 20, 30]})
    for name in ("images/8.jpg", "9.jpg"):
        write_image(name)
    result = clearsight_data("convert", "--from", "coco", path, "--output", tmp_path / "out")
    warning = f"picture that no annotation names passed over: 2 (first: {path.parent / '9.jpg'})"
    assert json.loads(result.stdout)["warnings"][0] == warning


def test_a_polygon_that_is_cut_off_fills_the_same_pixels(write_coco: Any) -> None:
    """Stars, of which most cross themselves, around a place in or near the image of 100 x 50 pixels."""
    random = np.random.default_rng(3)
    stars = [random.uniform((-20, -20), (120, 70)) + random.normal(0, 40, (7, 2)) for _ in range(12)]
    far = [[-60, 25, 50, -60, 160, 25, 50, 110], [-1e9, 25, 1e9, 25, 0, 1e9]]
    outlines = [star.ravel().tolist() for star in stars] + far
    path = write_coco(*({"segmentation": [outline]} for outline in outlines))
    converted = read_coco(ConversionRequest(path, on_fault=OnFault.CLIP))
    assert len(converted.changes) == len(outlines)
    objects = iter(label(converted.entries[0]))
    for outline, change in zip(outlines, converted.changes, strict=True):
        expected = even_odd([outline], 50, 100)
        found = np.zeros_like(expected)
        if "left out" not in change:
            [ring] = next(objects)["polygon"]
            found = even_odd([[value * (100, 50)[index % 2] for index, value in enumerate(ring)]], 50, 100)
        assert (found != expected).sum() <= 1, outline  # an edge within rounding of a centre
    assert next(objects, None) is None


def test_on_fault_leaves_out_images_and_says_which(write_voc: Any, write_image: MakeImage, tmp_path: Path) -> None:
    for name in ("1", "2", "3", "4", "5", "6"):
        write_image(f"JPEGImages/{name}.jpg", (100, 50))
        source = write_voc(name, voc_object("can", 1, 1, 9, 9))
    write_voc("2", voc_object("can", 1, 1, 9, 9), voc_object("can", 91, 1, 130, 9), voc_object("", 1, 1, 9, 9))
    write_voc("3", voc_object("can", "nan", 1, 9, 9))
    write_voc("none", voc_object("can", 1, 1, 9, 9))
    write_voc("copy", voc_object("can", 2, 2, 9, 9), filename="4.jpg")
    out = tmp_path / "out"

    def convert(on_fault: str) -> Result:
        return clearsight_data("convert", "--from", "voc", source, "--output", out, "--on-fault", on_fault)

    for on_fault, num_faults in (("stop", 5), ("clip", 4)):
        error = convert(on_fault).exception
        assert isinstance(error, InvalidData)
        assert len(error.faults) == num_faults
        assert str(error).endswith("--on-fault skip converts the 3 picture(s) without a fault") == (on_fault == "stop")
        assert not out.exists()
    result = convert("skip")
    listed = (out / "on-fault.txt").read_text().splitlines()
    files = [line.partition("Annotations/")[2].partition(":")[0] for line in listed]
    assert sorted(files) == ["2.xml", "2.xml", "3.xml", "copy.xml", "none.xml"]
    assert all(f"--on-fault skip: {line}" in result.stderr for line in listed)
    written = [Path(item["image_url"]).name for part in (TRAINING, VALIDATION) for item in lines(out / part)]
    assert sorted(written) == ["1.jpg", "5.jpg", "6.jpg"]
    warning = f"the pictures of faults left out by --on-fault skip: 5 (all: {out / 'on-fault.txt'})"
    assert warning in json.loads(result.stdout)["warnings"]


def test_objects_can_be_cut_off_at_the_edges(write_voc: Any, write_image: MakeImage, tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_image(f"JPEGImages/{name}.jpg", (100, 50))
        source = write_voc(name, voc_object("can", 91, 1, 130, 9), voc_object("tin", 102, 1, 130, 9))
    flags = ("convert", "--from", "voc", source, "--output", tmp_path, "--on-fault", "clip")
    assert clearsight_data(*flags).exit_code == 0
    first, second, *_ = (tmp_path / "on-fault.txt").read_text().splitlines()
    assert first.endswith("1.xml: object 1: cut off at the edges of the picture of 100x50 pixels: a coordinate is 130")
    assert second.endswith(
        "object 2: left out, since all of it lies outside the picture of 100x50 pixels: a coordinate is 130"
    )
    for part in (TRAINING, VALIDATION):
        [[marked]] = [item["label"] for item in lines(tmp_path / part)]
        assert (marked["label"], marked["topX"], marked["bottomX"]) == ("can", 0.9, 1.0)
    for name in ("1", "2"):
        write_voc(name, voc_object("can", 1, 1, 9, 9))
    assert clearsight_data(*flags).exit_code == 0
    assert not (tmp_path / "on-fault.txt").exists()


@pytest.mark.parametrize("far", [1e12, 1e308])
def test_a_coordinate_on_no_image_is_a_fault_also_where_objects_are_cut_off(write_coco: Any, far: float) -> None:
    source = write_coco({"segmentation": [[0, 0, far, 0, 0, 20]]})
    with pytest.raises(InvalidData) as error:
        read_coco(ConversionRequest(source, on_fault=OnFault.CLIP))
    assert messages(error)[0].endswith(f"but a coordinate is {far:g}")


def test_a_little_outside_is_cut_off_and_counted(write_coco: Any) -> None:
    boxes = [[60, 5, width, 10] for width in (40, 40.5, 40.6, 41)] + [[-0.4, 5, 20, 10], [-0.9, -0.3, 20, 10]]
    converted = read_coco(ConversionRequest(write_coco(*({"bbox": box} for box in boxes))))
    assert [(one["topX"], one["bottomX"]) for one in label(converted.entries[0])[:4]] == [(0.6, 1.0)] * 4
    [warning] = converted.warnings
    assert warning.startswith("object up to a hundredth outside of its picture cut off at the edge: 3 (first: ")


def test_the_terminal_shows_the_first_ten_of_many_faults(tmp_path: Path, write_image: MakeImage) -> None:
    write_image("1.jpg")
    write_image("2.jpg")
    source = tmp_path / "data" / "labels.csv"
    source.write_text("image,label\n1.jpg,a\n2.jpg,b\n" + "".join(f"none{index}.jpg,a\n" for index in range(12)))
    result = clearsight_data("convert", "--from", "csv", source, "--output", tmp_path / "out", "--on-fault", "skip")
    assert result.stderr.count("--on-fault skip: /") == 10
    assert len((tmp_path / "out" / "on-fault.txt").read_text().splitlines()) == 12


def test_coco_keys_that_are_almost_right_are_named(write_coco: Any) -> None:
    box = {"bbox": [10, 5, 20, 30], "area": 600, "id": 4, "score": 0.5}
    converted = read_coco(
        ConversionRequest(write_coco(box | {"isCrowd": 1}, box | {"is_crowd": 0}, box | {"iscrowd": 1}))
    )
    assert [warning.partition(": 1 (first")[0] for warning in converted.warnings] == [
        f"annotation with the unknown key {key!r}, which is ignored; is 'iscrowd' meant?"
        for key in ("isCrowd", "is_crowd")
    ]


@pytest.mark.parametrize("task", [Task.DETECTION, Task.SEGMENTATION])
def test_objects_below_a_pixel_are_dropped_in_every_task(task: Task, write_coco: Any) -> None:
    """The image has 100 x 50 pixels; the second object is as wide as a pixel, the others are not."""
    boxes = [[10, 5, 0.5, 30], [57, 5, 1, 30], [10, 5, 30, 0.9]]
    outlines = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in boxes]
    path = write_coco(*({"bbox": box, "segmentation": [outline]} for box, outline in zip(boxes, outlines, strict=True)))
    converted = read_coco(ConversionRequest(path, task))
    assert len(label(converted.entries[0])) == 1
    [warning] = converted.warnings
    assert "narrower than one pixel dropped: 2 (first: " in warning


def test_a_coco_id_of_two_classes_is_refused(write_coco: Any) -> None:
    box = {"bbox": [10, 5, 20, 30]}
    names = ({"id": 3, "name": name} for name in ("can", "can", "tin"))
    with pytest.raises(InvalidData, match="each category must have an id of its own, but 3 is 'can' and 'tin'"):
        read_coco(ConversionRequest(write_coco(box, categories=list(names))))


SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
SQUARE_UNIT = [0.1, 0.1, 0.3, 0.1, 0.3, 0.5, 0.1, 0.5]


def test_coco_polygons_are_the_default_when_there_are_any(write_coco: Any) -> None:
    path = write_coco({"bbox": [10, 5, 20, 20], "segmentation": [SQUARE, [1, 2, 3, 4]], "category_id": 4})
    converted = read_coco(ConversionRequest(path))
    assert converted.task is Task.SEGMENTATION
    assert label(converted.entries[0]) == [{"label": "tin", "polygon": [SQUARE_UNIT], "isCrowd": 0}]
    assert "fewer than 3 points dropped: 1" in converted.warnings[0]
    boxes = read_coco(ConversionRequest(path, Task.DETECTION))
    assert "polygon" not in label(boxes.entries[0])[0]


def test_coco_polygons_give_boxes_where_there_are_none(write_coco: Any) -> None:
    [entry, _] = read_coco(ConversionRequest(write_coco({"segmentation": [SQUARE]}), Task.DETECTION)).entries
    assert label(entry)[0] == {"label": "can", "topX": 0.1, "topY": 0.1, "bottomX": 0.3, "bottomY": 0.5, "isCrowd": 0}


def square_mask() -> NDArray[np.bool_]:
    mask = np.zeros((50, 100), bool)
    mask[5:25, 10:30] = True
    return mask


def runs_of(mask_HW: NDArray[np.bool_]) -> list[int]:
    """COCO's runs, computed by a slow and simple loop."""
    runs, current = [0], False
    for value in mask_HW.T.ravel():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


def test_coco_masks_become_polygons(write_coco: Any) -> None:
    mask = {"size": [50, 100], "counts": runs_of(square_mask())}
    converted = read_coco(ConversionRequest(write_coco({"bbox": [10, 5, 20, 20], "segmentation": mask, "iscrowd": 1})))
    [marked] = label(converted.entries[0])
    assert marked["isCrowd"] == 1
    assert corners(marked["polygon"][0]) == corners(SQUARE_UNIT)
    assert converted.warnings == ()


def corners(polygon: list[float]) -> set[tuple[float, float]]:
    return set(zip(polygon[0::2], polygon[1::2], strict=True))


def test_holes_of_masks_are_filled_and_counted(write_coco: Any) -> None:
    mask = square_mask()
    mask[10:12, 15:17] = False
    converted = read_coco(ConversionRequest(write_coco({"segmentation": {"size": [50, 100], "counts": runs_of(mask)}})))
    assert corners(label(converted.entries[0])[0]["polygon"][0]) == corners(SQUARE_UNIT)
    assert "holes, which polygons cannot have: filled: 1" in converted.warnings[0]


@pytest.mark.parametrize(
    ("annotation", "task", "words"),
    [
        ({"bbox": [1, 2, 3]}, None, "annotation 0: bbox must be a list of 4 numbers"),
        ({"bbox": "1 2 3 4"}, None, "bbox must be a list of 4 numbers"),
        ({"bbox": [90, 0, 30, 5]}, None, "must lie inside the picture of 100x50 pixels"),
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, None, "category_id must be one of categories, but got 9"),
        ({}, None, "must have a box"),
        ({"bbox": [1, 2, 3, 4]}, Task.SEGMENTATION, "must have a polygon or a mask"),
        ({"segmentation": [["a"]]}, None, "segmentation must be a list of numbers"),
        ({"segmentation": {"size": [100, 50], "counts": [5000]}}, None, "size must be the picture's height and width"),
        ({"segmentation": {"size": [50, 100], "counts": [4000]}}, None, "must add up to 50 x 100"),
        ({"segmentation": {"size": [50, 100], "counts": "~"}}, None, "must hold characters"),
        ({"segmentation": {"size": [50, 100]}}, None, "must be text or a list of whole numbers"),
    ],
)
def test_faulty_coco_annotations_are_named(annotation: dict[str, Any], task: Any, words: str, write_coco: Any) -> None:
    with pytest.raises(InvalidData) as caught:
        read_coco(ConversionRequest(write_coco(annotation), task))
    [message] = messages(caught)
    assert words in message
    assert "coco.json" in message


def test_faulty_coco_images_are_named(write_coco: Any) -> None:
    images = [{"id": 7, "file_name": "1.jpg", "width": 50, "height": 100}, {"id": 8, "file_name": "no.jpg"}, {"id": 9}]
    with pytest.raises(InvalidData) as caught:
        read_coco(ConversionRequest(write_coco(images=images)))
    first, second, third = messages(caught)
    assert "images[0]: the annotations are for 50x100 pixels" in first
    assert "images[1]: the picture 'no.jpg' is in none of" in second
    assert "images[2]: file_name must be the name of a picture" in third
    path = write_coco({"image_id": 99})
    with pytest.raises(
        InvalidData, match="annotation 0: must name a picture that is among images, but got image_id 99"
    ):
        read_coco(ConversionRequest(path))
    assert len(read_coco(ConversionRequest(path, on_fault=OnFault.SKIP)).entries) == 2


def even_odd(polygons: list[list[float]], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies in any polygon, by counting crossings in a slow and simple loop."""
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    covered = np.zeros((height, width), bool)
    for polygon in polygons:
        inside = np.zeros((height, width), bool)
        points = list(zip(polygon[0::2], polygon[1::2], strict=True))
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if y0 != y1:
                crosses = (y0 <= rows) != (y1 <= rows)
                inside ^= crosses & (columns < x0 + (rows - y0) / (y1 - y0) * (x1 - x0))
        covered |= inside
    return covered


def test_the_outline_of_nothing_is_nothing() -> None:
    assert polygons_from_mask(np.zeros((5, 5), bool)) == ([], 0)


def test_outlines_run_along_the_edges_of_pixels() -> None:
    mask = np.zeros((6, 8), bool)
    mask[2, 3] = True
    [polygon], num_holes = polygons_from_mask(mask)
    assert (corners(polygon), num_holes) == ({(3, 2), (4, 2), (4, 3), (3, 3)}, 0)
    [whole], _ = polygons_from_mask(np.ones((6, 8), bool))
    assert corners(whole) == {(0, 0), (8, 0), (8, 6), (0, 6)}


@pytest.mark.parametrize("seed", range(5))
def test_outlines_filled_give_the_mask_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:60, 0:80]
    mask = np.zeros((60, 80), bool)
    for _ in range(3):  # ellipses, overlapping or apart
        y, x = random.uniform(5, 55), random.uniform(5, 75)
        mask |= ((rows - y) / random.uniform(4, 15)) ** 2 + ((columns - x) / random.uniform(4, 15)) ** 2 < 1
    polygons, num_holes = polygons_from_mask(mask)
    assert num_holes == 0
    assert (even_odd(polygons, 60, 80) == mask).all()


def test_holes_are_counted_and_filled_with_what_lies_in_them() -> None:
    mask = np.ones((9, 12), bool)
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    mask[3, 9] = mask[4, 10] = (
        False  # the two pixels touch at a corner, where the mask is connected: so these are two holes
    )
    polygons, num_holes = polygons_from_mask(mask)
    assert ([corners(polygon) for polygon in polygons], num_holes) == ([{(0, 0), (12, 0), (12, 9), (0, 9)}], 3)


def write_mask(path: Path, ids_HW: NDArray[np.uint8], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids_HW)
    if palette:
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    image.save(path)


def test_a_file_per_object_gives_an_object_each(tmp_path: Path, write_image: MakeImage) -> None:
    write_image("a/images/a.png", (100, 50))
    write_image("b/images/b.png", (100, 50))
    write_mask(tmp_path / "data/a/masks/1.png", square_mask().astype(np.uint8) * 255)
    write_mask(tmp_path / "data/a/masks/2.png", np.zeros((50, 100), np.uint8))
    (tmp_path / "data/b/masks").mkdir()
    converted = read_masks(ConversionRequest(tmp_path / "data", label="cell"))
    assert converted.task is Task.SEGMENTATION
    [marked] = label(converted.entries[0])
    assert (marked["label"], corners(marked["polygon"][0])) == ("cell", corners(SQUARE_UNIT))
    assert label(converted.entries[1]) == []
    (tmp_path / "data/a/masks/notes.txt").touch()
    (tmp_path / "data/c").mkdir()
    converted = read_masks(ConversionRequest(tmp_path / "data", label="cell"))
    assert [warning.partition(": 1 (first")[0] for warning in converted.warnings] == [
        "folder without a folder masks passed over",
        "file without a suffix of .png, .tif, .tiff, .bmp passed over",
        "picture without a mask taken as one without objects",
        "mask without an object",
    ]
    boxes = read_masks(ConversionRequest(tmp_path / "data", Task.DETECTION, label="cell"))
    assert label(boxes.entries[0]) == [
        {"label": "cell", "topX": 0.1, "topY": 0.1, "bottomX": 0.3, "bottomY": 0.5, "isCrowd": 0}
    ]


@pytest.mark.parametrize("kind", ["grey", "palette", "colour", "16 bit"])
def test_a_file_per_image_has_an_object_per_value(kind: str, tmp_path: Path, write_image: MakeImage) -> None:
    write_image("images/1.jpg", (100, 50))
    write_image("images/2.jpg", (100, 50))
    ids = square_mask().astype(np.uint8) * 2
    ids[30:40, 50:60] = 9
    ids[30:40, 70:80] = 9  # another part of the same object
    path = tmp_path / "data/masks/1.png"
    if kind == "colour":
        ids = np.stack([ids, ids * 0, ids // 2], axis=-1)
    elif kind == "palette":
        ids[0, :] = 255  # void
    write_mask(path, ids.astype(np.uint16) * 100 if kind == "16 bit" else ids, palette=kind == "palette")
    converted = read_masks(ConversionRequest(tmp_path / "data", label="cell"))
    first, second = label(converted.entries[0])
    assert corners(first["polygon"][0]) == corners(SQUARE_UNIT)
    assert len(second["polygon"]) == 2
    assert label(converted.entries[1]) == []
    [warning] = converted.warnings
    assert warning.startswith("picture without a mask taken as one without objects: 1 (first: ")


def test_faulty_masks_are_named(tmp_path: Path, write_image: MakeImage) -> None:
    write_image("images/1.jpg", (100, 50))
    write_image("images/2.jpg", (100, 50))
    write_mask(tmp_path / "data/masks/1.png", np.ones((100, 50), np.uint8))
    write_mask(tmp_path / "data/masks/3.png", np.ones((50, 100), np.uint8))
    (tmp_path / "data/masks/2.png").write_text("no picture")
    write_mask(tmp_path / "data/masks/4.png", np.ones((50, 100), np.uint8))
    write_mask(tmp_path / "data/masks/1.tif", np.ones((50, 100), np.uint8))
    for suffix in ("jpg", "webp"):
        write_image(f"images/4.{suffix}", (100, 50))
    with pytest.raises(InvalidData) as caught:
        read_masks(ConversionRequest(tmp_path / "data", label="x"))
    texts = "\n".join(messages(caught))
    assert "3.png: must have a picture of the same name" in texts
    assert "4.png: must have a picture of the same name" in texts
    assert "4.jpg and 4.webp are 2" in texts
    assert "1.tif: must be the only mask of" in texts
    assert "1.png: must have the size of the upright picture, 100x50, but has 50x100" in texts
    assert "2.png: must be a picture" in texts


@pytest.mark.parametrize(
    "flags",
    [
        ("--from", "voc", "--task", "image_instance_segmentation"),
        ("--from", "masks", "--label", "x", "--task", "image_classification"),
        ("--from", "masks"),
        ("--from", "voc", "--label", "x"),
    ],
)
def test_a_task_that_a_layout_cannot_serve_is_wrong_use(flags: tuple[str, ...], tmp_path: Path) -> None:
    result = clearsight_data("convert", tmp_path, "--output", tmp_path / "out", *flags)
    assert result.exit_code == 2


def test_a_category_may_have_a_name_that_reads_as_false(tmp_path: Path, write_image: MakeImage) -> None:
    rows = [(0, "0"), (False, "false"), ("false", "false"), (None, None), ("", None)]
    for index in range(len(rows)):
        write_image(f"{index}.jpg")
    for index, (name, expected) in enumerate(rows):
        document = {
            "images": [{"id": 0, "file_name": f"{index}.jpg"}],
            "categories": [{"id": 0, "name": name}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [1, 2, 10, 20]}],
        }
        file = tmp_path / "data" / "coco.json"
        file.write_text(json.dumps(document))
        if expected is None:
            with pytest.raises(InvalidData, match="category_id must be one of categories"):
                read_coco(ConversionRequest(file))
        else:
            [entry] = read_coco(ConversionRequest(file)).entries
            assert [item["label"] for item in label(entry)] == [expected]


def test_written_image_details_are_those_of_the_file(tmp_path: Path, check_rows: Callable[..., None]) -> None:
    """A suffix may be of another format than the content; formats that Azure does not list are left out."""
    box = {"label": "can", "topX": 0.1, "topY": 0.1, "bottomX": 0.9, "bottomY": 0.9, "isCrowd": 0}

    def check(name: str, pillow_format: str, image_format: str | None) -> None:
        image = tmp_path / name
        Image.new("RGB", (40, 30)).save(image, pillow_format)
        write_table(tmp_path / TRAINING, [Entry(image, orjson.dumps([box]), (40, 30))])
        details = {"width": 40, "height": 30}
        expected = details if image_format is None else {"format": image_format, **details}
        assert lines(tmp_path / TRAINING)[0]["image_details"] == expected
        report = check_folder(tmp_path / TRAINING, Task.DETECTION, "label", {})
        assert (report.faults, report.warnings) == ((), ())

    rows = [("a.webp", "WEBP", None), ("a.gif", "GIF", None), ("a.avif", "AVIF", None), ("a.mpo", "JPEG", "jpeg")]
    rows += [("a.JPG", "JPEG", "jpg"), ("a.tif", "TIFF", "tif"), ("b.jpg", "PNG", "png"), ("b.png", "WEBP", None)]
    check_rows(check, rows)


@pytest.mark.parametrize("copy", [(), ("--copy",)])
def test_every_fifth_image_validates(copy: tuple[str, ...], tmp_path: Path, write_image: MakeImage) -> None:
    for index in range(10):
        write_image(f"images/{index}.jpg", (100, 50))
        write_mask(tmp_path / f"data/masks/{index}.png", square_mask().astype(np.uint8))
    flags = ("--from", "masks", "--label", "cell", "--output", tmp_path / "out", "--validation-every", "5", *copy)
    result = clearsight_data("convert", tmp_path / "data", *flags)
    assert json.loads(result.stdout) == {
        "task": "image_instance_segmentation",
        "output": str(tmp_path / "out"),
        TRAINING: 8,
        VALIDATION: 2,
        "warnings": [],
    }
    validation = lines(tmp_path / "out" / VALIDATION)
    assert [Path(item["image_url"]).stem for item in validation] == ["0", "5"]
    assert validation[0]["image_details"] == {"format": "jpg", "width": 100, "height": 50}
    for name in (TRAINING, VALIDATION):
        args = ("check", tmp_path / "out" / name, "--task", "image_instance_segmentation", "-o", "json")
        document = json.loads(clearsight_data(*args).stdout)
        assert (document["faults"], document["warnings"]) == ([], [])


def convert_with_lists(source: Path, tmp_path: Path, **lists: str) -> Any:
    flags: list[Any] = []
    for part, text in lists.items():
        file = tmp_path / f"{part}.txt"
        file.write_text(text)
        flags += [f"--{part}-list", file]
    return clearsight_data("convert", "--from", "voc", source, "--output", tmp_path / "out", *flags)


@pytest.mark.parametrize(
    ("lists", "trains", "validates"),
    [
        ({"validation": "2\n"}, ["0", "1", "3"], ["2"]),
        ({"validation": "3.jpg\n\n 1 \n", "training": "2"}, ["2"], ["1", "3"]),
        ({"validation": "\ufeff2\r\n"}, ["0", "1", "3"], ["2"]),
        ({"validation": "JPEGImages/2.JPG\nC:\\data\\3.png", "training": "./0.jpg"}, ["0"], ["2", "3"]),
    ],
)
def test_lists_say_which_images_train_and_validate(
    lists: dict[str, str],
    trains: list[str],
    validates: list[str],
    write_voc: Any,
    tmp_path: Path,
    write_image: MakeImage,
) -> None:
    for name in "0123":
        source = write_voc(name, voc_object("can", 1, 1, 9, 9))
        write_image(f"JPEGImages/{name}.jpg", (100, 50))
    assert convert_with_lists(source, tmp_path, **lists).exit_code == 0
    for part, names in ((TRAINING, trains), (VALIDATION, validates)):
        assert [Path(item["image_url"]).stem for item in lines(tmp_path / "out" / part)] == names


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"validation": ""}, "2 train and 0 validate"),
        ({"validation": "0\n1"}, "0 train and 2 validate"),
        ({"validation": "0\nnone"}, "none have the name 'none'"),
        ({"validation": "0", "training": "0\n1"}, "both name '0.jpg'"),
    ],
)
def test_lists_that_leave_a_part_empty_or_doubtful_are_refused(
    lists: dict[str, str], message: str, write_voc: Any, tmp_path: Path, write_image: MakeImage
) -> None:
    for name in "01":
        source = write_voc(name, voc_object("can", 1, 1, 9, 9))
        write_image(f"JPEGImages/{name}.jpg", (100, 50))
    result = convert_with_lists(source, tmp_path, **lists)
    assert isinstance(result.exception, InvalidData)
    assert any(message in fault.message for fault in result.exception.faults)
    assert not (tmp_path / "out").exists()
