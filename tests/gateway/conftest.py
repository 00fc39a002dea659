"""A gateway in the test's event loop, in front of fake upstreams on real unix sockets."""

import asyncio
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from clearsight.serving.gateway.dataplane import DataPlane
from clearsight.serving.gateway.explanation_jobs import ExplanationJobLimits
from clearsight.serving.gateway.limits import HttpLimits
from clearsight.serving.gateway.metrics import GatewayMetrics
from clearsight.serving.gateway.request_log import RequestLog
from clearsight.serving.gateway.server import HttpServer
from clearsight.serving.gateway.table import Deployment, Endpoint, ExplainLane, RoutingTable, Upstream

PRIMARY, SECONDARY = "primary-key-of-at-least-32-bytes-long", "secondary-key-of-at-least-32-bytes-lg"
ANSWER = b'[{"probs":[0.25,0.75],"labels":["can","carton"]}]'
PHRASES = {200: "OK", 400: "Bad Request", 500: "Internal Server Error", 503: "Service Unavailable"}

Behaviour = Callable[[bytes, bytes], Awaitable[bytes]]


def reply(status: int = 200, body: bytes = ANSWER, *, phrase: str = "", mark: bool = True, **headers: str) -> bytes:
    """An HTTP answer as a handler gives it (`mark`) or as TorchServe itself does."""
    lines = [f"HTTP/1.1 {status} {phrase or PHRASES.get(status, 'Something')}", f"content-length: {len(body)}"]
    headers = {"content_type": "application/json", **headers}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if mark:
        lines.append("x-clearsight-answer: 1")
    return "\r\n".join([*lines, "", ""]).encode() + body


