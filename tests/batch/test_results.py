"""The files of results: their forms against the readers of Azure's notebooks and pandas, and how they come to be."""

import ast
import csv
import errno
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clearsight.errors import Conflict, UserError
from clearsight.files import os_error_message
from clearsight.serving.batch.parts import Outcome
from clearsight.serving.batch.results.forms import FORMS, Form, choose_form
from clearsight.serving.batch.results.frame_settings import read_frame_settings
from clearsight.serving.batch.results.new_file import NewFile
from clearsight.serving.batch.results.rows import RowLayout
from clearsight.serving.batch.results.write import Counts, require_free, write_results
from clearsight.tasks import Task
from clearsight.wire.encoding import shortest
from tests.conftest import CheckRows

CLASSES = RowLayout(Task.MULTI_CLASS, is_recursive=True)
OBJECTS = RowLayout(Task.SEGMENTATION, is_recursive=True)

# A carriage return is left out where pandas is the oracle: up to Python 3.12 it writes one that its reader cannot read.
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1, max_size=8)
_TRICKY = st.sampled_from(["it's", 'a "b"', "c, d", "e\nf", "ß ü 文", "None", "True", "[1]", " ", "'\"'", "x\\ny"])
_LABEL = _TRICKY | _TEXT
_NUMBER = st.floats(0, 1)
_NAME = st.lists(_LABEL.map(lambda text: text.replace("/", "_")), min_size=1, max_size=2).map("/".join)


@st.composite
def _class_answers(draw: st.DrawFn) -> dict[str, Any]:
    labels = draw(st.lists(_LABEL, min_size=1, max_size=4))
    return {"probs": draw(st.lists(_NUMBER, min_size=len(labels), max_size=len(labels))), "labels": labels}


@st.composite
def _boxes(draw: st.DrawFn) -> dict[str, Any]:
    corners = dict(zip(("topX", "topY", "bottomX", "bottomY"), draw(st.tuples(*[_NUMBER] * 4)), strict=True))
    box = {"box": corners, "label": draw(_LABEL), "score": draw(_NUMBER)}
    if draw(st.booleans()):
        box["polygon"] = draw(st.lists(st.lists(_NUMBER, max_size=6), max_size=2))
    if draw(st.booleans()):
        box["rle"] = {"size": [2, 3], "counts": draw(_LABEL), "crowd": draw(st.sampled_from([None, True]))}
    return box


_CLASS_ROWS = st.lists(st.tuples(_NAME, st.integers(0, 3), _class_answers()), max_size=4)
_BOX_ROWS = st.lists(
    st.tuples(_NAME, st.integers(0, 3), st.lists(_boxes(), max_size=3).map(lambda boxes: {"boxes": boxes})), max_size=4
)
_Rows = list[tuple[str, int, dict[str, Any]]]


def outcomes(rows: _Rows) -> list[Outcome]:
    return [Outcome(name, row, answer) for name, row, answer in rows]


def written(rows: _Rows, form: Form | str, layout: RowLayout) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = FORMS[form] if isinstance(form, str) else form
        counts = write_results(outcomes(rows), chosen, layout, folder / "out", folder / "logs")
        assert (counts.num_ok, counts.num_failed, counts.failures) == (len(rows), 0, {})
        assert sorted(file.name for file in folder.iterdir()) == ["logs", "out"]
        assert [*(folder / "logs" / "user").iterdir()] == []
        return (folder / "out").read_bytes()


def frame_of(rows: _Rows, keys: list[str], columns: list[str]) -> pd.DataFrame:
    """The frame that MLflow's model gives, with the file beside it."""
    cells = {
        column: pd.Series([answer[key] for _, _, answer in rows], dtype=object)
        for key, column in zip(keys, columns, strict=True)
    }
    frame = pd.DataFrame({**cells, "file": [name for name, _, _ in rows]})
    frame.index = pd.Index([row for _, row, _ in rows])
    return frame


