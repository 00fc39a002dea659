import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearsight.cli import root
from clearsight.console import run
from clearsight.errors import UserError
from clearsight.handlers.drawing.overlay import draw_overlay, to_jpeg
from clearsight.runs.package import ModelPackage
from clearsight.serving.batch.cli_predict import find_images, table_row
from clearsight.tasks import Task
from clearsight.wire.answers import ClassificationAnswer, DetectedObject, DetectionAnswer


@pytest.fixture
def folder(tmp_path: Path, drawn_images: list[Path]) -> Path:
    """b.PNG, deep/a.png and c.png, with files between them that are not to be scored."""
    target = tmp_path / "photos"
    (target / "deep").mkdir(parents=True)
    (target / ".cache").mkdir()
    for name, source in zip(("b.PNG", "deep/a.png", "c.png", ".cache/x.png"), drawn_images, strict=False):
        (target / name).write_bytes(source.read_bytes())
    (target / "notes.txt").write_text("not a picture")
    return target


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="must hold pictures"):
        find_images([tmp_path])


def test_folders_are_walked_in_order_without_hidden_and_other_files(folder: Path):
    found = [str(image.relative) for image in find_images([folder / "notes.txt", folder])]
    assert found == ["notes.txt", "b.PNG", "c.png", "deep/a.png"]


def test_results_come_in_order_with_the_name_of_their_file(capsys, folder: Path, tiny_package: ModelPackage):
    assert run(root, ["predict", "--package", str(tiny_package.root), str(folder)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(folder / name) for name in ("b.PNG", "c.png", "deep/a.png")]
    assert all(sum(row["probs"]) == pytest.approx(1, abs=1e-6) for row in rows)
    assert all(row["labels"] == list(tiny_package.labels) for row in rows)


def test_unreadable_files_are_named_and_the_others_scored(capsys, folder: Path, tiny_package: ModelPackage):
    (folder / "broken.png").write_bytes((folder / "b.PNG").read_bytes()[:100])
    arguments = ["predict", "--package", str(tiny_package.root), str(folder / "gone.jpg"), str(folder)]
    arguments += [str(folder / "notes.txt"), "-o", "jsonl", "--batch-size", "2", "--backend", "onnxruntime"]
    assert run(root, arguments) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["b.PNG", "c.png", "a.png"]
    lines = captured.err.splitlines()
    assert [line.split(": ")[0].rsplit("/")[-1] for line in lines] == ["gone.jpg", "broken.png", "notes.txt", "error"]
    assert "3 of 6 files" in lines[-1]


def test_the_table_shows_the_top_class_and_overlays_are_written(capsys, folder, tiny_package, tmp_path):
    target = tmp_path / "looked-at"
    arguments = ["predict", "--package", str(tiny_package.root), str(folder), "-o", "table"]
    assert run(root, [*arguments, "--save-overlay", str(target)]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "label", "score"]
    assert len(lines) == 3
    assert all(any(label in line for label in tiny_package.labels) for line in lines)
    written = sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
    assert written == ["b.PNG.overlay.jpg", "c.png.overlay.jpg", "deep/a.png.overlay.jpg"]


def test_boxes_are_counted_by_class_in_the_table():
    def row(*found: tuple[str, float]) -> dict[str, str]:
        boxes = tuple(DetectedObject((0.0, 0.0, 1.0, 1.0), label, score) for label, score in found)
        return table_row(Path("a.jpg"), DetectionAnswer(boxes), Task.DETECTION)

    assert row() == {"file": "a.jpg", "label": "(none)", "score": ""}
    assert row(("can", 0.9), ("carton", 0.8), ("can", 0.7)) == {
        "file": "a.jpg",
        "label": "2 x can, carton",
        "score": "0.9000, 0.8000",
    }


def test_equal_names_get_overlays_of_their_own(capsys, folder: Path, tiny_package: ModelPackage, tmp_path: Path):
    twice = [str(folder / "b.PNG"), str(folder / "b.PNG")]
    arguments = ["predict", "--package", str(tiny_package.root), *twice, "--save-overlay", str(tmp_path / "out")]
    assert run(root, arguments) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["b.PNG.2.overlay.jpg", "b.PNG.overlay.jpg"]


def test_a_wrong_package_is_one_line_on_stderr(capsys, folder: Path):
    assert run(root, ["predict", "--package", str(folder), str(folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (3000, 2), (2, 3000), (480, 640), (3000, 4000)])
def test_an_overlay_has_room_for_its_text_at_any_size(size):
    labels = ("can", "a name that is much too long to fit beside a bar", "Müsli 瓶", "")
    answer = ClassificationAnswer((0.1, 0.6, 0.3, 0.0), labels)
    height, width = size
    canvas = draw_overlay(np.full((height, width, 3), 90, np.uint8), answer)
    assert canvas.width >= 360
    assert max(canvas.size) <= 2048 + 600
    with Image.open(io.BytesIO(to_jpeg(canvas))) as again:
        assert again.size == canvas.size
    pixels = np.asarray(canvas)
    assert (pixels < 60).all(axis=-1).any()  # dark text
    assert (pixels == 255).all(axis=-1).any()  # on white


@pytest.mark.slow
def test_masks_become_images_of_instance_numbers(capsys, folder: Path, tmp_path: Path, detector_package):
    package, target = detector_package("maskrcnn_resnet18_fpn").root, tmp_path / "masks"
    arguments = ["predict", "--package", str(package), str(folder), "--save-masks", str(target), "-o", "jsonl"]
    assert run(root, [*arguments, "--save-overlay", str(target), "--backend", "onnxruntime"]) == 0
    captured = capsys.readouterr()
    assert "masks are written as PNG" in captured.err
    answers = {Path(row["file"]).name: row["boxes"] for row in map(json.loads, captured.out.splitlines())}
    for name in ("b.PNG", "c.png", "deep/a.png"):
        with Image.open(target / f"{name}.masks.png") as image:
            numbers = np.asarray(image)
            assert image.mode == "L"
        assert numbers.shape == (80, 96)
        assert numbers.any()
        assert set(np.unique(numbers)) <= {*range(len(answers[Path(name).name]) + 1)}
        assert (target / f"{name}.overlay.jpg").is_file()


def test_masks_need_a_package_of_segmentation(capsys, folder: Path, tmp_path: Path, tiny_package: ModelPackage):
    arguments = ["predict", "--package", str(tiny_package.root), str(folder), "--save-masks", str(tmp_path / "masks")]
    assert run(root, arguments) == 1
    assert "needs a package of instance segmentation" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_objects_below_the_threshold_are_left_out(capsys, drawn_images, detector_package, tiny_package: ModelPackage):
    package, file = str(detector_package("yolov5").root), str(drawn_images[0])

    def boxes(*flags: str):
        assert run(root, ["predict", "--package", package, file, *flags]) == 0
        return json.loads(capsys.readouterr().out)[0]["boxes"]

    everything = boxes()
    middle = everything[len(everything) // 2]["score"]
    assert boxes("--threshold", str(middle)) == [box for box in everything if box["score"] >= middle]
    assert run(root, ["predict", "--package", package, file, "--threshold", "0.01"]) == 1
    assert "at least box_score_thresh of the package's settings.json, 0.05" in capsys.readouterr().err
    assert run(root, ["predict", "--package", str(tiny_package.root), file, "--threshold", "0.5"]) == 1
    assert "--threshold is for scores of objects" in capsys.readouterr().err
