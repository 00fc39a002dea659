"""`clearsight.batch.run` and `clearsight predict --results`: a package, an input, a file of results."""

import ast
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clearsight.batch import Stopped, run
from clearsight.errors import ClearsightError, Conflict
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.package import ModelPackage
from clearsight.runs.stop_requests import StopRequests
from clearsight.serving.batch.cli_predict import predict
from clearsight.wire.encoding import to_document


@pytest.fixture
def photos(drawn_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five images, two of one name in different folders, and a broken one."""
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path / "workspace"))
    folder = tmp_path / "photos"
    for number, name in enumerate(["a.png", "b, c.png", "below/a.png", "below/d'.png", "z.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn_images[number], folder / name)
    (folder / "broken.jpg").write_bytes(drawn_images[0].read_bytes()[:200])
    return folder


def test_an_interrupted_job_goes_on_and_writes_the_answers_of_the_scorer(
    photos: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    output, stop = tmp_path / "predictions.csv", StopRequests()

    def on_event(kind: str, **fields: Any) -> None:
        if kind == "worker":
            stop.request()

    options: dict[str, Any] = {"recursive": True, "mini_batch_size": 2, "overlays": True}
    with pytest.raises(Stopped, match=r"the same command goes on; .*predictions.csv.partial holds what is done"):
        run(tiny_package, photos, output, **options, on_event=on_event, stop=stop)
    assert not output.exists()
    with pytest.raises(Conflict, match=r"mini_batch_size \(2, now 3\)"):
        run(tiny_package, photos, output, recursive=True, mini_batch_size=3)
    with pytest.raises(Conflict, match=r"overlays \(yes, now no\)"):
        run(tiny_package, photos, output, recursive=True, mini_batch_size=2)
    with pytest.raises(Conflict, match=r"a job over '.*photos', but got '.*below'"):
        run(tiny_package, photos / "below", output, **options)

    summary = run(tiny_package, photos, output, **options)
    assert (summary.num_ok, summary.num_failed, summary.failures) == (5, 1, {"bad_image": 1})
    assert not output.with_name("predictions.csv.partial").exists()
    names = ["a.png", "b, c.png", "below/a.png", "below/d'.png", "z.png"]
    answers = load_scorer(tiny_package, summary.backend).score([(photos / name).read_bytes() for name in names])
    with output.open(newline="") as stream:
        rows = {row[3]: row for row in csv.reader(stream)}
    assert set(rows) == set(names)
    for name, answer in zip(names, answers, strict=True):
        expected = json.loads(json.dumps(to_document(answer)))
        assert rows[name][0] == "0"
        assert [ast.literal_eval(cell) for cell in rows[name][1:3]] == [expected["probs"], expected["labels"]]
    [failure] = map(json.loads, (tmp_path / "failed_files.jsonl").read_text().splitlines())
    assert (failure["filename"], failure["code"]) == ("broken.jpg", "bad_image")
    drawn = [file for file in (tmp_path / "overlays").rglob("*") if file.is_file()]
    assert {str(file.relative_to(tmp_path / "overlays")) for file in drawn} == {f"{name}.overlay.jpg" for name in names}
    with pytest.raises(Conflict, match=r"predictions\.csv"):
        run(tiny_package, photos, output)
    (tmp_path / "failed_files.jsonl").unlink()
    with pytest.raises(Conflict, match=r"never written over others, but .*overlays exists"):
        run(tiny_package, photos / "below", tmp_path / "other.jsonl", overlays=True)


def test_what_cannot_be_used_is_one_line(photos: Path, tiny_package: ModelPackage, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        (["empty"], "the input must hold pictures"),
        (["nowhere"], "does not exist"),
        (["photos", "empty"], "--results needs one input"),
        (["photos", "-o", "jsonl"], "--output cannot be used with --results"),
        (["photos", "--workers", "0"], "0 is not in the range"),
        (["photos", "--backend", "eager", "--package", str(tmp_path)], "must hold manifest.json"),
    ):
        package = [] if "--package" in arguments else ["--package", str(tiny_package.root)]
        where = [str(tmp_path / one) if one in ("empty", "nowhere", "photos") else one for one in arguments]
        result = CliRunner().invoke(predict, [*where, *package, "--results", str(tmp_path / "out.jsonl")])
        assert result.exit_code != 0, arguments
        assert expected in result.output + str(result.exception), arguments
        assert not (tmp_path / "out.jsonl").exists()
        assert not (tmp_path / "out.jsonl.partial").exists(), arguments
    result = CliRunner().invoke(predict, [str(photos), "--package", str(tiny_package.root), "--recursive"])
    assert "--recursive need --results FILE" in result.output


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_where_it_was(
    photos: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", "from clearsight.cli import main; main()", "predict", str(photos)]
    command = [*program, "--package", str(tiny_package.root), "--recursive", "--mini-batch-size", "1"]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    subprocess.run([*command, "--results", str(whole)], capture_output=True, timeout=120, check=False)
    (tmp_path / "failed_files.jsonl").unlink()
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--results", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = set((tmp_path / "killed.jsonl.partial/parts").glob("?.jsonl"))
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if set((tmp_path / "killed.jsonl.partial/parts").glob("?.jsonl")) > before:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait(60)
    subprocess.run([*command, "--results", str(killed)], capture_output=True, timeout=120, check=False)
    assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_limits_may_change_between_attempts_and_a_job_without_answers_leaves_no_results(
    photos: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    output = tmp_path / "predictions.jsonl"
    with pytest.raises(ClearsightError, match="at most 0 files may fail"):
        run(tiny_package, photos, output, error_threshold=0, mini_batch_size=2)
    assert run(tiny_package, photos, output, mini_batch_size=2, workers=2).num_failed == 1

    (tmp_path / "broken").mkdir()
    shutil.copy(photos / "broken.jpg", tmp_path / "broken" / "a.jpg")
    other = tmp_path / "other" / "predictions.jsonl"
    with pytest.raises(ClearsightError, match=r"None of 1 files could be scored; failed_files.jsonl says why"):
        run(tiny_package, tmp_path / "broken", other)
    assert [file.name for file in other.parent.iterdir()] == ["failed_files.jsonl", "summary.json"]