@settings(max_examples=12, deadline=None)
@given(_CLASS_ROWS, _BOX_ROWS)
def test_csv_is_what_pandas_writes_and_notebooks_read(class_rows: _Rows, box_rows: _Rows) -> None:
    for rows, layout, keys, columns in (
        (class_rows, CLASSES, ["probs", "labels"], ["probs", "labels"]),
        (box_rows, OBJECTS, ["boxes"], ["preds"]),
    ):
        frame = frame_of(rows, keys, columns)
        content = written(rows, "csv", layout)
        assert content.decode() == frame.to_csv(sep=",", header=False, index=True)
        if not rows:
            continue
        names = ["row", *columns, "file"]
        table = pd.read_csv(io.BytesIO(content), header=None, names=names, keep_default_na=False, dtype={"file": str})
        assert [*table["file"]] == [name for name, _, _ in rows]
        assert [*table["row"]] == [row for _, row, _ in rows]
        for key, column in zip(keys, columns, strict=True):
            assert [ast.literal_eval(cell) for cell in table[column]] == [answer[key] for _, _, answer in rows]


@settings(max_examples=12, deadline=None)
@given(_CLASS_ROWS, _BOX_ROWS)
def test_space_is_what_pandas_writes_and_notebooks_read(class_rows: _Rows, box_rows: _Rows) -> None:
    best = [
        (name, max(zip(a["probs"], a["labels"], strict=True), key=lambda pair: pair[0])) for name, _, a in class_rows
    ]
    boxes = [(name, box) for name, _, answer in box_rows for box in answer["boxes"]]
    for rows, layout, frame in (
        (class_rows, CLASSES, pd.DataFrame([(name, label, prob) for name, (prob, label) in best])),
        (box_rows, OBJECTS, pd.DataFrame([(n, b["label"], b["score"], *b["box"].values()) for n, b in boxes])),
    ):
        content = written(rows, "space", layout)
        assert content.decode() == (frame.to_csv(sep=" ", header=False, index=False) if len(frame) else "")
        if content:
            table = pd.read_csv(
                io.BytesIO(content), sep=" ", header=None, keep_default_na=False, dtype={0: str, 1: str}
            )
            assert [*table[0]] == [*frame[0]]
            assert [*table[1]] == [*frame[1]]


@settings(max_examples=12, deadline=None)
@given(_CLASS_ROWS, _BOX_ROWS)
def test_json_lines_and_parquet_hold_the_answers(class_rows: _Rows, box_rows: _Rows) -> None:
    for rows, layout in ((class_rows, CLASSES), (box_rows, OBJECTS)):
        lines = written(rows, "jsonl", layout).decode("ascii").splitlines()
        expected = [{"filename": name, **({"row": row} if row else {}), **answer} for name, row, answer in rows]
        assert [json.loads(line) for line in lines] == expected

        table = pyarrow.parquet.read_table(io.BytesIO(written(rows, "parquet", layout)))
        assert table.column("filename").to_pylist() == [name for name, _, _ in rows]
        assert table.column("row").to_pylist() == [row for _, row, _ in rows]
        if layout is CLASSES:
            assert table.column("probs").to_pylist() == [answer["probs"] for _, _, answer in rows]
            assert table.column("labels").to_pylist() == [answer["labels"] for _, _, answer in rows]
            continue
        for found, (_, _, answer) in zip(table.column("boxes").to_pylist(), rows, strict=True):
            for box in found:
                box["rle"] = None if box["rle"] is None else json.loads(box["rle"])
            assert found == [
                {"label": b["label"], "score": b["score"], **b["box"], "polygon": b.get("polygon"), "rle": b.get("rle")}
                for b in answer["boxes"]
            ]


@settings(max_examples=60, deadline=None)
@example([5e-324], False)
@example([0.5, 1e-45, 1.1754944e-38], True)
@example([2.2250738585072014e-308, 0.99999999999, 1e-05, 0.0001], False)
@given(st.lists(_NUMBER | st.floats(0, 1, width=32), max_size=5), st.booleans())
def test_probabilities_of_csv_have_the_digits_of_repr(numbers: list[float], are_answers: bool) -> None:
    probs: list[float] = shortest(np.array(numbers, np.float32)) if are_answers else numbers
    stream = io.BytesIO()
    FORMS["csv"].open(stream, CLASSES).write("a", 0, {"probs": probs, "labels": []})
    [[_, text, _, _]] = csv.reader(io.StringIO(stream.getvalue().decode()))
    assert text == str(probs)


