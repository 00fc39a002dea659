"""Images and explanations of the rows of a batch job."""

import ast
import base64
import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from clearsight.batch import run
from clearsight.documents.batch.document import BatchDeployment
from clearsight.documents.batch.invocation import BatchInvocation
from clearsight.errors import Conflict, UserError
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import Scorer, load_scorer
from clearsight.handlers.worker.explain_lane import explainer_for_lane
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.cli_predict import predict
from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.reader import Unreadable
from clearsight.serving.batch.row_outputs import RowOutputs, read_properties
from clearsight.serving.batch.row_scorer import CannotWrite, RowScorer
from clearsight.serving.batch.submit import plan_batch
from tests.conftest import CheckRows, DetectorPackages

PARAMETERS = {"xai_algorithm": "guided_gradcam", "attributions": True}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path / "workspace"))
    return tmp_path


def online(scorer: Scorer, image: bytes, parameters: dict[str, Any]) -> dict[str, Any]:
    """The answer of an endpoint to a request with one image, as Azure's clients write it."""
    cell = {
        "image_base64": base64.b64encode(image).decode(),
        "model_explainability": True,
        "xai_parameters": parameters,
    }
    body = {"input_data": {"columns": ["image"], "index": [0], "data": [[json.dumps(cell)]]}}
    [reply] = answer_bodies(scorer, [json.dumps(body).encode()], explain=explainer_for_lane("all", scorer))
    assert reply.status == 200, reply.body
    [answer] = json.loads(reply.body)
    return dict(answer)


def outcomes(rows: RowScorer, names: Sequence[str], cells: Sequence[object]) -> list[dict[str, Any]]:
    entries = [Entry(name, f"/photos/{name}", 1, 1, row=number) for number, name in enumerate(names)]
    results = rows.score(cells)
    return [json.loads(rows.outcome(*each)[0]) for each in zip(entries, cells, results, strict=True)]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_explained_row_is_the_online_answer_of_its_image(
    tiny_package: ModelPackage, drawn_images: list[Path], tmp_path: Path
) -> None:
    scorer = load_scorer(tiny_package)
    one, two = (file.read_bytes() for file in drawn_images[:2])
    cells = [one, b"no image", Unreadable("input_changed", "it is gone"), base64.b64encode(two).decode()]
    names = ["a/one.png", "b.png", "c.png", "table.csv"]

    inline = outcomes(RowScorer(scorer, RowOutputs(explain=PARAMETERS, explanations="inline"), tmp_path), names, cells)
    assert inline[0]["answer"] == online(scorer, one, PARAMETERS)
    assert inline[3]["answer"] == online(scorer, two, PARAMETERS)
    assert [line.get("code") for line in inline] == [None, "bad_image", "input_changed", None]
    assert files_below(tmp_path) == {}

    expected = inline[0]["answer"]
    rows = RowScorer(scorer, RowOutputs(explain=PARAMETERS), tmp_path)
    for _ in range(2):  # the second time over the same files
        by_reference = outcomes(rows, names, cells)
        assert by_reference[0]["answer"] == {
            "probs": expected["probs"],
            "labels": expected["labels"],
            "visualizations": "explanations/a/one.png.png",
            "attributions": "explanations/a/one.png.npy",
        }
        assert by_reference[3]["answer"]["visualizations"] == "explanations/table.csv.row3.png"
        files = files_below(tmp_path)
        assert len(files) == 4
        assert files["explanations/a/one.png.png"] == base64.b64decode(expected["visualizations"])
    stored, nested = np.load(tmp_path / "explanations/a/one.png.npy"), np.array(expected["attributions"])
    assert stored.dtype == np.float32
    assert np.allclose(stored, nested, rtol=6e-5, atol=0)  # nested lists have five digits


def test_details_hold_no_times_and_a_row_that_cannot_be_explained_fails_alone(
    detector_package: DetectorPackages, drawn_images: list[Path], tmp_path: Path
) -> None:
    scorer = load_scorer(detector_package("yolov5"))
    image, blank = drawn_images[0].read_bytes(), io.BytesIO()
    Image.new("RGB", (64, 64)).save(blank, "PNG")
    of_image, of_blank = scorer.score([image, blank.getvalue()])
    last = len(of_image.boxes) - 1  # type: ignore[union-attr]
    assert last >= len(of_blank.boxes)  # type: ignore[union-attr]
    parameters = {"xai_algorithm": "odam", "details": True, "visualizations": False, "detections": [last]}
    rows = RowScorer(scorer, RowOutputs(explain=parameters), tmp_path)
    cells = [image, blank.getvalue(), image]
    lines = outcomes(rows, ["a.png", "blank.png", "a2.png"], cells)
    expected = online(scorer, image, parameters)
    for explanation in expected["explanations"]:
        for key in ("milliseconds", "cached"):
            del explanation["explanation_details"][key]
    assert lines[0]["answer"] == lines[2]["answer"] == expected
    assert (lines[1]["answer"], lines[1]["code"]) == (None, "error")
    assert "'detections' must be" in lines[1]["error"]
    begun: list[None] = []
    rows.score([*cells, Unreadable("unreadable", "it is gone")], lambda: begun.append(None))
    assert len(begun) == 3  # the time limit is that of each explanation


