"""Azure's safe-rollout sample, step by step, against a real server: gateway, TorchServe and all."""

import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from clearsight.cli import root
from clearsight.console import run
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace

DEPLOYMENT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: {name}
model: azureml:od-fridge@latest
instance_type: Standard_DS3_v2
instance_count: 1
environment_variables: {{CLEARSIGHT_BACKEND: onnxruntime, CLEARSIGHT_BATCH_SIZE: "4"}}
request_settings: {{request_timeout_ms: 60000, max_concurrent_requests_per_instance: 8}}
"""


class Load:
    """Clients that score one image after the other until they are stopped."""

    def __init__(self, server: Any, uri: str, key: str, body: bytes, num_clients: int = 2) -> None:
        self.outcomes: Counter[str] = Counter()
        self.refusals: list[bytes] = []
        self._is_stopped = threading.Event()
        self._pool = ThreadPoolExecutor(num_clients)
        for _ in range(num_clients):
            self._pool.submit(self._work, server, uri, key, body)

    def _work(self, server: Any, uri: str, key: str, body: bytes) -> None:
        while not self._is_stopped.wait(0.03):
            try:
                status, answer = server.post(uri, key, body)
                self.outcomes[str(status)] += 1
                if status != 200:
                    self.refusals.append(answer)
            except OSError as error:
                self.outcomes[type(getattr(error, "reason", error)).__name__] += 1

    def stop(self) -> Counter[str]:
        self._is_stopped.set()
        self._pool.shutdown()
        return self.outcomes


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.timeout(400)
def test_the_safe_rollout_sample_works_step_by_step(
    tiny_package: ModelPackage,
    drawn_images: list[Path],
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    ModelRegistry(workspace).create(tiny_package.root, "od-fridge")
    for name in ("blue", "green"):
        (tmp_path / f"{name}.yml").write_text(DEPLOYMENT.format(name=name))

    def az(*words: object, fails: bool = False) -> Any:
        code = run(root, [str(word) for word in words])
        output = capsys.readouterr()
        assert code == (1 if fails else 0), (words, output.err)
        return output.err if fails else output.out.strip()

    az("online-endpoint", "create", "--name", "fridge", "-o", "none")  # stored; nothing serves yet
    server = request.getfixturevalue("server")
    (tmp_path / "sample.json").write_bytes(server.body_of(drawn_images[0]))
    endpoint = ("-e", "fridge")
    blue = az("online-deployment", "create", *endpoint, "-f", tmp_path / "blue.yml", "--all-traffic", "-o", "json")
    assert json.loads(blue)["provisioning_state"] == "Succeeded"
    uri = az("online-endpoint", "show", "-n", "fridge", "-o", "tsv", "--query", "scoring_uri")
    key = az("online-endpoint", "get-credentials", "-n", "fridge", "-o", "tsv", "--query", "primaryKey")
    assert uri == f"http://127.0.0.1:{server.port}/endpoints/fridge/score"

    # A batch gives the bytes that each request gets alone.
    bodies = [server.body_of(image) for image in drawn_images[:6]] + [b"[]", server.body_of(*drawn_images[:3])]
    alone = [server.post(uri, key, body) for body in bodies]
    assert [status for status, _ in alone] == [200] * 6 + [424, 200]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda body: server.post(uri, key, body), bodies)) == alone
    assert server.post(uri, "wrong", bodies[0])[0] == 401

    def num_loaded() -> int:
        """Of the workers that blue's second version has had."""
        logs = az("online-deployment", "get-logs", "-n", "blue", *endpoint)
        return str(logs).count("this worker is of the predict lane")

    # Rolling update and killed workers under light load: nothing is lost.
    load = Load(server, uri, key, bodies[0])
    updated = az("online-deployment", "update", "-n", "blue", *endpoint, "--set", "instance_count=2")
    assert json.loads(updated)["serving"]["workers"] == 2
    for num_killed in range(1, 6):
        first, _ = server.workers()
        os.kill(first.pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while num_loaded() < 2 + num_killed:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert set(load.stop()) == {"200"}, (load.outcomes, load.refusals[:3])

    # Green beside blue, called by header, then 90/10, then all of it.
    az("online-deployment", "create", *endpoint, "-f", tmp_path / "green.yml", "-o", "none")
    assert json.loads(az("online-endpoint", "show", "-n", "fridge", "--query", "traffic")) == {"blue": 100}
    request_file = ("--request-file", tmp_path / "sample.json")
    by_header = az("online-endpoint", "invoke", "-n", "fridge", "--deployment-name", "green", *request_file)
    assert json.loads(by_header) == json.loads(alone[0][1])
    assert "90" in az("online-endpoint", "update", "-n", "fridge", "--traffic", "blue=90 green=10", "-o", "tsv")
    assert "sum to 95" in az("online-endpoint", "update", "-n", "fridge", "--traffic", "blue=90 green=5", fails=True)
    assert "has 90 %" in az("online-deployment", "delete", "-n", "blue", *endpoint, "--yes", fails=True)
    az("online-endpoint", "update", "-n", "fridge", "--traffic", "blue=0 green=100")
    az("online-deployment", "delete", "-n", "blue", *endpoint, "--yes", "--no-wait")
    assert server.post(uri, key, bodies[0])[0] == 200
    assert server.post(uri, key, bodies[0], **{"azureml-model-deployment": "blue"})[0] == 404
    assert "loaded mobilenetv2" in az("online-deployment", "get-logs", "-n", "green", *endpoint)
    az("online-endpoint", "regenerate-keys", "-n", "fridge", "--key-type", "primary")
    assert server.post(uri, key, bodies[0])[0] == 401
    key = az("online-endpoint", "get-credentials", "-n", "fridge", "-o", "tsv", "--query", "primaryKey")

    # A second server is refused, and a killed gateway comes back with the routing table.
    assert run(root, ["serve", "--port", "1"]) == 1
    assert "already serves" in capsys.readouterr().err
    [gateway] = server.running("clearsight.serving.gateway")
    gateway.kill()
    deadline = time.monotonic() + 30
    while True:
        try:
            assert server.post(uri, key, bodies[0])[0] == 200
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    # SIGTERM: what runs is answered, then everything ends.
    family = server.family()
    load = Load(server, uri, key, server.body_of(*drawn_images))
    while load.outcomes["200"] < 5:
        time.sleep(0.05)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    outcomes = load.stop()
    assert set(outcomes) <= {"200", "503", "ConnectionRefusedError"}, outcomes
    assert not psutil.wait_procs(family, timeout=5)[1]  # an ended one counts until init has waited for it
    assert not workspace.control_socket.exists()
    az("online-endpoint", "delete", "-n", "fridge", "--yes")
    assert az("online-endpoint", "list", "-o", "json") == "[]"
