"""Stock MLflow opens and serves the folder; writing it needs no MLflow."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException

from clearsight.handlers import mlflow_pyfunc
from clearsight.handlers.mlflow_pyfunc import PackageModel
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.mlmodel import LOADER_MODULE
from clearsight.runs.package import ModelPackage


@pytest.fixture(scope="module")
def model(tiny_package: ModelPackage) -> PackageModel:
    return PackageModel(load_scorer(tiny_package, backend="onnxruntime", device="cpu", num_threads=1))


def test_an_empty_frame_gives_an_empty_frame_with_the_columns(model: PackageModel) -> None:
    found = model.predict(pd.DataFrame({"image": []}))
    assert list(found.columns) == ["probs", "labels"]
    assert len(found) == 0


def test_mlmodel_speaks_azures_signature_and_names_our_loader(tiny_package: ModelPackage) -> None:
    document = yaml.safe_load((tiny_package.root / "MLmodel").read_text())
    assert document["flavors"]["python_function"]["loader_module"] == LOADER_MODULE
    assert "python_model" not in document["flavors"]["python_function"]
    assert json.loads(document["signature"]["inputs"]) == [{"type": "binary", "name": "image"}]
    assert json.loads(document["signature"]["outputs"]) == [
        {"type": "string", "name": name} for name in ("probs", "labels", "visualizations", "attributions")
    ]
    assert document["signature"]["params"] is None
    assert document["metadata"]["base_model_task"] == "image-classification"
    assert document["run_id"] == "tiny_HD_0"
    assert {"model_uuid", "utc_time_created", "mlflow_version"} <= document.keys()


def test_environment_files_pin_what_wrote_the_package_and_name_no_index(tiny_package: ModelPackage) -> None:
    requirements = (tiny_package.root / "requirements.txt").read_text().splitlines()
    assert requirements[0].startswith("clearsight[score]==")
    assert "mlflow" in requirements
    assert any(line.startswith("torch==") and "+" not in line for line in requirements)
    conda = yaml.safe_load((tiny_package.root / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": requirements}
    python_env = yaml.safe_load((tiny_package.root / "python_env.yaml").read_text())
    assert python_env["dependencies"] == ["-r requirements.txt"]
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        assert "://" not in (tiny_package.root / name).read_text()


def test_text_its_bytes_and_raw_bytes_give_identical_rows(model: PackageModel, drawn_images: list[Path]) -> None:
    raw = drawn_images[0].read_bytes()
    text = base64.b64encode(raw).decode()
    frames = [model.predict(pd.DataFrame({"image": [cell]})) for cell in (text, text.encode(), raw)]
    assert frames[0].to_json(orient="records") == frames[1].to_json(orient="records")
    assert frames[0].to_json(orient="records") == frames[2].to_json(orient="records")
    (row,) = frames[0].to_dict("records")
    assert row["labels"] == ["can", "carton", "milk_bottle", "water_bottle"]
    assert sum(row["probs"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("index", [["b", "a"], [7, 7], pd.MultiIndex.from_tuples([("x", 1), ("y", 2)])])
def test_the_rows_keep_the_index_of_the_frame(model: PackageModel, drawn_images: list[Path], index: Any) -> None:
    frame = pd.DataFrame({"image": [file.read_bytes() for file in drawn_images[:2]]}, index=index)
    pd.testing.assert_index_equal(model.predict(frame).index, frame.index)


def test_rows_that_ask_are_explained_in_columns_of_their_own(model: PackageModel, drawn_images: list[Path]) -> None:
    raw = drawn_images[0].read_bytes()
    wish = {"xai_algorithm": "guided_backprop", "attributions": True}
    asked = {"image_base64": base64.b64encode(raw).decode(), "model_explainability": True, "xai_parameters": wish}
    found = model.predict(pd.DataFrame({"image": [raw, json.dumps(asked)]}))
    assert list(found.columns) == ["probs", "labels", "visualizations", "attributions"]
    assert found["probs"][0] == found["probs"][1]
    assert pd.isna(found["visualizations"][0])
    assert base64.b64decode(found["visualizations"][1]).startswith(b"\x89PNG")
    assert len(found["attributions"][1]) == 3
    with pytest.raises(MlflowException, match="row 0, column 'image': 'xai_algorithm' must be one of"):
        model.predict(pd.DataFrame({"image": [json.dumps({**asked, "xai_parameters": {"xai_algorithm": "grad"}})]}))


@pytest.mark.parametrize("is_server", [False, True])
def test_explanations_are_loaded_ahead_in_mlflows_server_only(
    is_server: bool, model: PackageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    preloaded: list[object] = []
    monkeypatch.setattr(mlflow_pyfunc, "preload", preloaded.append)
    if is_server:
        monkeypatch.setitem(sys.modules, "mlflow.pyfunc.scoring_server.app", sys)
    PackageModel(model._scorer)
    assert len(preloaded) == is_server


def test_a_bad_row_and_a_missing_column_are_named(model: PackageModel, drawn_images: list[Path]) -> None:
    with pytest.raises(MlflowException, match="row 1, column 'image'"):
        model.predict(pd.DataFrame({"image": [drawn_images[0].read_bytes(), b"nothing"]}))
    with pytest.raises(MlflowException, match="must have the column 'image', but it has \\['picture'\\]"):
        model.predict(pd.DataFrame({"picture": [b""]}))


LOAD: str = """
import base64, json, sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
raw = open(sys.argv[2], "rb").read()
text = base64.b64encode(raw).decode()
frames = [model.predict(pandas.DataFrame(data=[cell], columns=["image"])) for cell in (text, text.encode(), raw)]
print(json.dumps([frame.to_dict("records") for frame in frames]))
print(model.metadata.run_id, file=sys.stderr)
"""


@pytest.mark.slow
def test_stock_mlflow_loads_the_folder_in_a_fresh_process(
    tiny_package: ModelPackage, model: PackageModel, drawn_images: list[Path], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tiny_package.root), str(drawn_images[0])],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    (expected,) = model.predict(pd.DataFrame({"image": [drawn_images[0].read_bytes()]})).to_dict("records")
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0]["labels"] == expected["labels"]
    assert answers[0][0]["probs"] == pytest.approx(expected["probs"], abs=1e-4)
    assert "tiny_HD_0" in done.stderr


@pytest.fixture
def server(tiny_package: ModelPackage, tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve` on a free port of the loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(tiny_package.root)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # `mlflow models serve` starts uvicorn by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, env={**os.environ, "PATH": path}, start_new_session=True
        )
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}", process, tmp_path / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/ping", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not answer in time: {log.read_text()}")


def _post(url: str, document: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_mlflows_own_server_answers_every_form_of_body(
    server: str, model: PackageModel, drawn_images: list[Path]
) -> None:
    raw = drawn_images[0].read_bytes()
    text = base64.b64encode(raw).decode()
    (expected,) = model.predict(pd.DataFrame({"image": [raw]})).to_dict("records")
    for body in (
        {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
        {"dataframe_split": {"columns": ["image"], "data": [text]}},
        {"dataframe_records": [{"image": text}]},
        {"instances": [{"image": text}]},
        {"inputs": {"image": [text]}},
    ):
        status, answer = _post(server, body)
        assert status == 200, (list(body), answer)
        (row,) = answer["predictions"]
        assert row["labels"] == expected["labels"], list(body)
        assert row["probs"] == pytest.approx(expected["probs"], abs=1e-4), list(body)
    status, answer = _post(server, {"dataframe_split": {"columns": ["image"], "data": [["!"]]}})
    assert status == 400
    assert "row 0, column 'image'" in answer["message"]