def test_a_name_that_cannot_be_a_file_fails_its_row_and_a_full_disk_the_job(
    tiny_package: ModelPackage, drawn_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = RowScorer(load_scorer(tiny_package), RowOutputs(overlays=True), tmp_path)
    image = drawn_images[0].read_bytes()
    long = "/".join(["x" * 200] * 30) + ".png"  # Linux takes paths of 4096 bytes
    lines = outcomes(rows, ["a.png", long, "b.png"], [image] * 3)
    assert [line.get("code") for line in lines] == [None, "error", None]
    assert "File name too long" in lines[1]["error"]
    assert sorted(files_below(tmp_path)) == ["overlays/a.png.overlay.jpg", "overlays/b.png.overlay.jpg"]

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "/results/overlays/a.png")

    monkeypatch.setattr("clearsight.serving.batch.results.images.write_atomically", refuse)
    with pytest.raises(CannotWrite, match=r"/results/overlays/a\.png: No space left on device; free some space"):
        outcomes(rows, ["a.png"], [image])


@pytest.mark.slow
def test_a_job_writes_images_and_explanations_that_its_results_name(
    home: Path, tiny_package: ModelPackage, drawn_images: list[Path]
) -> None:
    (home / "photos").mkdir()
    for number in range(3):
        shutil.copy(drawn_images[number], home / "photos" / f"{number}.png")
    arguments = [str(home / "photos"), "--package", str(tiny_package.root), "--results", str(home / "out" / "p.csv")]
    options = ["--overlays", "--explain", "guided_gradcam", "--xai-parameters", '{"attributions": true}']
    result = CliRunner().invoke(predict, [*arguments, *options])
    assert result.exit_code == 0, result.output
    names = ["0.png", "1.png", "2.png"]
    assert set(files_below(home / "out")) == {
        *("p.csv", "summary.json"),
        *(f"overlays/{name}.overlay.jpg" for name in names),
        *(f"explanations/{name}.{ending}" for name in names for ending in ("png", "npy")),
    }
    with (home / "out" / "p.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert [row[3:] for row in rows] == [
        [f"explanations/{name}.png", f"explanations/{name}.npy", name] for name in names
    ]
    scorer = load_scorer(tiny_package)
    for row in rows:
        expected = online(scorer, (home / "photos" / row[5]).read_bytes(), PARAMETERS)
        assert ast.literal_eval(row[1]) == expected["probs"]
        stored, nested = np.load(home / "out" / row[4]), np.array(expected["attributions"])
        # The last digits depend on the number of threads, which the tests limit in their own process.
        assert np.allclose(stored, nested, atol=1e-3 * np.abs(nested).max())
    with pytest.raises(Conflict, match=r"results are never written over others, but .*out/overlays exists"):
        run(tiny_package, home / "photos", home / "out" / "q.csv", overlays=True)


def test_the_properties_of_a_deployment_ask_for_outputs(check_rows: CheckRows) -> None:
    def check(properties: dict[str, Any], expected: RowOutputs) -> None:
        assert read_properties(properties) == expected

    check_rows(
        check,
        [
            ({}, RowOutputs()),
            ({"other": "x", "save_overlays": "false"}, RowOutputs()),
            ({"save_overlays": "True", "save_masks": True}, RowOutputs(overlays=True, masks=True)),
            ({"model_explainability": "true"}, RowOutputs(explain={})),
            ({"model_explainability": "false", "xai_parameters": "{}"}, RowOutputs()),
            (
                {"model_explainability": "true", "xai_parameters": '{"n_steps": 3}', "explanations": "inline"},
                RowOutputs(explain={"n_steps": 3}, explanations="inline"),
            ),
            ({"model_explainability": True, "xai_parameters": {"masks": 9}}, RowOutputs(explain={"masks": 9})),
        ],
    )


