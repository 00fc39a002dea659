import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearsight.cli import root
from clearsight.console import run
from clearsight.runs.package import ModelPackage


@pytest.fixture
def arguments(tiny_package: ModelPackage) -> list[str]:
    return ["explain", "--package", str(tiny_package.root), "--algorithm", "guided_backprop"]


def test_images_and_arrays_of_every_label_are_written(capsys, arguments, drawn_images: list[Path], tmp_path: Path):
    files = [str(file) for file in drawn_images[:2]]
    flags = ["--target-label", "carton", "can", "--save", str(tmp_path / "out"), "-o", "jsonl"]
    assert run(root, [*arguments, *files, *flags]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["file"], row["label"]) for row in rows] == [(f, label) for f in files for label in ("carton", "can")]
    for row in rows:
        with Image.open(row["picture"]) as image:
            assert (image.format, image.size) == ("PNG", (128, 128))
        array = np.load(row["array"])
        assert (array.shape, array.dtype) == ((3, 64, 64), np.float32)
        assert np.abs(array).max() > 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names[:2] == ["00.png.can.guided_backprop.npy", "00.png.can.guided_backprop.png"]
    assert len(names) == 8


def test_boxes_of_a_detector_are_explained_by_index(capsys, detector_package, drawn_images, tmp_path: Path):
    package, file = str(detector_package("yolov5").root), str(drawn_images[0])
    flags = ["--algorithm", "odam", "--detections", "2,0", "--target", "box", "--details", "--save", str(tmp_path)]
    assert run(root, ["explain", "--package", package, file, *flags]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["index"], row["algorithm"]) for row in rows] == [(2, "odam"), (0, "odam")]
    for row in rows:
        assert row["details"]["target"] == "box"
        assert row["details"]["warnings"] == [] or np.load(row["array"]).max() == 0
        assert np.load(row["array"]).shape == (53, 64)
        assert Path(row["picture"]).name == f"00.png.{row['index']}.{row['label']}.odam.png"
        with Image.open(row["picture"]) as image:
            assert image.size == (128, 106)
    assert run(root, ["explain", "--package", package, file, "--detections", "all", "-o", "jsonl"]) == 0
    indices = [json.loads(line)["index"] for line in capsys.readouterr().out.splitlines()]
    assert indices == list(range(len(indices)))
    assert len(indices) > 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--algorithm", "xrai"], "--algorithm must be one of odam, d_rise for image_object_detection, but got xrai"),
        (["--target", "mask"], "'target' must be one of score, box"),
        (["--detections", "x"], "'detections' must be 'all' or a list"),
        (["--detections", "999"], "'detections' must be indices of the"),
    ],
)
def test_wrong_flags_for_a_detector_are_reported(capsys, detector_package, drawn_images, flags, words):
    package = str(detector_package("yolov5").root)
    assert run(root, ["explain", "--package", package, str(drawn_images[0]), *flags]) == 1
    assert words in capsys.readouterr().err


def test_details_and_other_images_are_given_where_asked(capsys, arguments, drawn_images: list[Path], tmp_path: Path):
    flags = ["--details", "--format", "heatmap", "--save", str(tmp_path)]
    arguments[arguments.index("guided_backprop")] = "xrai"
    more = ["--n-steps", "2", "--full", "--baseline", "black", "--contrast-label", "water_bottle"]
    assert run(root, [*arguments, str(drawn_images[0]), *flags, *more]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["details"]["n_steps_used"], row["details"]["baseline"]) == (2, "black")
    assert 0 <= row["details"]["deletion_auc"] <= 1
    with Image.open(row["picture"]) as image:
        assert image.size == (64, 64)


def test_the_table_shows_label_and_probability(capsys, arguments, drawn_images: list[Path]):
    assert run(root, [*arguments, str(drawn_images[0]), "-o", "table"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "label", "probability", "algorithm"]
    assert line.split()[-1] == "guided_backprop"


def test_unreadable_images_are_named_and_the_others_explained(capsys, arguments, drawn_images, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(drawn_images[0].read_bytes()[:200])
    files = [str(tmp_path / "gone.png"), str(broken), str(drawn_images[0])]
    assert run(root, [*arguments, *files, "--output", "jsonl"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["file"] for line in captured.out.splitlines()] == files[2:]
    lines = captured.err.splitlines()
    assert [line.split(": ")[0].rsplit("/")[-1] for line in lines] == ["gone.png", "broken.png", "error"]
    assert "2 of 3 pictures" in lines[-1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target-label", "cam"], "did you mean 'can'?"),
        (["--n-steps", "1"], "'n_steps' must be"),
        (["--threshold", "2"], "'confidence_score_threshold_multilabel' must be"),
        (["--max-seconds", "-1"], "'max_seconds' must be"),
        (["--algorithm", "grad"], "'grad' is not one of"),
        (["--baseline", "grey"], "'grey' is not one of"),
    ],
)
def test_a_wrong_flag_is_reported_without_a_traceback(capsys, arguments, drawn_images, flags, words):
    assert run(root, [*arguments, str(drawn_images[0]), *flags]) in (1, 2)
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_a_folder_that_cannot_be_created_is_reported_before_loading(capsys, arguments, drawn_images, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(root, [*arguments, str(drawn_images[0]), "--save", str(tmp_path / "file")]) == 1
    assert "--save must name a folder" in capsys.readouterr().err


def test_an_interrupted_command_keeps_what_it_wrote(arguments, drawn_images, tmp_path, monkeypatch):
    from clearsight.handlers.explain.answering.scoring import ExplainingScorer

    explain = ExplainingScorer.explain
    seen = []

    def interrupted(self, image_file, parameters):
        seen.append(image_file)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return explain(self, image_file, parameters)

    monkeypatch.setattr(ExplainingScorer, "explain", interrupted)
    files = [str(file) for file in drawn_images[:3]]
    assert run(root, [*arguments, *files, "--save", str(tmp_path)]) == 130
    kept = sorted(file.suffix for file in tmp_path.iterdir())
    assert kept == [".npy", ".png"]
    for file in tmp_path.glob("*.png"):
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            image.load()


def test_the_help_has_examples(capsys):
    assert run(root, ["explain", "--help"]) == 0
    assert capsys.readouterr().out.count("clearsight explain --package") == 6
