import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from clearsight.errors import InvalidData
from clearsight.tasks import Task
from clearsight.training.cli_data import data
from clearsight.training.data.check import check_folder
from clearsight.training.data.converters import ConversionRequest, copy_images
from clearsight.training.data.converters.class_folders import read_class_folders
from clearsight.training.data.converters.csv_list import read_csv
from clearsight.training.data.table import load_table

TRAINING, VALIDATION = "training-mltable-folder", "validation-mltable-folder"


def clearsight_data(*args: str | Path) -> Result:
    return CliRunner().invoke(data, [str(arg) for arg in args])


def lines(folder: Path) -> list[dict[str, Any]]:
    [path] = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def class_folders(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Seven images in two classes, and files and folders that are ignored."""
    for name in ("can/1.jpg", "can/2.PNG", "can/3.jpg", "can/4.jpg", "milk bottle/1.jpg", "milk bottle/2.jpg"):
        write_image(name)
    write_image("milk bottle/3.jpg")
    source = tmp_path / "data"
    (source / "can" / "notes.txt").touch()
    (source / "labels.csv").touch()
    (source / ".hidden").mkdir()
    return source


def test_class_folders_become_two_data_folders(class_folders: Path, tmp_path: Path) -> None:
    flags = ("--output", tmp_path / "out", "--validation-every", "5")
    result = clearsight_data("convert", "--from", "folders", class_folders, *flags)
    assert json.loads(result.stdout)[VALIDATION] == 2
    validation = lines(tmp_path / "out" / VALIDATION)
    assert validation == [
        {"image_url": "../../data/can/1.jpg", "label": "can"},
        {"image_url": "../../data/milk bottle/2.jpg", "label": "milk bottle"},
    ]
    assert sorted(path.name for path in (tmp_path / "out" / TRAINING).iterdir()) == [
        "MLTable",
        "train_annotations.jsonl",
    ]
    table = load_table(tmp_path / "out" / TRAINING, Task.MULTI_CLASS, "label", {})
    assert len(table.records) == 5
    assert all(record.image.is_file() for record in table.records)


def test_what_lies_elsewhere_than_in_class_folders_is_counted(class_folders: Path, write_image: Any) -> None:
    warnings = read_class_folders(ConversionRequest(class_folders)).warnings
    assert [warning.partition(" (first")[0] for warning in warnings] == [
        "file outside of class folders passed over: 1",
        "file without the suffix of a picture passed over: 1",
    ]
    for name in ("5.jpg", "can/old/1.jpg", "can/new/1.jpg", "__MACOSX/1.jpg", ".hidden/1.jpg", "can/._1.jpg"):
        write_image(name)
    for name in ("can/1.heic", "can/.DS_Store", "Thumbs.db"):
        (class_folders / name).touch()
    (class_folders / "tin").mkdir()
    converted = read_class_folders(ConversionRequest(class_folders))
    assert len(converted.entries) == 7
    assert list(converted.warnings) == [
        f"file outside of class folders passed over: 2 (first: {class_folders / '5.jpg'})",
        f"file without the suffix of a picture passed over: 2 (first: {class_folders / 'can/1.heic'})",
        f"folder in a class folder passed over: 2 (first: {class_folders / 'can/new'})",
        f"class folder without pictures passed over: 1 (first: {class_folders / 'tin'})",
    ]


def test_the_drawn_share_is_stratified_and_seeded(class_folders: Path, tmp_path: Path) -> None:
    def convert(name: str, seed: str) -> list[dict[str, Any]]:
        flags = ("--validation-fraction", "0.3", "--seed", seed, "--output", tmp_path / name)
        assert clearsight_data("convert", "--from", "folders", class_folders, *flags).exit_code == 0
        return lines(tmp_path / name / VALIDATION)

    first = convert("a", "4")
    assert sorted(item["label"] for item in first) == ["can", "milk bottle"]
    assert convert("b", "4") == first
    assert any(convert(f"c{seed}", str(seed)) != first for seed in range(5))


def test_without_options_every_class_with_two_images_trains_and_validates(
    tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    """Class names that read as numbers or truth values are names; a stray folder with one image is said."""
    sizes = {"0": 2, "false": 3, "null": 7, "Test": 1}
    for name, size in sizes.items():
        for index in range(size):
            write_image(f"{name}/{index}.jpg")
    output = tmp_path / "out"
    result = clearsight_data("convert", "--from", "folders", tmp_path / "data", "--output", output)
    parts = [Counter(item["label"] for item in lines(output / part)) for part in (TRAINING, VALIDATION)]
    assert parts[0] + parts[1] == sizes
    assert parts[1] == {"0": 1, "false": 1, "null": 1}
    warnings = [
        "no validation picture shows Test: no metric says anything about these classes",
        "classes with fewer than 5 pictures: 0 (2), Test (1), false (3)",
    ]
    assert json.loads(result.stdout)["warnings"] == warnings
    assert [line.removeprefix("warning: ") for line in result.stderr.splitlines() if "warning" in line] == warnings
    args = ("check", output / TRAINING, "--task", "image_classification", "--validation", output / VALIDATION, "-o")
    assert json.loads(clearsight_data(*args, "json").stdout)["warnings"] == warnings
    nowhere = clearsight_data("check", output / TRAINING, "--task", "image_classification", "--validation", output)
    assert (nowhere.exit_code, "MLTable" in nowhere.stdout) == (1, True)


def test_one_image_cannot_be_split(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    write_image("can/1.jpg")
    result = clearsight_data("convert", "--from", "folders", tmp_path / "data", "--output", tmp_path / "out")
    assert "a split into training and validation needs at least 2 pictures, but got 1" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_copied_images_move_with_the_output(class_folders: Path, tmp_path: Path) -> None:
    flags = ("--output", tmp_path / "out", "--validation-every", "5", "--copy")
    clearsight_data("convert", "--from", "folders", class_folders, *flags)
    (tmp_path / "out").rename(tmp_path / "moved")
    urls = [item["image_url"] for item in lines(tmp_path / "moved" / VALIDATION)]
    assert urls == ["../images/can_1.jpg", "../images/2.jpg"]
    table = load_table(tmp_path / "moved" / TRAINING, Task.MULTI_CLASS, "label", {})
    assert all(record.image.is_file() for record in table.records)


def test_a_copy_never_overwrites_another_image(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    entries = [entry for top in ("a", "b") for entry in [write_image(f"{top}/can/1.jpg")]]
    folders = [read_class_folders(ConversionRequest(entry.parent.parent)).entries[0] for entry in entries]
    with pytest.raises(InvalidData, match=r"would both become can_1\.jpg"):
        copy_images(folders, tmp_path / "copies")


@pytest.mark.parametrize(
    ("content", "task", "labels"),
    [
        ("image,labels\n1.jpg,b a\n2.jpg,\n3.jpg,b\n", "image_classification_multilabel", [["b", "a"], [], ["b"]]),
        ("\ufefffilename,label\r\n1.jpg,milk bottle\r\n2.jpg,a\r\n3.jpg,b\r\n", "image_classification", None),
        ('"labels","image"\n"a","1.jpg"\n"b","2.jpg"\n"a","3.jpg"\n', "image_classification_multilabel", None),
    ],
)
def test_the_header_of_a_csv_list_determines_its_task(
    tmp_path: Path, write_image: Callable[..., Path], content: str, task: str, labels: list[Any] | None
) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        write_image(name)
    source = tmp_path / "data" / "labels.csv"
    source.write_text(content)
    flags = ("--output", tmp_path / "out", "--validation-every", "5")
    result = clearsight_data("convert", "--from", "csv", source, *flags)
    assert json.loads(result.stdout)["task"] == task
    # The first of every five images is for validation.
    written = [item["label"] for part in (VALIDATION, TRAINING) for item in lines(tmp_path / "out" / part)]
    assert len(written) == 3
    if labels is not None:
        assert written == labels
    elif task == "image_classification":
        assert written == ["milk bottle", "a", "b"]


def test_every_bad_row_of_a_csv_list_is_named(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    write_image("1.jpg")
    source = tmp_path / "data" / "labels.csv"
    source.write_text("image,label\n1.jpg,a\nno.jpg,a\n1.jpg,\n1.jpg\n,a\n")
    with pytest.raises(InvalidData) as raised:
        read_csv(ConversionRequest(source, Task.MULTI_CLASS))
    assert [fault.target.rsplit(":", 1)[1] for fault in raised.value.faults] == ["3", "4", "5", "6"]
    source.write_text("image,label\n1.jpg,can,\n1.jpg,can,carton\n1.jpg,can,,carton,x\n")
    with pytest.raises(InvalidData) as raised:
        read_csv(ConversionRequest(source))
    assert [f"{fault.target}: {fault.message}" for fault in raised.value.faults] == [
        f"{source}:{line}: must have 2 cells, as the header has, but {cells} come after them; quote cells with commas"
        for line, cells in ((3, "'carton'"), (4, "'', 'carton', 'x'"))
    ]
    source.write_bytes("image,label\r\n1.JPG,B\u00fcchse\r\n".encode("utf-16"))
    assert read_csv(ConversionRequest(source)).entries[0].label == "B\u00fcchse"
    source.write_text("picture,class\n1.jpg,a\n")
    with pytest.raises(InvalidData, match="'image' or 'filename'"):
        read_csv(ConversionRequest(source, Task.MULTI_CLASS))


def test_a_picture_has_one_record(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    image = write_image("1.jpg")
    (tmp_path / "data" / "link.jpg").symlink_to(image)
    source = tmp_path / "data" / "labels.csv"
    for header, rows in (("label", ("1.jpg,a", "1.JPG,a", "link.jpg,a")), ("labels", ("1.jpg,a b", "./1.jpg,b a"))):
        source.write_text("\n".join((f"image,{header}", *rows)))
        converted = read_csv(ConversionRequest(source))
        assert [entry.image for entry in converted.entries] == [image]
        [warning] = converted.warnings
        assert f"with the same label: kept once: {len(rows) - 1} (first: {source}:3)" in warning
        source.write_text("\n".join((f"image,{header}", *rows, "1.jpg,c")))
        with pytest.raises(InvalidData) as raised:
            read_csv(ConversionRequest(source))
        [fault] = raised.value.faults
        assert fault.target == f"{source}:{len(rows) + 2}"
        assert f"but {source}:2 labels {image} too, and differently" in fault.message


@pytest.mark.parametrize(
    "flags",
    [
        ("--from", "folders", "--validation-every", "3", "--validation-fraction", "0.5"),
        ("--from", "folders", "--task", "image_object_detection"),
        ("--from", "folders", "--task", "image_classification_multilabel"),
        ("--from", "folders", "--validation-fraction", "1"),
        ("--from", "masks"),
        ("--from", "folders", "--label", "x"),
        ("--from", "folders", "--label", ""),
        ("--from", "masks", "--label", " "),
        ("--from", "pickle"),
    ],
)
def test_flags_that_contradict_are_wrong_use(class_folders: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    result = clearsight_data("convert", class_folders, "--output", tmp_path / "out", *flags)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_good_folder_is_summed_up(write_folder: Callable[..., Path], write_image: Callable[..., Path]) -> None:
    for name, size in (("1.jpg", (40, 30)), ("2.jpg", (80, 60)), ("3.jpg", (10, 10))):
        write_image(name, size)
    rows = [{"image_url": f"{index}.jpg", "label": label} for index, label in ((1, "a"), (2, "b"), (3, "a"))]
    folder = write_folder(rows)
    result = clearsight_data("check", folder, "--task", "image_classification")
    assert result.exit_code == 0
    assert "no faults, 3 records" in result.stdout
    document = json.loads(clearsight_data("check", folder, "--task", "image_classification", "-o", "json").stdout)
    assert document["records_per_class"] == {"a": 2, "b": 1}
    assert document["image_sizes"] == {"smallest": "10x10", "median": "40x30", "largest": "80x60"}
    assert document["valid"] is True


def test_a_check_lists_label_faults_and_unreadable_images(
    write_folder: Callable[..., Path], write_image: Callable[..., Path], tmp_path: Path
) -> None:
    write_image("good.jpg")
    (tmp_path / "data" / "text.jpg").write_text("no picture")
    (tmp_path / "data" / "folder.jpg").mkdir()
    names = ["good.jpg", "text.jpg", "folder.jpg", "none.jpg", "good.jpg"]
    folder = write_folder([{"image_url": name, "label": "a"} for name in names] + ["{", {"image_url": "good.jpg"}])
    result = clearsight_data("check", folder, "--task", "image_classification", "--output", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert {fault["target"].rsplit(":", 1)[1] for fault in document["faults"]} == {"2", "3", "4", "6", "7"}
    assert "1 picture(s) stand in several records" in document["warnings"][0]
    text = clearsight_data("check", folder, "--task", "image_classification")
    assert text.exit_code == 1
    assert text.stdout.rstrip().endswith("5 faults")


def test_a_folder_that_cannot_be_read_fails_the_check(tmp_path: Path) -> None:
    result = clearsight_data("check", tmp_path / "none", "--task", "image_classification")
    assert (result.exit_code, "BAD_DATA_REF" in result.stdout) == (1, True)


def test_image_sizes_are_upright_and_a_wrong_hint_is_a_warning(
    write_folder: Callable[..., Path], write_image: Callable[..., Path]
) -> None:
    image = write_image("1.jpg", (40, 30), orientation=6)
    details = {"format": "jpg", "width": 40, "height": 30}
    folder = write_folder([{"image_url": "1.jpg", "image_details": details, "label": "a"}])
    report = check_folder(folder, Task.MULTI_CLASS, "label", {})
    assert report.survey.sizes_wh == {image: (30, 40)}
    assert "image_details disagree with the file in 1 record(s)" in report.warnings[0]


@pytest.mark.parametrize(("orientation", "is_warned"), [(1, False), (2, True), (3, True), (4, True), (6, False)])
def test_boxes_on_an_image_whose_size_does_not_tell_that_it_is_turned_are_a_warning(
    orientation: int, is_warned: bool, write_folder: Callable[..., Path], write_image: Callable[..., Path]
) -> None:
    write_image("1.jpg", (40, 30), orientation)
    box = {"label": "a", "topX": 0.1, "topY": 0.1, "bottomX": 0.5, "bottomY": 0.5}
    report = check_folder(write_folder([{"image_url": "1.jpg", "label": [box]}]), Task.DETECTION, "label", {})
    assert any("labels must be for the upright picture" in warning for warning in report.warnings) == is_warned
    classes = check_folder(write_folder([{"image_url": "1.jpg", "label": "a"}]), Task.MULTI_CLASS, "label", {})
    assert not classes.warnings


@pytest.mark.parametrize("is_decoded", [False, True])
def test_formats_that_no_job_reads_are_faults_whether_or_not_images_are_decoded(
    is_decoded: bool, write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    names = [f"1.{suffix}" for suffix in ("ppm", "tga", "ico", "jp2", "pcx", "png", "bmp", "gif")]
    folder = write_folder([{"image_url": name, "label": "a"} for name in names])
    for name in names:
        Image.new("RGB", (40, 30)).save(folder / name)
    report = check_folder(folder, Task.MULTI_CLASS, "label", {}, is_decoded=is_decoded)
    assert [Path(fault.message.split(": ")[0]).name for fault in report.faults] == names[:5]
    assert all("a picture must be one of jpeg, png" in fault.message for fault in report.faults)


def test_an_image_beyond_the_pixel_limit_is_a_fault(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_folder([{"image_url": name, "label": "a"} for name in ("limit.png", "beyond.png", "bomb.png")])
    for name, width, height in (("limit", 10_000, 10_000), ("beyond", 10_000, 10_001), ("bomb", 60_000, 60_000)):
        (tmp_path / "data" / f"{name}.png").write_bytes(png_header(width, height))
    report = check_folder(folder, Task.MULTI_CLASS, "label", {})
    assert [fault.target.rsplit(":", 1)[1] for fault in report.faults] == ["2", "3"]


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixels (PNG specification, section 11.2)."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