def test_rows_of_the_specification() -> None:
    can = {"box": {"topX": 0.25, "topY": 0.25, "bottomX": 0.75, "bottomY": 0.75}, "label": "can", "score": 0.97}
    labels = ["can", "carton", "milk_bottle", "water_bottle"]
    classified = {"probs": [0.01, 0.02, 0.95, 0.02], "labels": labels}
    flat = RowLayout(Task.DETECTION, is_recursive=False)
    boxes: _Rows = [("shelf/img_1.jpg", 0, {"boxes": [can]}), ("img_2.jpg", 0, {"boxes": []})]
    assert written(boxes, "csv", flat).decode() == (
        "0,\"[{'box': {'topX': 0.25, 'topY': 0.25, 'bottomX': 0.75, 'bottomY': 0.75}, 'label': 'can', 'score': 0.97}]\""
        ",img_1.jpg\n0,[],img_2.jpg\n"
    )
    assert written([("img_3.jpg", 0, classified)], "csv", replace(flat, task=Task.MULTI_LABEL)).decode() == (
        "0,\"[0.01, 0.02, 0.95, 0.02]\",\"['can', 'carton', 'milk_bottle', 'water_bottle']\",img_3.jpg\n"
    )
    assert written(boxes, "jsonl", flat).decode().splitlines()[0] == (
        '{"filename":"shelf/img_1.jpg","boxes":[{"box":{"topX":0.25,"topY":0.25,"bottomX":0.75,'
        '"bottomY":0.75},"label":"can","score":0.97}]}'
    )
    assert written(boxes, "space", flat).decode() == "img_1.jpg can 0.97 0.25 0.25 0.75 0.75\n"
    assert written([("a b.jpg", 0, classified)], "space", CLASSES).decode() == '"a b.jpg" milk_bottle 0.95\n'


def test_names_that_lines_or_encodings_cannot_hold(check_rows: CheckRows) -> None:
    answer = {"probs": [1.0], "labels": ["a\rb\ud800"]}

    def check(raw: bytes, expected: str) -> None:
        rows: _Rows = [(os.fsdecode(raw), 0, answer)]
        assert expected == os.fsencode(os.fsdecode(raw)).decode("utf-8", "backslashreplace")
        [[_, _, labels, file]] = csv.reader(io.StringIO(written(rows, "csv", CLASSES).decode(), newline=""))
        assert (ast.literal_eval(labels), file) == (["a\rb\ud800"], expected)
        [[file, label, _]] = csv.reader(
            io.StringIO(written(rows, "space", CLASSES).decode(), newline=""), delimiter=" "
        )
        assert (label, file) == ("a\rb\\ud800", expected)
        assert json.loads(written(rows, "jsonl", CLASSES)) == {"filename": expected, **answer}
        table = pyarrow.parquet.read_table(io.BytesIO(written(rows, "parquet", CLASSES)))
        assert table.column("filename").to_pylist() == [expected]
        assert table.column("labels").to_pylist() == [["a\rb\\ud800"]]

    check_rows(
        check,
        [
            (b"plain.jpg", "plain.jpg"),
            (b"\xff\xfe.jpg", "\\xff\\xfe.jpg"),
            ("né\udcff".encode("utf-8", "surrogateescape"), "né\\xff"),
            (b"line\nbreak\r.jpg", "line\nbreak\r.jpg"),
        ],
    )


def test_frames_follow_their_settings_as_pandas_does(tmp_path: Path, check_rows: CheckRows) -> None:
    answer = {"probs": [0.25, 1e-07], "labels": ["a 'b' \"c\"", "d,e|f"]}
    rows: _Rows = [("x;y.jpg", 0, answer), ("z|a.jpg", 2, answer)]
    frame = frame_of(rows, ["probs", "labels"], ["probs", "labels"])
    tops = pd.DataFrame(
        [(name, answer["labels"][0], 0.25) for name, _, _ in rows], columns=["file", "label", "probability"]
    )
    tops.index = frame.index
    file = tmp_path / "parallel_run_step.settings.json"

    def check(arguments: dict[str, Any]) -> None:
        file.write_text(json.dumps({"append_row": {"pandas.DataFrame.to_csv": arguments}}))
        given_settings = read_frame_settings(file)
        form = choose_form("predictions.csv", "append_row", {}, given_settings)
        expected = frame.to_csv(**{"sep": ",", "header": False, "index": True, **arguments})
        assert written(rows, form, CLASSES).decode() == expected
        form = choose_form("predictions.csv", "append_row", {"output_format": "space"}, given_settings)
        expected = tops.to_csv(**{"sep": " ", "header": False, "index": False, **arguments})
        assert written(rows, form, CLASSES).decode() == expected

    check_rows(
        check,
        [
            {},
            {"sep": "|"},
            {"sep": "\t", "header": True},
            {"header": True, "index": False},
            {"quotechar": "'", "quoting": 1},
            {"sep": ";", "quoting": 2, "header": True, "index": True},
        ],
    )


