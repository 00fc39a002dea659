"""A real TorchServe with a scorer that misbehaves on demand: nothing that is known to kill a worker may."""

import asyncio
import json
import os
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.serving.supervisor.torchserve_files import ServingPlan
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess, WorkersFailed

pytestmark = [pytest.mark.torchserve, pytest.mark.asyncio(loop_scope="module")]


def plan(scripted_scorer: Path, **environment: str) -> ServingPlan:
    return ServingPlan(
        model_name="blue",
        package=scripted_scorer,
        layout=ServingLayout(num_threads=1, batch_size=4, max_batch_delay_ms=100),
        environment={"PYTHONPATH": str(scripted_scorer), **environment},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(scripted_scorer: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TorchServeProcess]:
    # Characters with a meaning in XML, look-ups and patterns of log4j.
    log_file = tmp_path_factory.mktemp("logs") / "a & <b> ${java:version} %d{yyyy} 'c'" / "blue.log"
    process = TorchServeProcess(plan(scripted_scorer), log_file)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLOUD_API_KEY", "secret")
            patch.setenv("TS_INFERENCE_ADDRESS", "http://0.0.0.0:8080")
            await process.start()
        await process.wait_ready(90)
        yield process
    finally:
        await process.stop()
    assert not process.folder.root.exists()


async def test_one_bad_request_among_four_fails_alone(process: TorchServeProcess) -> None:
    answers = await asyncio.gather(*(process.predict(body) for body in (b"a", b"raise it", b"status 422", b"dddd")))
    assert [status for status, _ in answers] == [200, 500, 422, 200]
    assert [answers[0][1], answers[3][1]] == [b"[1]", b"[4]"]


async def test_simultaneous_requests_share_a_batch(process: TorchServeProcess) -> None:
    answers = await asyncio.gather(*(process.predict(b"facts") for _ in range(4)))
    assert max(json.loads(body)["batch"] for _, body in answers) > 1


async def test_the_worker_survives_everything_that_kills_other_handlers(process: TorchServeProcess) -> None:
    [(pid, _)] = await process.worker_states()
    texts = ["é", "a\r\nb", "a\n[METRICS]Forged.Count:1|#Level:Host", "CUDA out of memory", "\x00\x1b"]
    bodies = [b"raise " + text.encode() for text in texts] + [b"raise \xed\xa0\x80", b"status 413", b"status 599"]
    bodies += [b"big 100663297", b"big 8388609", b"big 8388608", b"x" * 1_000_000]
    statuses = [(await process.predict(body))[0] for body in bodies]
    assert statuses == [500] * 6 + [422, 599, 422, 422, 200, 200]
    assert [pid for pid, _ in await process.worker_states()] == [pid]
    assert json.loads((await process.predict(b"facts"))[1])["pid"] == pid
    log = process.log_file.read_text()
    assert "clearsight | [METRICS]Forged" in log
    assert not [line for line in log.splitlines() if line.startswith("[METRICS]")]


async def test_the_log_lies_where_it_should_and_only_its_owner_reads_it(process: TorchServeProcess) -> None:
    folder = process.log_file.parent
    assert [file.name for file in folder.iterdir()] == ["blue.log"]
    assert "clearsight | " in process.log_file.read_text()
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(process.log_file.stat().st_mode)) == (0o700, 0o600)


async def test_the_largest_answers_of_a_whole_batch_come_back(process: TorchServeProcess) -> None:
    answers = await asyncio.gather(*(process.predict(b"big 8388608") for _ in range(4)))
    assert [(status, len(body)) for status, body in answers] == [(200, 8_388_608)] * 4


async def test_nothing_listens_on_tcp_but_grpc_on_loopback(process: TorchServeProcess) -> None:
    assert process.pid is not None
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listeners = [c for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listeners} == {"127.0.0.1"}
    assert len(listeners) == 2
    assert stat.S_IMODE(process.folder.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(process.folder.key_file.stat().st_mode) == 0o600


async def test_both_planes_ask_for_their_token_and_take_no_models(process: TorchServeProcess) -> None:
    reader, writer = await asyncio.open_unix_connection(str(process.folder.inference_socket))
    writer.write(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
    reader, writer = await asyncio.open_unix_connection(str(process.folder.management_socket))
    request = f"POST /models?url=x.mar HTTP/1.1\r\nAuthorization: Bearer {process.folder.key('management')}\r\n"
    writer.write(f"{request}Host: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 4")
    writer.close()


async def test_a_worker_gets_its_threads_and_no_secret(process: TorchServeProcess) -> None:
    [(pid, _)] = await process.worker_states()
    environment = psutil.Process(pid).environ()
    assert "CLOUD_API_KEY" not in environment
    assert "TS_INFERENCE_ADDRESS" not in environment
    assert environment["OMP_NUM_THREADS"] == "1"
    assert Path(environment["TMPDIR"]).parent == process.folder.root


async def test_torchserve_restarts_a_killed_worker(process: TorchServeProcess) -> None:
    [(pid, _)] = await process.worker_states()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 45
    while time.monotonic() < deadline:
        states = await process.worker_states()
        if states[0][0] != pid and states[0][1] == "READY":
            break
        await asyncio.sleep(0.2)
    assert (await process.predict(b"abc")) == (200, b"[3]")


@pytest.mark.slow
async def test_a_worker_that_cannot_load_is_reported_with_its_reason(scripted_scorer: Path, tmp_path: Path) -> None:
    process = TorchServeProcess(plan(scripted_scorer, SCRIPTED_FAILURE="no such runtime"), tmp_path / "bad.log")
    try:
        await process.start()
        with pytest.raises(WorkersFailed, match="ImportError: no such runtime"):
            await process.wait_ready(90)
    finally:
        await process.stop()
    await process.stop()
    assert not process.folder.root.exists()


async def test_the_folder_of_a_process_is_short_enough_for_its_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    process = TorchServeProcess(plan(tmp_path), tmp_path / "x.log")
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(process.folder.inference_socket))
    finally:
        await process.stop()
