"""What lies beside the results: images, explanations, the summary, and the names of files made from entries."""

import base64
import io
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clearsight.documents.settings import ClassificationSettings, SegmentationSettings
from clearsight.handlers.explain.answering.numbers import encode_attribution
from clearsight.handlers.scoring.scorer import Scorer
from clearsight.serving.batch.results.explanations import store_explanations
from clearsight.serving.batch.results.images import write_images
from clearsight.serving.batch.results.names import derived_path
from clearsight.serving.batch.results.summary import Overview, summarize, write_overview, write_summary
from clearsight.serving.batch.results.write import Counts
from clearsight.serving.batch.row_outputs import RowOutputs
from clearsight.tasks import Task
from clearsight.wire.answers import ClassificationAnswer, DetectedObject, DetectionAnswer
from tests.conftest import CheckRows

_PARTS = st.text(st.sampled_from("a./%\\\0ß\udcff\ud800u8 \n"), max_size=6) | st.sampled_from(
    ["..", "x" * 300, "ß" * 200]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(_PARTS, min_size=1, max_size=3).map("/".join), st.none() | st.integers(0, 2)), max_size=6
    )
)
def test_files_made_from_entries_stay_apart_and_below_their_folder(entries: list[tuple[str, int | None]]) -> None:
    paths = {entry: derived_path(*entry, "png") for entry in entries}
    assert len(set(paths.values())) == len(paths)
    for path in paths.values():
        assert not path.is_absolute()
        assert not {"..", ".", ""} & set(path.parts)
        assert all(0 < len(part.encode("utf-8", "surrogateescape")) <= 240 and "\0" not in part for part in path.parts)


def test_names_of_files_made_from_entries(check_rows: CheckRows) -> None:
    def check(name: str, row: int | None, expected: str) -> None:
        assert derived_path(name, row, "overlay.jpg") == PurePosixPath(expected)

    check_rows(
        check,
        [
            ("a.jpg", None, "a.jpg.overlay.jpg"),
            ("a.jpg", 0, "a.jpg.row0.overlay.jpg"),
            ("t/b.csv", 12, "t/b.csv.row12.overlay.jpg"),
            ("../../etc/x", None, "%2E%2E/%2E%2E/etc/x.overlay.jpg"),
            ("/etc//x", None, "%/etc/%/x.overlay.jpg"),
            ("50%/..", None, "50%25/%2E%2E.overlay.jpg"),
            ("ü\n\udcff.jpg", None, "ü\n\udcff.jpg.overlay.jpg"),
        ],
    )


LABELS = ("can", "carton")


def scorer(settings: Any, task: Task) -> Scorer:
    """What the writer of images reads of a scorer."""
    package = SimpleNamespace(root=Path("fridge"))
    return cast(Scorer, SimpleNamespace(settings=settings, labels=LABELS, task=task, package=package))


def image_bytes(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 200)).save(stream, "PNG")
    return stream.getvalue()