def test_unusable_frame_settings_are_named(tmp_path: Path, check_rows: CheckRows) -> None:
    file = tmp_path / "parallel_run_step.settings.json"

    def check(text: str, *words: str) -> None:
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            read_frame_settings(file)
        assert all(word in str(caught.value) for word in (str(file), *words)), caught.value

    def arguments(**values: Any) -> str:
        return json.dumps({"append_row": {"pandas.DataFrame.to_csv": values}})

    check_rows(
        lambda row: check(*row),
        [
            ("", "JSON"),
            ("[]", "JSON"),
            ("{}", "append_row"),
            (arguments(float_format="%.3f"), "float_format", "unknown key"),
            (arguments(seperator=","), "seperator"),
            (arguments(sep="::"), "sep", "one printable character"),
            (arguments(sep="\n"), "sep", "one printable character"),
            (arguments(sep='"'), "sep", "differ from quotechar"),
            (arguments(quoting=3), "quoting", "[0, 2]"),
            (arguments(header=["a"], index="maybe"), "header", "index", "2 faults"),
        ],
    )
    with pytest.raises(UserError, match="No such file"):
        read_frame_settings(tmp_path / "missing.json")


def test_the_form_follows_name_action_and_property(check_rows: CheckRows) -> None:
    def check(name: str, action: str, properties: dict[str, str], frame: dict[str, Any], expected: str) -> None:
        try:
            found = choose_form(name, action, properties, frame).name
        except UserError as error:
            found = str(error)
        assert expected in found
        assert "\n" not in found

    check_rows(
        check,
        [
            ("predictions.csv", "append_row", {}, {}, "csv"),
            ("predictions", "append_row", {}, {"sep": ";"}, "csv"),
            ("predictions.csv", "append_row", {"output_format": "csv", "owner": "me"}, {}, "csv"),
            ("predictions.csv", "append_row", {"output_format": "jsonl"}, {}, "jsonl"),
            ("out.JSONL", "append_row", {}, {}, "jsonl"),
            ("out.jsonl", "append_row", {"output_format": "jsonl"}, {}, "jsonl"),
            ("out.parquet", "append_row", {}, {}, "parquet"),
            ("predictions.txt", "append_row", {"output_format": "space"}, {"sep": ","}, "space"),
            ("predictions.csv", "summary_only", {}, {}, "none"),
            ("x.csv", "append_row", {"output_format": "parquet"}, {}, "let output_file_name end in .parquet"),
            ("x.csv", "append_row", {"output_format": "xml"}, {}, "must be one of csv, jsonl, space, but got 'xml'"),
            ("x.parquet", "append_row", {"output_format": "jsonl"}, {}, "must agree"),
            ("x.jsonl", "append_row", {}, {"sep": ";"}, "parallel_run_step.settings.json"),
        ],
    )


def test_explanations_are_columns_where_the_job_asked_for_them() -> None:
    rows: _Rows = [
        ("a", 0, {"probs": [1.0], "labels": ["x"], "visualizations": "iVBO", "attributions": [[[0.5]]]}),
        ("b", 0, {"probs": [1.0], "labels": ["x"], "visualizations": ["p", "q"]}),
    ]
    layout = replace(CLASSES, explanation_keys=("visualizations", "attributions"))
    assert written(rows, "csv", layout).decode() == (
        "0,[1.0],['x'],iVBO,[[[0.5]]],a\n0,[1.0],['x'],\"['p', 'q']\",,b\n"
    )
    table = pyarrow.parquet.read_table(io.BytesIO(written(rows, "parquet", layout)))
    assert table.column("visualizations").to_pylist() == ['"iVBO"', '["p", "q"]']
    assert table.column("attributions").to_pylist() == ["[[[0.5]]]", None]
    boxes: _Rows = [("a", 0, {"boxes": [], "explanations": []}), ("b", 0, {"boxes": []})]
    table = pyarrow.parquet.read_table(io.BytesIO(written(boxes, "parquet", OBJECTS)))
    assert table.column("explanations").to_pylist() == ["[]", None]


