"""Real awkward files and a poisoned batch, through the gateway and a real TorchServe: nobody else is hurt."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearsight.cli import root
from clearsight.console import run
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace

DEPLOYMENT = """\
name: blue
endpoint_name: tricky
model: azureml:tiny:1
instance_type: local
environment_variables: {CLEARSIGHT_BACKEND: openvino, CLEARSIGHT_BATCH_SIZE: "8"}
request_settings: {request_timeout_ms: 60000, max_concurrent_requests_per_instance: 8}
"""

# The list of the files' README: what Pillow cannot load, or must not try to.
UNREADABLE = {"truncated.jpg", "truncated.png", "broken.png", "bomb_header.gif"}


@pytest.mark.slow
@pytest.mark.torchserve
def test_awkward_files_and_poison_get_a_clear_answer_and_hurt_nobody(
    tiny_package: ModelPackage,
    drawn_images: list[Path],
    shared_data: Path,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    server: Any,
) -> None:
    ModelRegistry(workspace).create(tiny_package.root, "tiny")
    (tmp_path / "blue.yml").write_text(DEPLOYMENT)
    assert run(root, ["online-endpoint", "create", "--name", "tricky", "-o", "none"]) == 0
    assert run(root, ["online-deployment", "create", "-f", str(tmp_path / "blue.yml"), "--all-traffic"]) == 0
    capsys.readouterr()
    assert run(root, ["online-endpoint", "get-credentials", "-n", "tricky"]) == 0
    key = json.loads(capsys.readouterr().out)["primaryKey"]
    uri = f"http://127.0.0.1:{server.port}/endpoints/tricky/score"
    [worker] = server.workers()

    files = sorted(file for file in (shared_data / "tricky").iterdir() if not file.suffix.endswith(("md", "pillow")))
    outcomes = {file.name: server.post(uri, key, server.body_of(file)) for file in files}
    assert len(outcomes) == 26
    assert {name for name, (status, _) in outcomes.items() if status != 200} == UNREADABLE
    for name in UNREADABLE:
        status, body = outcomes[name]
        assert status == 424
        assert json.loads(body)["message"].startswith("row 0, column 'image': "), name

    good = [server.body_of(image) for image in drawn_images[:7]]
    alone = [server.post(uri, key, body) for body in good]
    poison = json.dumps({"input_data": [base64.b64encode(b"\x00" * 4096).decode()]}).encode()
    for position in (0, 3, 7):
        bodies = [*good[:position], poison, *good[position:]]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda body: server.post(uri, key, body), bodies))
        assert together.pop(position)[0] == 424
        assert together == alone
    assert server.workers() == [worker]

    # The explain lane: every way there, and plain answers from the same worker.
    asks = {"image_base64": base64.b64encode(drawn_images[0].read_bytes()).decode(), "model_explainability": True}
    spelled = json.dumps({"input_data": {"columns": ["image"], "data": [json.dumps(asks)]}}).encode()
    explained = server.post(uri, key, spelled)
    assert explained[0] == 200, explained
    assert json.loads(explained[1])[0]["visualizations"].startswith("iVBORw0KGgo")
    assert server.post(uri, key, spelled.replace(b"model_e", b"model\\\\u005fe")) == explained
    assert server.post(uri.replace("/score", "/explain"), key, good[0]) == explained
    assert server.post(uri, key, spelled.replace(b"true", b"false")) == alone[0]