class LoopClock:
    """The clock of the running event loop, which a test moves: timers and time limits pass without waiting."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._real_time = loop.time
        self._moved_s = 0.0
        loop.time = self.time  # type: ignore[method-assign]

    def time(self) -> float:
        return self._real_time() + self._moved_s

    async def advance(self, seconds: float) -> None:
        """Move by `seconds`; before and after, everything happens that needs no waiting."""
        await settle()
        self._moved_s += seconds
        await settle()


async def settle() -> None:
    """Let the event loop do what can be done without waiting."""
    for _ in range(50):
        await asyncio.sleep(0)


class FakeUpstream:
    """A unix-socket HTTP server. `behave` gets head and body and returns raw bytes; b"" closes the connection."""

    def __init__(self, folder: Path, name: str) -> None:
        self.socket = str(folder / f"{name}.sock")
        self.key_file = folder / f"{name}.json"
        self.key_file.write_text(json.dumps({"inference": {"key": "inner-token"}}))
        self.requests: list[tuple[bytes, bytes]] = []
        self.num_connections = 0
        self.answer = reply()
        self.behave: Behaviour = self._answer
        self._tasks: set[asyncio.Task[None]] = set()

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        return self.answer

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.socket)

    async def stop(self) -> None:
        self._server.close()
        Path(self.socket).unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.requests.append((head, body))
                data = await self.behave(head, body)
                writer.write(data)
                await writer.drain()
                if not data or data.endswith(b"<cut>"):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


@dataclass
class Gateway:
    """A running gateway, its components, and a client."""

    folder: Path
    upstreams: dict[str, FakeUpstream]
    data_plane: DataPlane
    http: HttpServer
    metrics: GatewayMetrics
    log: RequestLog
    clock: LoopClock
    client: aiohttp.ClientSession
    url: str
    port: int
    tables: list[RoutingTable] = field(default_factory=list)

    def deployment(self, name: str, **changes: Any) -> Deployment:
        return replace(Deployment(f"{name}-1", (self.upstream(name),), 64, 128, 5.0), **changes)

    def upstream(self, name: str, **changes: Any) -> Upstream:
        """The only server process of `deployment(name)`."""
        fake = self.upstreams[name]
        return replace(Upstream(fake.socket, f"/predictions/{name}", str(fake.key_file)), **changes)

    def explain_lane(self, name: str, **changes: Any) -> ExplainLane:
        """An explain lane for `deployment(explain=…)`."""
        upstream = self.upstream(name, path=f"/predictions/{name}-explain")
        return replace(ExplainLane(upstream, f"/explanations/{name}-explain", 1, 4, 5.0), **changes)

    def route(self, traffic: dict[str, int] | None = None, keys: tuple[str, ...] = (PRIMARY, SECONDARY),
              **deployments: Deployment) -> RoutingTable:  # fmt: skip
        """Put endpoint `fridge` in force: by default blue with all traffic, and green."""
        deployments_by_name = {"blue": self.deployment("blue"), "green": self.deployment("green"), **deployments}
        hashes = tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys)
        traffic = {"blue": 100} if traffic is None else traffic
        table = RoutingTable(len(self.tables) + 1, {"fridge": Endpoint("key", hashes, traffic, deployments_by_name)})
        self.tables.append(table)
        self.data_plane.swap(table)
        return table

    async def score(self, body: Any = b"{}", key: str | None = PRIMARY, pin: str | None = None,
                    path: str = "/endpoints/fridge/score", **headers: str) -> "Reply":  # fmt: skip
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if pin is not None:
            sent["azureml-model-deployment"] = pin
        async with self.client.post(self.url + path, data=body, headers=sent) as response:
            return Reply(
                response.status, await response.read(), {name.lower(): text for name, text in response.headers.items()}
            )

    async def get(self, path: str, method: str = "GET", **headers: str) -> "Reply":
        async with self.client.request(method, self.url + path, headers=headers) as response:
            return Reply(
                response.status, await response.read(), {name.lower(): text for name, text in response.headers.items()}
            )

    async def raw(self, data: bytes, *, pieces: int = 1, wait_s: float = 5.0) -> bytes:
        """Send bytes on a connection of their own and return everything until the gateway closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            step = -(-len(data) // pieces) or 1
            with contextlib.suppress(ConnectionError):
                for start in range(0, len(data), step):
                    writer.write(data[start : start + step])
                    await writer.drain()
            received = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(wait_s):
                    while piece := await reader.read(65536):
                        received += piece
            return received
        finally:
            writer.close()

    def log_lines(self) -> list[dict[str, Any]]:
        self.log._flush(self.log._take())
        return [json.loads(line) for line in self.log.path.read_text().splitlines()]


@dataclass
class Reply:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


LIMITS = HttpLimits(
    head_timeout_s=5.0, body_idle_timeout_s=5.0, body_timeout_s=5.0, discard_timeout_s=0.3, sweep_s=0.02
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket path holds 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="gw"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def gateway(folder: Path) -> AsyncIterator[Gateway]:
    """Small limits: 64 KiB bodies, a budget of 256 KiB, 5 s for a request to arrive."""
    loop, clock = asyncio.get_running_loop(), LoopClock()
    upstreams = {name: FakeUpstream(folder, name) for name in ("blue", "green")}
    for upstream in upstreams.values():
        await upstream.start()
    metrics, log = GatewayMetrics(), RequestLog(folder / "requests.log")
    log.start(loop)
    data_plane = DataPlane(
        max_body_bytes=64 * 1024,
        memory_budget_bytes=256 * 1024,
        metrics=metrics,
        request_log=log,
        random=Random(7),
        loop=loop,
        job_limits=ExplanationJobLimits(max_bytes=64 * 1024, result_kept_s=60.0, poll_s=0.01),
    )
    http = HttpServer(data_plane, LIMITS, loop)
    server = await loop.create_server(http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        url = f"http://127.0.0.1:{port}"
        made = Gateway(folder, upstreams, data_plane, http, metrics, log, clock, client, url, port)
        made.route()
        yield made
    server.close()
    await data_plane.jobs.close()
    await http.drain(0.5, idle_grace_s=0.0)
    for generation in data_plane._generations.values():
        generation.close()
    await asyncio.sleep(0)
    for upstream in upstreams.values():
        await upstream.stop()
    await log.stop()
    assert data_plane.num_body_bytes == 0
    assert not any(data_plane.in_flight().values())


@pytest.fixture
def make_reply() -> Callable[..., bytes]:
    return reply


@pytest.fixture
def keys() -> tuple[str, str]:
    return PRIMARY, SECONDARY