def many(count: int, length: int = 1) -> Iterator[Outcome]:
    for n in range(count):
        yield Outcome(
            f"{n}.jpg", 0, {"probs": [(n + k / length) / count for k in range(length)], "labels": ["a"] * length}
        )


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("csv", "jsonl"):
        peaks = []
        for count in (200, 2000):
            tracemalloc.start()
            write_results(many(count), FORMS[form], CLASSES, tmp_path / f"{count}.{form}", tmp_path)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < peaks[0] + 20_000, (form, peaks)
    # Parquet is written in row groups of so many rows, or of rows of so many characters.
    for limit, value, expected in (("_MAX_ROWS", 4, [4, 4, 2]), ("_MAX_WEIGHT", 25, [3, 3, 3, 1])):
        with monkeypatch.context() as patch:
            patch.setattr(f"clearsight.serving.batch.results.parquet.{limit}", value)
            write_results(many(10), FORMS["parquet"], CLASSES, tmp_path / limit, tmp_path)
        groups = pyarrow.parquet.ParquetFile(tmp_path / limit).metadata
        assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == expected


def failing() -> list[Outcome]:
    return [
        Outcome("a.jpg", 0, {"probs": [1.0], "labels": ["x"]}),
        Outcome("b\n\udcff.jpg", 0, None, "must be a picture", "bad_image"),
        Outcome("t.csv", 0, None, "gone", "input_changed"),
        Outcome("t.csv", 1, {"probs": [0.5], "labels": ["x"]}),
        Outcome("t.csv", 2, None, "must be\na picture", "bad_image"),
        Outcome("u.jpg", 0, None),
    ]


def test_failures_stand_in_files_of_their_own(tmp_path: Path) -> None:
    target, logs = tmp_path / "out" / "predictions.csv", tmp_path / "logs"
    counts = write_results(failing(), FORMS["csv"], CLASSES, target, logs)
    assert counts == Counts(4, 2, 4, {"bad_image": 2, "error": 1, "input_changed": 1})
    assert target.read_text() == "0,[1.0],['x'],a.jpg\n1,[0.5],['x'],t.csv\n"
    lines = (tmp_path / "out" / "failed_files.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"filename": "b\n\\xff.jpg", "error": "must be a picture", "code": "bad_image", "row": 0},
        {"filename": "t.csv", "error": "gone", "code": "input_changed", "row": 0},
        {"filename": "t.csv", "error": "must be\na picture", "code": "bad_image", "row": 2},
        {"filename": "u.jpg", "error": None, "code": "error", "row": 0},
    ]
    assert (logs / "user" / "error.txt").stat().st_mode & 0o777 == 0o600
    assert (logs / "user" / "error.txt").read_text().splitlines() == [
        "'b\\n\\\\xff.jpg': must be a picture [bad_image]",
        "t.csv: gone [input_changed]",
        "t.csv, row 2: must be a picture [bad_image]",
        "u.jpg:  [error]",
    ]
    alone = tmp_path / "alone"
    assert write_results(failing(), FORMS["none"], CLASSES, alone / "unused", logs).num_failed == 4
    assert [file.name for file in alone.iterdir()] == ["failed_files.jsonl"]


def test_results_are_never_written_over_others(tmp_path: Path) -> None:
    target, listed, logs = tmp_path / "out.csv", tmp_path / "failed_files.jsonl", tmp_path / "logs"

    def write(replaces: bool = False) -> Counts:
        return write_results(failing(), FORMS["csv"], CLASSES, target, logs, replaces=replaces)

    require_free(target, FORMS["csv"])
    write()
    whole, failures = target.read_bytes(), listed.read_bytes()
    for file in (target, listed):
        content = file.read_bytes()
        file.write_bytes(b"others\n")
        with pytest.raises(Conflict, match=f"never written over others, but {file} exists"):
            write()
        assert file.read_bytes() == b"others\n"
        with pytest.raises(Conflict, match="exists"):
            require_free(target, FORMS["csv"])
        file.write_bytes(content)
    write()  # the same bytes: the job was killed before it could record its end
    assert (target.read_bytes(), listed.read_bytes()) == (whole, failures)
    listed.unlink()
    require_free(target, FORMS["none"])
    # A conflict of the results leaves no list of failures behind.
    target.write_bytes(b"others\n")
    with pytest.raises(Conflict):
        write()
    assert not listed.exists()
    write(replaces=True)
    assert (target.read_bytes(), listed.read_bytes()) == (whole, failures)
    # A list of failures that is somebody else's would be taken for this job's.
    target.unlink()
    with pytest.raises(Conflict, match=str(listed)):
        write_results(many(2), FORMS["csv"], CLASSES, target, logs)
    write_results(many(2), FORMS["csv"], CLASSES, target, logs, replaces=True)
    assert not listed.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["logs", "out.csv"]