def test_masks_and_overlays_are_the_same_files_when_written_twice(tmp_path: Path) -> None:
    left = ((0.0, 0.0, 0.5, 0.0, 0.5, 1.0, 0.0, 1.0),)
    answer = DetectionAnswer((DetectedObject((0.0, 0.0, 0.5, 1.0), "can", 0.9, left),))
    segmenter = scorer(SegmentationSettings(export_as_image=True), Task.SEGMENTATION)
    outputs = RowOutputs(overlays=True, masks=True)
    before: dict[str, bytes] = {}
    for _ in range(2):
        for name, row in (("one/a.jpg", None), ("two/a.jpg", None), ("t.csv", 0), ("t.csv", 1)):
            write_images(name, row, answer, image_bytes(40, 20), outputs, segmenter, tmp_path)
        files = {str(file.relative_to(tmp_path)): file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
        assert before in ({}, files)
        before = files
    stems = ("one/a.jpg", "two/a.jpg", "t.csv.row0", "t.csv.row1")
    assert set(before) == {
        path for stem in stems for path in (f"masks/{stem}.masks.png", f"overlays/{stem}.overlay.jpg")
    }
    with Image.open(tmp_path / "masks" / "one" / "a.jpg.masks.png") as image:
        mask = np.asarray(image)
    assert mask.shape == (20, 40)
    assert mask[:, :19].tolist() == [[1] * 19] * 20
    assert not mask[:, 22:].any()
    with Image.open(tmp_path / "overlays" / "one" / "a.jpg.overlay.jpg") as image:
        assert image.format == "JPEG"


def test_images_that_nobody_asked_for_are_not_written(tmp_path: Path) -> None:
    classifier = scorer(ClassificationSettings(), Task.MULTI_CLASS)
    answer = ClassificationAnswer((0.9, 0.1), LABELS)
    write_images("a.jpg", None, answer, b"is not read", RowOutputs(), classifier, tmp_path)
    assert [*tmp_path.iterdir()] == []
    write_images("a.jpg", None, answer, image_bytes(300, 200), RowOutputs(overlays=True), classifier, tmp_path)
    assert [file.name for file in tmp_path.rglob("*.*")] == ["a.jpg.overlay.jpg"]


def test_explanations_become_files_that_the_answer_names(tmp_path: Path) -> None:
    one, two = base64.b64encode(b"png one").decode(), base64.b64encode(b"png two").decode()
    array = np.linspace(-1, 1, 3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    nested = array.tolist()
    plain = {"probs": [1.0], "labels": ["x"]}
    single = {**plain, "visualizations": one, "attributions": nested, "explanation_details": {"rise": 1.0}}
    assert store_explanations("s/a.jpg", None, single, tmp_path) == {
        **plain,
        "visualizations": "explanations/s/a.jpg.png",
        "attributions": "explanations/s/a.jpg.npy",
        "explanation_details": {"rise": 1.0},
    }
    assert single["visualizations"] is one
    assert (tmp_path / "explanations" / "s" / "a.jpg.png").read_bytes() == b"png one"
    assert np.array_equal(np.load(tmp_path / "explanations" / "s" / "a.jpg.npy"), array)
    several = {**plain, "visualizations": [one, two], "attributions": [nested, nested]}
    stored = store_explanations("t.csv", 3, several, tmp_path)
    assert stored["visualizations"] == ["explanations/t.csv.row3.0.png", "explanations/t.csv.row3.1.png"]
    assert stored["attributions"] == ["explanations/t.csv.row3.0.npy", "explanations/t.csv.row3.1.npy"]
    assert (tmp_path / "explanations" / "t.csv.row3.1.png").read_bytes() == b"png two"
    for form, tolerance in (("float32_base64", 0), ("float16_base64", 1e-3)):
        document = json.loads(encode_attribution(array, cast(Any, form)))
        path = store_explanations("b", None, {"attributions": document}, tmp_path)["attributions"]
        assert np.abs(np.load(tmp_path / path) - array).max() <= tolerance
        assert store_explanations("b", None, {"attributions": [document]}, tmp_path)["attributions"] == [
            "explanations/b.0.npy"
        ]
    boxes = {
        "boxes": [],
        "explanations": [{"index": 4, "visualizations": one, "attributions": [[0.0, 1.0]]}, {"index": 5}],
    }
    assert store_explanations("c.jpg", None, boxes, tmp_path)["explanations"] == [
        {"index": 4, "visualizations": "explanations/c.jpg.4.png", "attributions": "explanations/c.jpg.4.npy"},
        {"index": 5},
    ]
    assert np.load(tmp_path / "explanations" / "c.jpg.4.npy").tolist() == [[0.0, 1.0]]
    for unexplained in (plain, {"boxes": []}, {**plain, "visualizations": [], "attributions": []}):
        assert store_explanations("d", None, unexplained, tmp_path) == unexplained


def test_the_summary_counts(tmp_path: Path) -> None:
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    counts = Counts(num_files=9, num_ok=8, num_failed=2, failures={"bad_image": 2})

    def summary(seconds: float) -> dict[str, Any]:
        ended = started + timedelta(seconds=seconds)
        about = {"form": "csv", "output_file": tmp_path / "out.csv", "package": "azureml:fridge:1"}
        write_summary(tmp_path, summarize(counts, started, ended, **about, backend="openvino", precision="f32"))
        return dict(json.loads((tmp_path / "summary.json").read_text()))

    assert summary(4) == {
        "num_files": 9,
        "num_rows": 10,
        "num_ok": 8,
        "num_failed": 2,
        "failures": {"bad_image": 2},
        "started": "2026-01-02T02:04:05Z",
        "ended": "2026-01-02T02:04:09Z",
        "seconds": 4.0,
        "images_per_s": 2.5,
        "form": "csv",
        "output_file": str(tmp_path / "out.csv"),
        "package": "azureml:fridge:1",
        "backend": "openvino",
        "precision": "f32",
    }
    assert summary(0)["images_per_s"] is None


def test_the_overview_says_how_far_the_job_is(tmp_path: Path) -> None:
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    running = Overview("Running", 1000, 190, 10, 100, 20, started, started + timedelta(seconds=80))
    write_overview(tmp_path, running)
    assert (tmp_path / "job_progress_overview.txt").read_text().splitlines() == [
        "State:        Running",
        "Images:       200 of 1000 done, 190 scored, 10 failed",
        "Mini-batches: 20 of 100 done",
        "Speed:        2.5 images/s",
        "Started:      2026-01-02T03:04:05Z",
        "Updated:      2026-01-02T03:05:25Z, after 0:01:20",
        "Time left:    about 0:05:20",
    ]
    assert "Time left" not in str(Overview("Running", 5, 0, 0, 1, 0, started, started))
    assert "Time left" not in str(Overview("Completed", 5, 5, 0, 1, 1, started, started + timedelta(seconds=1)))
