"""Train on real photographs, deploy, and compare every way to score: the answers are the same."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clearsight.cli import root
from clearsight.console import run
from clearsight.handlers.backends import BACKENDS
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.workspace import Workspace
from clearsight.wire.answers import ClassificationAnswer

TOLERANCE = 1e-4
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.timeout(900)
def test_every_way_to_score_gives_the_same_answer_on_every_backend(
    shared_data: Path,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server: Any,
) -> None:
    def cli(*words: object) -> Any:
        assert run(root, [str(word) for word in words]) == 0, capsys.readouterr().err
        output = capsys.readouterr().out
        return json.loads(output) if output.lstrip().startswith(("{", "[")) else output

    monkeypatch.setenv("CLEARSIGHT_WEIGHTS", str(shared_data / "weights"))
    photographs = shared_data / "fridge_multiclass"
    data = tmp_path / "fridge-data"
    (tmp_path / "examples").mkdir()
    job_file = Path(shutil.copy(REPOSITORY / "examples" / "fridge-job.yml", tmp_path / "examples"))
    cli("data", "convert", "--from", "folders", photographs, "--output", data, "--validation-fraction", 0.2)
    job = cli("job", "create", "-f", job_file, "--name", "fridge")
    assert job["status"] == "Completed"
    assert job["metrics"]["accuracy"] >= 0.8
    package = Path(job["outputs"]["best_model"]["path"])
    cli("model", "create", "-n", "fridge", "--path", package, "--type", "mlflow_model")
    cli("online-endpoint", "create", "-n", "fridge")
    images = sorted(photographs.rglob("*.jpg"))[::9]
    assert len(images) == 8

    expected: npt.NDArray[np.float64] | None = None
    for backend in BACKENDS:
        answers = load_scorer(package, backend=backend, num_threads=2).score([file.read_bytes() for file in images])
        in_process = np.array([answer.probs for answer in answers if isinstance(answer, ClassificationAnswer)])
        expected = in_process if expected is None else expected
        found = {
            "Scorer": in_process,
            "predict": _predicted(cli("predict", "--package", package, "--backend", backend, *images)),
            "TorchServe": _served(cli, server, tmp_path, backend, images),
            "MLflow": _mlflow(package, backend, images, tmp_path),
        }
        for way, probs in found.items():
            assert np.abs(probs - expected).max() <= TOLERANCE, (backend, way)


def _predicted(rows: list[dict[str, Any]]) -> npt.NDArray[np.float64]:
    return np.array([row["probs"] for row in rows])


def _served(cli: Any, server: Any, folder: Path, backend: str, images: list[Path]) -> npt.NDArray[np.float64]:
    """Through gateway and TorchServe, in one request."""
    deployment = folder / f"{backend}.yml"
    deployment.write_text(
        f"name: {backend}\nendpoint_name: fridge\nmodel: azureml:fridge@latest\ninstance_type: local\n"
        f'environment_variables: {{CLEARSIGHT_BACKEND: {backend}, CLEARSIGHT_BATCH_SIZE: "4"}}\n'
        "request_settings: {request_timeout_ms: 60000, max_concurrent_requests_per_instance: 4}\n"
    )
    cli("online-deployment", "create", "-f", deployment)
    key = cli("online-endpoint", "get-credentials", "-n", "fridge")["primaryKey"]
    uri = f"http://127.0.0.1:{server.port}/endpoints/fridge/score"
    status, body = server.post(uri, key, server.body_of(*images), **{"azureml-model-deployment": backend})
    assert status == 200, body
    assert f"backend {backend}" in cli("online-deployment", "get-logs", "-n", backend, "-e", "fridge")
    cli("online-deployment", "delete", "-n", backend, "-e", "fridge", "--yes")
    return np.array([answer["probs"] for answer in json.loads(body)])


def _mlflow(package: Path, backend: str, images: list[Path], folder: Path) -> npt.NDArray[np.float64]:
    """Through `mlflow models serve`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [Path(sys.executable).with_name("mlflow"), "models", "serve", "--model-uri", package, "--env-manager",
               "local", "--host", "127.0.0.1", "--port", port]  # fmt: skip
    environment = {
        **os.environ,
        "CLEARSIGHT_BACKEND": backend,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (folder / f"mlflow-{backend}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.name
                assert time.monotonic() < deadline, log.name
                time.sleep(0.2)
        cells = [base64.encodebytes(image.read_bytes()).decode() for image in images]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_split": {"columns": ["image"], "data": [[cell] for cell in cells]}}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            predictions = json.loads(response.read())["predictions"]
        return np.array([prediction["probs"] for prediction in predictions])
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