def test_what_is_interrupted_or_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Outcome]:
        yield from failing()
        raise KeyboardInterrupt

    for form, count, length in (("csv", 5, 20_000), ("space", 3000, 1), ("jsonl", 5, 20_000), ("parquet", 5, 20_000)):
        folder = tmp_path / form
        with pytest.raises(KeyboardInterrupt):
            write_results(interrupted(), FORMS[form], CLASSES, folder / "out", folder)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # as a full disk: writing fails in the middle
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                write_results(many(count, length), FORMS[form], CLASSES, folder / "out", folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert os_error_message(caught.value) == f"{folder / 'out'}: File too large"
        assert [*folder.rglob("*")] == [folder / "user"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as caught:
        write_results(many(1), FORMS["csv"], CLASSES, tmp_path / "file" / "out", tmp_path)
    assert str(tmp_path / "file") in os_error_message(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir(mode=0o555)
    with pytest.raises(PermissionError) as caught:
        write_results(many(1), FORMS["csv"], CLASSES, folder / "out", tmp_path)
    assert os_error_message(caught.value).startswith(f"{folder / 'out'}: Permission denied; change its permissions")


def test_two_jobs_do_not_write_the_same_file_at_once(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (tmp_path / ".out.tmp").write_bytes(b"left by a process that was killed")
    with NewFile(target) as file:
        file.stream.write(b"first")
        with pytest.raises(Conflict, match="another job"), NewFile(target):
            pass
        assert file.publish()
    assert target.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [target]


_KILLED = """
import os, sys
from pathlib import Path
from clearsight.serving.batch.parts import Outcome
from clearsight.serving.batch.results.forms import FORMS
from clearsight.serving.batch.results.rows import RowLayout
from clearsight.serving.batch.results.write import write_results
from clearsight.tasks import Task
from clearsight.wire.encoding import shortest

outcomes = [Outcome("a", 0, {"probs": [1.0], "labels": ["x"]}), Outcome("b", 0, None, "broken", "bad_image")]
calls = {"open", "os.link", "os.remove", "os.rename", "os.mkdir", "fcntl.flock"}

def write(folder):
    write_results(outcomes, FORMS["csv"], RowLayout(Task.MULTI_CLASS, False), folder / "out" / "r.csv", folder / "logs")

def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

def write_until(call, folder):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in calls:
            count += 1
            if count == call:
                os._exit(9)
    sys.addaudithook(hook)
    write(folder)
    os._exit(0)

root = Path(sys.argv[1])
write(root / "undisturbed")
expected, status, call = files(root / "undisturbed"), 9, 0
while status == 9:
    call += 1
    folder = root / str(call)
    if (child := os.fork()) == 0:
        write_until(call, folder)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = files(folder)
    assert left.get("out/r.csv") in (None, expected["out/r.csv"]), (call, left)
    write(folder)
    assert files(folder) == expected, (call, left, files(folder))
assert status == 0
print(call - 1)
"""


def test_a_job_that_is_killed_between_any_two_calls_ends_with_the_same_files(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 15


def test_a_file_that_has_two_names_is_not_emptied(tmp_path: Path) -> None:
    target, temporary = tmp_path / "out", tmp_path / ".out.tmp"
    target.write_bytes(b"whole")
    os.link(target, temporary)  # killed between giving the name and removing the hidden one
    with NewFile(target) as file:
        file.stream.write(b"half")
        file.stream.flush()
    assert target.read_bytes() == b"whole"
    assert [*tmp_path.iterdir()] == [target]


def test_a_file_system_without_links_keeps_the_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "out"
    for content in (b"first", b"second"):
        with NewFile(target) as file:
            file.stream.write(content)
            if content == b"first":
                assert file.publish()
            else:
                with pytest.raises(Conflict):
                    file.publish()
    assert target.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [target]
