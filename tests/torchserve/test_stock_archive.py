"""The documented command for stock TorchServe, with the root config.properties and an archive of a package."""

import asyncio
import base64
import gzip
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.errors import UserError
from clearsight.exporters.formats.mar import write_mar
from clearsight.runs.package import ModelPackage
from clearsight.serving.supervisor.java import java_home
from clearsight.serving.supervisor.torchserve_files import Admission, ExplainPlan, ServingPlan, free_ports
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess

CONFIG = Path(__file__).resolve().parents[2] / "config.properties"
AMPLE_S = 300
"""Explanations have the same bytes only where no time is short, on a busy machine too."""


def allow_time(archive: Path, seconds: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        contents = {entry: opened.read(entry) for entry in opened.infolist()}
    with zipfile.ZipFile(archive, "w") as opened:
        for entry, content in contents.items():
            if entry.filename == "model-config.yaml":
                assert b"responseTimeout: 120\n" in content
                content = content.replace(b"responseTimeout: 120\n", f"responseTimeout: {seconds}\n".encode())
            opened.writestr(entry, content)


@pytest.fixture(scope="module")
def stock(tiny_package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder as the documentation makes it, with TorchServe started from it, and the inference port."""
    folder = tmp_path_factory.mktemp("stock")
    write_mar(tiny_package, folder / "model-store" / "clearsight.mar", "clearsight")
    allow_time(folder / "model-store" / "clearsight.mar", AMPLE_S)
    config = CONFIG.read_text()
    ports = free_ports(4)
    for written, free in zip(("8080", "8081", "7070", "7071"), ports, strict=True):
        assert f":{written}\n" in config or f"port={written}\n" in config
        config = config.replace(f":{written}\n", f":{free}\n").replace(f"port={written}\n", f"port={free}\n")
    (folder / "config.properties").write_text(config)
    (folder / "tmp").mkdir()
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "JAVA_HOME": str(java_home()),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(folder / "tmp"),  # of the launcher's pid file
        "TEMP": str(folder / "tmp"),
    }
    with (folder / "out.log").open("wb") as log:
        subprocess.run(
            ["torchserve", "--start", "--ncs", "--ts-config", "config.properties"],
            cwd=folder,
            env=environment,
            check=True,
            stdout=log,
            stderr=log,
        )
    java = psutil.Process(int((folder / "tmp" / ".model_server.pid").read_text()))
    family = [java]
    try:
        deadline = time.monotonic() + 90
        while "State change WORKER_STARTED -> WORKER_MODEL_LOADED" not in (folder / "out.log").read_text():
            assert java.is_running(), (folder / "out.log").read_text()
            assert time.monotonic() < deadline, (folder / "out.log").read_text()
            time.sleep(0.2)
        yield folder, ports[0]
    finally:
        family += java.children(recursive=True)
        for process in family:
            process.kill()
        psutil.wait_procs(family)


def post(
    folder: Path, port: int, body: bytes, path: str = "/predictions/clearsight", **headers: str
) -> tuple[int, bytes]:
    key = json.loads((folder / "key_file.json").read_text())["inference"]["key"]
    return exchange(f"http://127.0.0.1:{port}{path}", key, body, **headers)


def exchange(address: str, key: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        address,
        data=body,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=AMPLE_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.slow
@pytest.mark.torchserve
def test_stock_torchserve_scores_images_of_every_kind_of_header(
    stock: tuple[Path, int], tiny_package: ModelPackage, drawn_images: list[Path]
) -> None:
    folder, port = stock
    images = [base64.b64encode(file.read_bytes()).decode() for file in drawn_images[:2]]
    body = json.dumps({"input_data": {"columns": ["image"], "data": images}}).encode()
    status, answer = post(folder, port, body)
    assert status == 200
    rows = json.loads(answer)
    assert [row["labels"] for row in rows] == [list(tiny_package.labels)] * 2
    assert all(abs(sum(row["probs"]) - 1) < 1e-5 for row in rows)
    assert post(folder, port, body, describe="True") == (200, answer)
    instances = json.dumps({"instances": [{"data": images[0]}, {"image": {"b64": images[1]}}]}).encode()
    predictions = b'{"predictions":' + answer + b"}"
    assert post(folder, port, instances, "/v1/models/clearsight:predict") == (200, predictions)
    assert post(folder, port, gzip.compress(body)) == (200, answer)
    assert post(folder, port, b'{"input_data": "\\ud800"}')[0] == 400
    assert post(folder, port, b"")[0] == 400
    asking = json.dumps(
        {"input_data": {"columns": ["image"], "data": images}, "params": {"model_explainability": True}}
    )
    explained = post(folder, port, asking.encode())
    assert explained[1] != answer
    for path in ("/explanations/clearsight", "/v1/models/clearsight:explain"):
        assert post(folder, port, body, path)[0] == explained[0]
        assert post(folder, port, body, path)[1] != answer


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.asyncio
@pytest.mark.timeout(900)
async def test_every_way_to_ask_for_an_explanation_gives_the_same_answer(
    stock: tuple[Path, int],
    tiny_package: ModelPackage,
    drawn_images: list[Path],
    behind_gateway: Callable[..., Any],
    tmp_path: Path,
) -> None:
    image = base64.b64encode(drawn_images[3].read_bytes()).decode()
    plain, flagged = (
        json.dumps({"input_data": {"columns": ["image"], "data": [cell]}}).encode()
        for cell in (image, json.dumps({"image_base64": image, "model_explainability": True}))
    )
    threads = len(os.sched_getaffinity(0))  # as the stock worker has: the order of sums decides the last digits
    plan = ServingPlan(
        "blue",
        tiny_package.root,
        ServingLayout(num_threads=threads),
        Admission(request_timeout_s=AMPLE_S),
        explain=ExplainPlan(threads, 4),
    )
    async with behind_gateway(TorchServeProcess(plan, tmp_path / "blue.log"), tmp_path / "home", 150) as front:

        async def ask(path: str, body: bytes) -> tuple[int, bytes]:
            return await asyncio.to_thread(exchange, front.url + path, front.key, body)

        expected = await ask("score", flagged)
        assert expected[0] == 200, expected[1]
        [row] = json.loads(expected[1])
        assert set(row) == {"probs", "labels", "visualizations"}
        assert await ask("explain", plain) == expected
        assert await ask("explain", flagged) == expected
        for path in ("/explanations/clearsight", "/v1/models/clearsight:explain"):
            for body in (plain, flagged):
                assert await asyncio.to_thread(post, *stock, body, path) == expected
        assert await asyncio.to_thread(post, *stock, flagged) == expected


def test_an_archive_is_the_same_for_the_same_package_and_holds_no_code(
    tiny_package: ModelPackage, tmp_path: Path
) -> None:
    write_mar(tiny_package, tmp_path / "one.mar", "clearsight")
    write_mar(tiny_package, tmp_path / "two.mar", "clearsight")
    assert (tmp_path / "one.mar").read_bytes() == (tmp_path / "two.mar").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.mar") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        archive.extractall(tmp_path / "unpacked")
    assert not [name for name in names if name.endswith((".py", ".pkl"))]
    assert manifest["model"]["handler"] == "clearsight.handlers.torchserve"
    assert ModelPackage.open(tmp_path / "unpacked" / "package").labels == tiny_package.labels
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.mar", "two.mar", "unpacked"]


@pytest.mark.parametrize("name", ["", "a/b", "é", "a b", ".."])
def test_a_model_name_with_other_characters_is_refused(tiny_package: ModelPackage, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="model_name"):
        write_mar(tiny_package, tmp_path / "x.mar", name)
    assert not (tmp_path / "x.mar").exists()


def test_a_java_home_without_java_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match="bin/java"):
        java_home()
    monkeypatch.delenv("JAVA_HOME")
    assert (java_home() / "bin" / "java").exists()
