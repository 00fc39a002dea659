"""The process of the gateway: control socket, state file, signals."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

MODULES = """
import sys
import clearsight.serving.gateway.__main__
unwanted = ("torch", "numpy", "ts", "onnxruntime", "mlflow", "clearsight.handlers")
print([name for name in unwanted if name in sys.modules])
"""


class Process:
    """A running gateway process."""

    def __init__(self, process: asyncio.subprocess.Process, announcement: dict[str, str]) -> None:
        self.process = process
        self.url = announcement["url"]
        self.metrics_url = announcement.get("metrics_url")
        self.control_socket = announcement["control"]

    async def control(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.control_socket)) as client,
            client.request(method, f"http://localhost{path}", data=body) as response,
        ):
            return response.status, await response.read()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 10)


@pytest.fixture
async def start(folder) -> AsyncIterator:
    processes = []

    async def start(*arguments: str, fails: bool = False):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clearsight.serving.gateway", "--port", "0", "--state", str(folder / "state.json"),
            "--control", str(folder / "control.sock"), "--request-log", str(folder / "process.log"), *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        if fails:
            _, error = await asyncio.wait_for(process.communicate(), 10)
            return process.returncode, error.decode()
        line = await asyncio.wait_for(process.stdout.readline(), 10)
        return Process(process, json.loads(line))

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_imports_neither_torch_nor_code_of_models(start):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", MODULES, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.decode().strip() == "[]"


async def test_the_table_is_in_force_private_and_restored(start, gateway, folder, keys):
    table = gateway.route()
    first = await start("--metrics-port", "0")
    assert (await first.control("GET", "/in-flight"))[1] == b"{}"
    assert (await gateway.client.get(first.url + "/endpoints/fridge/")).status == 404
    status, body = await first.control("PUT", "/table", table.to_json())
    assert (status, json.loads(body)) == (200, {"version": table.version})
    assert (await gateway.client.get(first.url + "/endpoints/fridge/")).status == 200
    assert json.loads((await first.control("GET", "/in-flight"))[1]) == {"blue-1": 0, "green-1": 0}
    health = json.loads((await first.control("GET", "/health"))[1])
    assert (health["status"], health["table_version"]) == ("ok", table.version)
    for path in (folder / "state.json", folder / "control.sock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"aml_connections_active" in (await first.control("GET", "/metrics"))[1]
    async with gateway.client.get(first.metrics_url) as response:
        assert b"aml_deployment_capacity" in await response.read()
    async with gateway.client.get(first.metrics_url.replace("/metrics", "/table")) as response:
        assert response.status == 404
    assert await first.stop(signal.SIGINT) == 0
    assert not (folder / "control.sock").exists()

    second = await start()
    headers = {"Authorization": f"Bearer {keys[0]}"}
    async with gateway.client.post(second.url + "/endpoints/fridge/score", json={}, headers=headers) as response:
        assert response.status == 200


async def test_a_bad_table_is_refused_with_its_faults_and_changes_nothing(start, gateway, folder):
    process = await start()
    await process.control("PUT", "/table", gateway.route().to_json())
    before = (folder / "state.json").read_bytes()
    for content in (b"", b"{}x", b'{"version":1,"endpoints":{"a":{}}}'):
        status, body = await process.control("PUT", "/table", content)
        assert (status, json.loads(body)["error"]["code"]) == (400, "BadArgument")
    assert b"auth_mode" in body
    assert (folder / "state.json").read_bytes() == before
    assert json.loads((await process.control("GET", "/health"))[1])["table_version"] == 2


async def test_a_taken_control_socket_or_port_is_one_clear_line(start, folder):
    running = await start()
    code, error = await start(fails=True)
    assert (code, error.count("\n")) == (1, 1)
    assert "control.sock must be free" in error
    port = running.url.rpartition(":")[2]
    code, error = await start("--control", str(folder / "other.sock"), "--port", port, fails=True)
    assert (code, error.count("\n")) == (1, 1)
    assert "must be an address to listen on" in error


async def test_a_control_socket_left_by_a_killed_gateway_is_taken_over(start):
    first = await start()
    assert await first.stop(signal.SIGKILL) == -signal.SIGKILL
    second = await start()
    assert (await second.control("GET", "/health"))[0] == 200


async def test_a_damaged_state_file_is_one_clear_line(start, folder):
    (folder / "state.json").write_text("{")
    code, error = await start(fails=True)
    assert code == 1
    assert "Traceback" not in error
    assert "routing table" in error


async def test_stopping_under_load_finishes_every_request_and_resets_none(start, gateway, keys, make_reply):
    process = await start()
    await process.control("PUT", "/table", gateway.route().to_json())

    async def behave(head, body):
        await asyncio.sleep(0.15)
        return make_reply(200, body)

    gateway.upstreams["blue"].behave = behave
    headers = {"Authorization": f"Bearer {keys[0]}", "Content-Type": "application/json"}
    outcomes = Counter()

    async def client():
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.post(
                        process.url + "/endpoints/fridge/score", data=b"x" * 1000, headers=headers
                    ) as response:
                        assert await response.read() == b"x" * 1000
                        outcomes[response.status] += 1
                except aiohttp.ClientConnectorError:  # the socket is closed: refused before anything was sent
                    outcomes["refused"] += 1
                    return

    clients = [asyncio.create_task(client()) for _ in range(10)]
    await asyncio.sleep(0.5)
    assert await process.stop() == 0
    await asyncio.gather(*clients)
    assert set(outcomes) == {200, "refused"}
    assert outcomes["refused"] == 10
    log = [json.loads(line) for line in (gateway.folder / "process.log").read_text().splitlines()]
    assert Counter(line["ResponseCode"] for line in log) == {200: outcomes[200]}


async def test_a_request_that_outlives_the_drain_limit_is_cut_and_the_exit_code_says_so(start, gateway, keys):
    process = await start("--drain-limit", "0.3")
    await process.control("PUT", "/table", gateway.route().to_json())
    is_inside = asyncio.Event()

    async def never(head, body):
        is_inside.set()
        await asyncio.sleep(3)
        return b""

    gateway.upstreams["blue"].behave = never
    headers = {"Authorization": f"Bearer {keys[0]}"}
    request = asyncio.create_task(
        gateway.client.post(process.url + "/endpoints/fridge/score", json={}, headers=headers).__aenter__()
    )
    await is_inside.wait()
    assert await process.stop() == 1
    with contextlib.suppress(aiohttp.ClientError):
        await request


def test_a_private_socket_is_private_whatever_the_mask_of_the_process(folder):
    from clearsight.unix_sockets import bind_private_socket

    mask = os.umask(0)
    try:
        listener = bind_private_socket(folder / "c.sock", "in use")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((folder / "c.sock").stat().st_mode) == 0o600
    assert listener.family == socket.AF_UNIX
    listener.close()
