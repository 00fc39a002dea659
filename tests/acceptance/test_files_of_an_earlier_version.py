"""Files in use go on working: a workspace that an earlier version wrote is opened, served and resumed."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from clearsight.exporters.formats.mar import write_mar
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.store import EndpointStore

from .conftest import Server, unpack_golden


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The unpacked archive; its paths lead to where it lies now."""
    return unpack_golden(tmp_path)


@pytest.fixture
def workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(folder / ".clearsight"))
    return Workspace.default()


@pytest.fixture
def package(workspace: Workspace) -> ModelPackage:
    assert not ModelRegistry(workspace).verify("golden", "1").settings_edited
    return ModelPackage.open(ModelRegistry(workspace).get("golden", "1").package_path)


def require_expected(folder: Path, answer: Any) -> None:
    (found,), (expected,) = answer, json.loads((folder / "expected_answer.json").read_bytes())
    assert found["labels"] == expected["labels"]
    assert found["probs"] == pytest.approx(expected["probs"], abs=2e-4)  # what parity of such a network allows


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torchscript", "eager"])
def test_a_registered_package_gives_the_same_answer(folder: Path, package: ModelPackage, backend: str) -> None:
    scorer = load_scorer(package, backend, "cpu", num_threads=1)
    [reply] = answer_bodies(scorer, [(folder / "request.json").read_bytes()])
    assert reply.status == 200
    require_expected(folder, json.loads(reply.body))


@pytest.mark.filterwarnings("ignore")  # of mlflow's own, at its import
def test_mlflow_loads_the_package_by_the_module_that_it_names(folder: Path, package: ModelPackage) -> None:
    import mlflow.pyfunc

    (cell,) = json.loads((folder / "request.json").read_bytes())["input_data"]["data"][0]
    answer = mlflow.pyfunc.load_model(str(package.root)).predict(pd.DataFrame({"image": [cell]}))
    require_expected(folder, answer.to_dict("records") if isinstance(answer, pd.DataFrame) else answer)


def test_an_archive_names_a_handler_that_is_there_and_is_written_as_before(folder: Path, package: ModelPackage) -> None:
    manifest = json.loads((folder / "mar/MAR-INF/MANIFEST.json").read_bytes())
    assert callable(import_module(manifest["model"]["handler"]).handle)
    config = yaml.safe_load((folder / "mar/model-config.yaml").read_bytes())
    write_mar(package, folder / "golden.mar", manifest["model"]["modelName"])
    with zipfile.ZipFile(folder / "golden.mar") as archive:
        assert json.loads(archive.read("MAR-INF/MANIFEST.json")) == manifest
        assert yaml.safe_load(archive.read("model-config.yaml")) == config


def test_the_endpoint_store_keeps_keys_traffic_and_how_a_deployment_runs(folder: Path, workspace: Workspace) -> None:
    stored = json.loads((workspace.endpoints / "store.json").read_bytes())["endpoints"]["golden"]
    record = EndpointStore(workspace).get("golden")
    assert (record.primary_key, record.secondary_key) == (stored["primary_key"], stored["secondary_key"])
    assert dict(record.traffic) == {"blue": 100}
    blue = record.deployment("blue")
    assert (blue.state, blue.generation) == ("Succeeded", 1)
    assert blue.serving["backend"] == "onnxruntime"
    assert blue.serving["batch_size"] == stored["deployments"]["blue"]["serving"]["batch_size"]


def test_a_moved_workspace_of_an_earlier_version_serves_its_own_package(tmp_path: Path) -> None:
    workspace = Workspace(unpack_golden(tmp_path, Path("/no/longer/there")) / ".clearsight")
    blue = EndpointStore(workspace).get("golden").deployment("blue")
    assert ModelPackage.open(blue.package).root.is_relative_to(tmp_path)


def clearsight(workspace: Workspace, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from clearsight.cli import main; main()", *args]
    environment = {**os.environ, "CLEARSIGHT_HOME": str(workspace.root)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_an_interrupted_job_is_listed_and_goes_on_from_its_checkpoint(workspace: Workspace) -> None:
    shown = json.loads(clearsight(workspace, "job", "show", "--name", "golden").stdout)
    assert shown["status"] == "NotResponding"
    resumed = clearsight(workspace, "job", "resume", "--name", "golden")
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    assert (result["status"], result["best_child_run_id"]) == ("Completed", "golden_HD_0")
    trial = workspace.runs / "golden_HD_0"
    passes = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
    assert [one["epoch"] for one in passes] == [0, 1, 2]  # the first by the earlier version, and not again
    assert ModelPackage.open(trial / "outputs" / "mlflow-model").run_id == "golden_HD_0"


@pytest.fixture
def server(workspace: Workspace) -> Iterator[Server]:
    server = Server(workspace)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


@pytest.mark.slow
@pytest.mark.torchserve
def test_a_stored_deployment_serves_again(folder: Path, workspace: Workspace, server: Server) -> None:
    key = EndpointStore(workspace).get("golden").primary_key
    query = ("--query", "provisioning_state", "--output", "tsv")
    deadline = time.monotonic() + 240
    state = ""
    while state != "Succeeded" and time.monotonic() < deadline:
        state = clearsight(workspace, "online-deployment", "show", "-n", "blue", "-e", "golden", *query).stdout.strip()
    uri = f"http://127.0.0.1:{server.port}/endpoints/golden/score"
    status, body = Server.post(uri, key, (folder / "request.json").read_bytes())
    assert (status, state) == (200, "Succeeded")
    require_expected(folder, json.loads(body))
