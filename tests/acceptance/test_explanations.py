"""Explanations against a real server: beside predictions, out of time, too large."""

import base64
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearsight.cli import root
from clearsight.console import run
from clearsight.documents.settings import ClassificationSettings
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.torchserve]

DEPLOYMENT = """\
name: {name}
endpoint_name: fridge
model: {{path: {package}, type: mlflow_model}}
instance_type: local
instance_count: 1
environment_variables: {variables}
request_settings: {{request_timeout_ms: {timeout_ms}, max_concurrent_requests_per_instance: 4}}
"""
FIXED = {"CLEARSIGHT_BACKEND": "onnxruntime", "CLEARSIGHT_BATCH_SIZE": "1"}
NUM_QUEUED = 20

Deploy = Callable[..., None]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, drawn_images: list[Path]) -> ModelPackage:
    """MobileNetV2 at 224 with random weights: explanations as slow and as large as real ones."""
    import torch

    from clearsight.exporters.write import write_package
    from clearsight.networks.families.table import build_network
    from clearsight.tasks import Task

    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network("mobilenetv2", 4).eval()
    return write_package(
        tmp_path_factory.mktemp("mobilenetv2") / "mlflow-model",
        task=Task.MULTI_CLASS,
        model_name="mobilenetv2",
        labels=("can", "carton", "milk_bottle", "water_bottle"),
        network=network,
        settings=ClassificationSettings(),
        parity_images=drawn_images[:4],
        run_id="explained_HD_0",
        pretrained={"source": "none", "file": None, "sha256": None, "tag": None, "licence": None},
        gate_bf16=False,
    )