def test_outputs_that_cannot_be_had_are_refused_before_a_run_folder_exists(
    home: Path,
    tiny_package: ModelPackage,
    detector_package: DetectorPackages,
    drawn_images: list[Path],
    check_rows: CheckRows,
) -> None:
    workspace = Workspace(home / "workspace")
    explained = {"model_explainability": "true"}

    def check(package: ModelPackage, properties: dict[str, Any], expected: str) -> None:
        deployment = BatchDeployment("blue", "kitchen", str(package.root), compute="local", properties=properties)
        invocation = BatchInvocation(endpoint_name="kitchen", inputs=str(drawn_images[0]))
        with pytest.raises(UserError, match=expected) as caught:
            plan_batch(workspace, deployment, invocation, home)
        assert "\n" not in str(caught.value)

    def with_parameters(text: str) -> dict[str, Any]:
        return {**explained, "xai_parameters": text}

    detector = detector_package("yolov5")
    check_rows(
        check,
        [
            (tiny_package, {"save_overlays": "perhaps"}, "properties.save_overlays must be true or false"),
            (tiny_package, {"save_masks": "true"}, "masks are written of instance segmentation alone"),
            (tiny_package, {"xai_parameters": "{}"}, "properties.xai_parameters is for jobs that explain"),
            (tiny_package, {**explained, "explanations": "zip"}, "properties.explanations must be"),
            (tiny_package, with_parameters("[1"), "properties.xai_parameters must be a JSON object"),
            (tiny_package, with_parameters('{"xai_algorithm": "lime"}'), "'xai_algorithm' must be one of"),
            (tiny_package, with_parameters('{"xai_algorithm": "odam"}'), "'xai_algorithm' must be one of"),
            (tiny_package, with_parameters('{"n_steps": 1}'), "'n_steps' must be an integer from 2 to 1000"),
            (tiny_package, with_parameters('{"target_labels": ["cup"]}'), "'target_labels' must name labels of"),
            (tiny_package, with_parameters('{"contrast_label": "cup"}'), "'contrast_label' must name labels of"),
            (detector, explained, "must be odam or .* for a package of .*, but none was given"),
            (detector, with_parameters('{"xai_algorithm": "xrai"}'), "must be odam or .*, but got 'xrai'"),
        ],
    )
    assert not workspace.runs.exists()
    for arguments, expected in (
        (["--xai-parameters", "{"], "--xai-parameters must be a JSON object"),
        (["--explain", "odam"], "'xai_algorithm' must be one of"),
        (["--masks"], "masks are written of instance segmentation alone"),
    ):
        command = [str(drawn_images[0]), "--package", str(tiny_package.root), "--results", str(home / "out.csv")]
        result = CliRunner().invoke(predict, [*command, *arguments])
        assert expected in str(result.exception), arguments
        assert not (home / "out.csv.partial").exists()


def test_masks_are_those_that_are_asked_for_or_that_the_settings_of_the_package_ask_for(
    detector_package: DetectorPackages, tmp_path: Path
) -> None:
    package = detector_package("maskrcnn_resnet18_fpn")
    assert RowOutputs(masks=True).for_package(package, {}).masks
    assert not RowOutputs().for_package(package, {}).masks
    copy = ModelPackage.open(shutil.copytree(package.root, tmp_path / "copy"))
    settings = json.loads(copy.settings_file.read_text())
    copy.settings_file.write_text(json.dumps({**settings, "export_as_image": True}))
    assert RowOutputs().for_package(copy, {}).masks


def test_the_fingerprint_names_what_is_written_for_each_row(
    home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = RowOutputs().fingerprint({})
    for changed, name in (
        (RowOutputs(overlays=True), "overlays"),
        (RowOutputs(masks=True), "masks"),
        (RowOutputs(explain={}), "xai_parameters"),
    ):
        now = changed.fingerprint({})
        assert before.keys() == now.keys()
        assert before[name] != now[name], name
    explained = RowOutputs(explain={})
    assert explained.fingerprint({})["explanations"] == "files"
    name = "the variables CLEARSIGHT_EXPLAIN_…"
    assert explained.fingerprint({}) == explained.fingerprint({"CLEARSIGHT_EXPLAIN_CACHE_BYTES": "5"})
    assert explained.fingerprint({})[name] != explained.fingerprint({"CLEARSIGHT_EXPLAIN_MAX_LABELS": "2"})[name]
    monkeypatch.setenv("CLEARSIGHT_EXPLAIN_MAX_LABELS", "2")
    assert '"max_labels": 2' in explained.fingerprint({})[name]