@pytest.fixture
def deploy(package: ModelPackage, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Deploy:
    """Create a deployment of the package with these variables and time limit; the endpoint has been made."""

    def create(name: str, timeout_ms: int, **variables: str) -> None:
        file = tmp_path / f"{name}.yml"
        text = DEPLOYMENT.format(
            name=name,
            package=package.root,
            timeout_ms=timeout_ms,
            variables=json.dumps({**FIXED, **variables}),
        )
        file.write_text(text)
        code = run(root, ["online-deployment", "create", "-f", str(file), "-o", "none"])
        assert code == 0, capsys.readouterr().err

    assert run(root, ["online-endpoint", "create", "--name", "fridge", "-o", "none"]) == 0
    return create


@pytest.fixture
def key(deploy: Deploy, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    query = ["-o", "tsv", "--query", "primaryKey"]
    assert run(root, ["online-endpoint", "get-credentials", "-n", "fridge", *query]) == 0
    return capsys.readouterr().out.strip()


def asking(image: Path, count: int = 1, **xai_parameters: Any) -> bytes:
    cell = json.dumps(
        {
            "image_base64": base64.b64encode(image.read_bytes()).decode(),
            "model_explainability": True,
            "xai_parameters": xai_parameters,
        }
    )
    return json.dumps({"input_data": {"columns": ["image"], "data": [cell] * count}}).encode()


def wait_for_loaded(workspace: Workspace, name: str) -> None:
    """The explain worker has loaded what it needs, without being asked."""
    deadline = time.monotonic() + 200
    while not any(
        "loaded what explanations need" in file.read_text(errors="replace")
        for file in workspace.logs.rglob("*.log")
        if name in str(file)
    ):
        assert time.monotonic() < deadline, [str(file) for file in workspace.logs.rglob("*")]
        time.sleep(0.2)


@pytest.mark.timeout(600)
def test_twenty_queued_explanations_hold_no_prediction_up_and_change_no_byte_of_it(
    server: Any, workspace: Workspace, deploy: Deploy, key: str, drawn_images: list[Path]
) -> None:
    deploy("blue", 170_000, CLEARSIGHT_EXPLAIN_MAX_IN_FLIGHT=str(NUM_QUEUED))
    uri = f"http://127.0.0.1:{server.port}/endpoints/fridge/score"
    pinned = {"azureml-model-deployment": "blue"}
    wait_for_loaded(workspace, "blue")
    bodies = [server.body_of(image) for image in drawn_images[:5]]
    alone = [server.post(uri, key, body, **pinned) for body in bodies]
    assert {status for status, _ in alone} == {200}
    steps = {"xai_algorithm": "integrated_gradients", "n_steps": 12}
    with ThreadPoolExecutor(NUM_QUEUED) as pool:
        explanations = [
            pool.submit(server.post, uri, key, asking(drawn_images[index % 5], **steps), **pinned)
            for index in range(NUM_QUEUED)
        ]
        while not any(explanation.running() for explanation in explanations):
            time.sleep(0.01)
        beside = []
        while len(beside) < 30 and not all(explanation.done() for explanation in explanations):
            before = sum(explanation.done() for explanation in explanations)
            beside.append(server.post(uri, key, bodies[len(beside) % 5], **pinned))
            # One that waited in their line would see all before it end.
            assert sum(explanation.done() for explanation in explanations) - before <= 2
        assert len(beside) == 30, "the explanations ended before the predictions"
        answers = [explanation.result() for explanation in explanations]
    assert beside == [alone[index % 5] for index in range(30)]
    assert {status for status, _ in answers} == {200}
    for index, (_, answer) in enumerate(answers):
        [row] = json.loads(answer)
        [scores] = json.loads(alone[index % 5][1])
        assert {name: row[name] for name in scores} == scores

    # The path says the same as the body.
    flagged = server.post(uri, key, asking(drawn_images[0]), **pinned)
    implied = server.post(uri.replace("/score", "/explain"), key, bodies[0], **pinned)
    assert flagged[0] == 200
    assert flagged == implied

    # What cannot fit is refused before it is computed.
    labels = ["can", "carton", "milk_bottle", "water_bottle"]
    too_large = asking(drawn_images[0], 20, attributions=True, target_labels=labels, n_steps=1000)
    status, answer, headers = server.exchange(uri, key, too_large, **pinned)
    assert (status, headers["ms-azureml-model-error-statuscode"]) == (424, "422")
    message = json.loads(answer)["message"]
    limit, needed = (int(number) for number in re.findall(r"\d{8,}", message))
    assert limit == 96 * 2**20 < needed
    assert "float16_base64" in message

    page = server.metrics()
    place = 'deployment="blue",endpoint="fridge"'
    counted = f'{{algorithm="integrated_gradients",cached="false",degraded="false",{place}}}'
    assert f"clearsight_explanations_total{counted} {NUM_QUEUED}.0" in page
    assert f'clearsight_explanation_phase_ms_count{{algorithm="xrai",{place},phase="regions"}} 2.0' in page
    assert f'clearsight_explanations_refused_total{{{place},status_code="422"}} 1.0' in page
    assert f"clearsight_explanation_chunk_size{{{place}}} 8.0" in page


@pytest.mark.timeout(600)
def test_an_explanation_longer_than_the_time_limit_is_degraded_or_408_and_its_worker_lives_on(
    server: Any, workspace: Workspace, deploy: Deploy, key: str, drawn_images: list[Path]
) -> None:
    uri = f"http://127.0.0.1:{server.port}/endpoints/fridge/score"
    long = {"n_steps": 1000, "details": True}
    for name, variables in (("hurried", {}), ("strict", {"CLEARSIGHT_EXPLAIN_ALLOW_DEGRADATION": "false"})):
        deploy(name, 8000, **variables)
        wait_for_loaded(workspace, name)
        workers = {worker.pid for worker in server.running("model_service_worker.py")}
        pinned = {"azureml-model-deployment": name}
        started = time.monotonic()
        status, answer, headers = server.exchange(uri, key, asking(drawn_images[0], **long), **pinned)
        assert time.monotonic() - started < 8.5
        if name == "hurried":
            assert (status, headers["x-explanation-degraded"]) == (200, "1"), answer
            [row] = json.loads(answer)
            assert row["explanation_details"]["degraded"]
        else:
            assert (status, headers["x-explanation-degraded"]) == (408, None), answer
            assert "row 0" in json.loads(answer)["message"]
        for body in (server.body_of(drawn_images[1]), asking(drawn_images[1], xai_algorithm="guided_backprop")):
            assert server.post(uri, key, body, **pinned)[0] == 200
        assert {worker.pid for worker in server.running("model_service_worker.py")} == workers
        assert run(root, ["online-deployment", "delete", "-n", name, "-e", "fridge", "--yes"]) == 0


@pytest.mark.timeout(600)
def test_a_job_outlives_the_time_limit_lets_requests_go_first_and_can_be_canceled(
    server: Any, workspace: Workspace, deploy: Deploy, key: str, drawn_images: list[Path]
) -> None:
    deploy("patient", 8000)
    wait_for_loaded(workspace, "patient")
    assert run(root, ["online-endpoint", "update", "-n", "fridge", "--traffic", "patient=100", "-o", "none"]) == 0
    base = f"http://127.0.0.1:{server.port}"
    jobs, explain = f"{base}/endpoints/fridge/jobs/explain", f"{base}/endpoints/fridge/explain"
    workers = {worker.pid for worker in server.running("model_service_worker.py")}

    def post(body: bytes) -> str:
        status, answer, headers = server.exchange(jobs, key, body)
        assert status == 202, answer
        return base + headers["location"]

    def wait_for(uri: str, *statuses: str) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + 400
        while True:
            status, answer, _ = server.exchange(uri, key, None, "GET")
            assert (status, time.monotonic() < deadline) == (200, True), answer
            document = json.loads(answer)
            if document["status"] in statuses:
                return document, answer
            time.sleep(0.1)

    long = asking(drawn_images[0], n_steps=1000, xai_algorithm="integrated_gradients", details=True)
    quick = asking(drawn_images[1], xai_algorithm="guided_gradcam")
    short = asking(drawn_images[1], n_steps=2, attributions=True)

    # While a job computes, requests are answered within their own time.
    canceled = post(long)
    while not wait_for(canceled, "Running")[0].get("progress", {}).get("points_done", 0):
        time.sleep(0.1)
    beside = [server.post(explain, key, body) for body in (quick, short)]
    assert {status for status, _ in beside} == {200}
    assert wait_for(canceled, "Running", "Completed")[0]["status"] == "Running"
    assert server.exchange(canceled, key, None, "DELETE")[0] == 200

    # A job's result is the body of the answer; the canceled one stands in nobody's way.
    started = time.monotonic()
    for body, (_, answer) in zip((quick, short), beside, strict=True):
        document, content = wait_for(post(body), "Completed", "Failed")
        assert content.endswith(b',"result":' + answer + b"}"), document
    assert time.monotonic() - started < 60
    document, _ = wait_for(post(b'{"input_data": 1}'), "Failed")
    assert (document["error"]["status"], document["error"]["model_status"]) == (424, 400)

    # Longer than a request may last, and complete.
    longer = asking(drawn_images[0], n_steps=200, xai_algorithm="integrated_gradients", details=True)
    [row] = wait_for(post(longer), "Completed", "Failed")[0]["result"]
    details = row["explanation_details"]
    assert (details["n_steps_used"], details["degraded"]) == (200, False)
    assert {worker.pid for worker in server.running("model_service_worker.py")} == workers

    page = server.metrics()
    place = 'deployment="patient",endpoint="fridge"'
    for status, count in (("canceled", 1), ("completed", 3), ("failed", 1)):
        assert f'clearsight_explain_jobs_ended_total{{{place},status="{status}"}} {count}.0' in page
    counted = f'{{algorithm="integrated_gradients",cached="false",degraded="false",{place}}}'
    assert f"clearsight_explanations_total{counted} 1.0" in page

    # A worker that dies fails its job; the next one works.
    lost = post(long)
    while not wait_for(lost, "Running")[0].get("progress"):
        time.sleep(0.1)
    [explainer] = server.explainers()
    explainer.kill()
    assert wait_for(lost, "Failed", "Completed")[0]["error"]["status"] == 424
    assert wait_for(post(quick), "Completed", "Failed")[1].endswith(beside[0][1] + b"}")

    # Ctrl-C does not wait for a job.
    wait_for(post(long), "Running")
    started = time.monotonic()
    server.process.terminate()
    server.process.wait(60)
    assert time.monotonic() - started < 20
