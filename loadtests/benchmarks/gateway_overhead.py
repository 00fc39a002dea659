"""The cost of the gateway: 100 KB bodies to a minimal upstream, directly and through it, with 1 and 8 clients.

    python -m loadtests.benchmarks.gateway_overhead [--seconds 5] [--passes 3]

The upstream is an asyncio protocol on a unix socket that answers every request with the same 200 bytes; upstream,
gateway and load client are processes of their own. Direct runs and runs through the gateway alternate, and the added
times are differences within a pass; the table shows the median pass. CPU per request is the user and system time of
the gateway's process divided by the requests that it answered, warm-up included.

Last, 8 clients alone and beside a connection that sends 200 GET requests in one write, reads the answers, and sends the
next 200 after 100 ms: other connections are served between two answers of such a pipeline.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import uvloop

from clearsight.serving.gateway.table import Deployment, Endpoint, RoutingTable, Upstream
from loadtests.benchmarks.client import LoadMeasurement, LoadTarget, measure
from loadtests.benchmarks.machine import describe_machine

__all__ = ["BesidePipelines", "Overhead", "measure_beside_pipelines", "measure_overhead"]

BODY_BYTES = 100_000
# Letters and a newline every 76 bytes, as in the base64 of Azure's sample clients.
BODY = (b"A" * 76 + b"\n") * (BODY_BYTES // 77)
PIPELINED = 200
KEY = "benchmark-key-of-more-than-32-bytes-length"
ANSWER_BODY = b"[" + b'{"probs":[0.1,0.2,0.7],"labels":["carton","can","water_bottle"]}' * 3 + b"]"
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-clearsight-answer: 1\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(ANSWER_BODY), ANSWER_BODY)
)


@dataclass(frozen=True, slots=True)
class Overhead:
    """Medians over the passes. Times in ms; `cpu_us` is the gateway's CPU per request in microseconds."""

    concurrency: int
    direct: LoadMeasurement
    through: LoadMeasurement
    added_p50_ms: float
    added_p95_ms: float
    added_p99_ms: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class BesidePipelines:
    """The median pass, by the ratio of the 99th percentiles."""

    alone: LoadMeasurement
    beside: LoadMeasurement
    num_pipelines: int

    @property
    def p99_ratio(self) -> float:
        return self.beside.p99_ms / self.alone.p99_ms


@dataclass(frozen=True, slots=True)
class _Stand:
    """A running gateway and its upstream."""

    direct: LoadTarget
    through: LoadTarget
    gateway: psutil.Process
    request_log: Path


class _FixedAnswer(asyncio.Protocol):
    """Counts the bytes of requests framed by Content-Length and answers each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._head = b""
        self._num_missing = 0

    def data_received(self, data: bytes) -> None:
        if self._num_missing == 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = int(self._head[:end].lower().split(b"content-length:")[1].split(b"\r\n")[0])
            self._num_missing = length - (len(self._head) - end - 4)
            self._head = b""
        else:
            self._num_missing -= len(data)
        if self._num_missing == 0:
            self._transport.write(ANSWER)  # type: ignore[attr-defined]


async def _serve_fixed_answer(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_FixedAnswer, path)
    print("ready", flush=True)
    await server.serve_forever()


@contextmanager
def _process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process and the first line it printed."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or not (line := process.stdout.readline()):
            raise RuntimeError(f"{' '.join(arguments)} did not start")
        yield process, line
    finally:
        process.terminate()
        process.wait(30)


def _put_table(control: Path, table: RoutingTable) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(control))
    connection.request("PUT", "/table", table.to_json())
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(answer.read().decode())
    connection.close()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _open_stand() -> Iterator[_Stand]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream_socket, control, request_log = (
            folder / "upstream.sock",
            folder / "control.sock",
            folder / "requests.log",
        )
        key_file = folder / "key_file.json"
        key_file.write_text(json.dumps({"inference": {"key": "token"}}))
        upstream = Upstream(str(upstream_socket), "/predictions/blue", str(key_file))
        deployment = Deployment("blue-1", (upstream,), 64, 128, 30.0)
        other = Deployment("green-1", (upstream,), 64, 128, 30.0)
        endpoint = Endpoint(
            "key",
            (hashlib.sha256(KEY.encode()).hexdigest(), hashlib.sha256(b"other").hexdigest()),
            {"blue": 90, "green": 10},
            {"blue": deployment, "green": other},
        )
        gateway_arguments = (
            "-m", "clearsight.serving.gateway", "--port", "0", "--state", str(folder / "state.json"),
            "--control", str(control), "--request-log", str(request_log),
        )  # fmt: skip
        upstream_arguments = ("-m", "loadtests.benchmarks.gateway_overhead", "--upstream", str(upstream_socket))
        with _process(*upstream_arguments), _process(*gateway_arguments) as (gateway, announcement):
            _put_table(control, RoutingTable(1, {"bench": endpoint}))
            address = json.loads(announcement)["url"].removeprefix("http://")
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
            yield _Stand(
                LoadTarget(f"unix:{upstream_socket}", "/predictions/blue", headers),
                LoadTarget(address, "/endpoints/bench/score", headers),
                psutil.Process(gateway.pid),
                request_log,
            )


def measure_overhead(seconds: float, passes: int, concurrencies: tuple[int, ...] = (1, 8)) -> list[Overhead]:
    """One row per concurrency."""
    rows: list[Overhead] = []
    with _open_stand() as stand:
        for concurrency in concurrencies:
            runs: list[Overhead] = []
            for _ in range(passes):
                plain = measure(stand.direct, [BODY], concurrency, seconds, warm_up_s=0.5)
                lines_before, cpu_before = _num_lines(stand.request_log), _cpu_s(stand.gateway)
                passed = measure(stand.through, [BODY], concurrency, seconds, warm_up_s=0.5)
                cpu = _cpu_s(stand.gateway) - cpu_before
                time.sleep(1.0)  # the request log is written every half second
                runs.append(
                    Overhead(
                        concurrency,
                        plain,
                        passed,
                        passed.p50_ms - plain.p50_ms,
                        passed.p95_ms - plain.p95_ms,
                        passed.p99_ms - plain.p99_ms,
                        cpu / (_num_lines(stand.request_log) - lines_before) * 1e6,
                    )
                )
            rows.append(sorted(runs, key=lambda run: run.added_p50_ms)[len(runs) // 2])
            spread = [f"{run.added_p50_ms:.3f}" for run in runs]
            print(f"concurrency {concurrency}: added p50 of each pass, ms: {' '.join(spread)}; "
                  f"median CPU {median(run.cpu_us for run in runs):.0f} us", file=sys.stderr)  # fmt: skip
    return rows


def measure_beside_pipelines(seconds: float, passes: int, concurrency: int = 8) -> BesidePipelines:
    """Clients of the gateway, alone and beside a connection that pipelines."""
    runs: list[BesidePipelines] = []
    with _open_stand() as stand:
        for _ in range(passes):
            alone = measure(stand.through, [BODY], concurrency, seconds, warm_up_s=0.5)
            stop, answered = threading.Event(), list[int]()
            thread = threading.Thread(target=_pipeline, args=(stand.through.connect, stop, answered))
            thread.start()
            try:
                beside = measure(stand.through, [BODY], concurrency, seconds, warm_up_s=0.5)
            finally:
                stop.set()
                thread.join()
            runs.append(BesidePipelines(alone, beside, len(answered)))
    print(f"p99 beside pipelines of each pass: {' '.join(f'{run.p99_ratio:.2f}' for run in runs)}", file=sys.stderr)
    return sorted(runs, key=lambda run: run.p99_ratio)[len(runs) // 2]


def _pipeline(address: str, stop: threading.Event, answered: list[int]) -> None:
    """Until `stop` is set: 200 requests in one write, then their answers, then a pause. Appends the bytes of each."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        answer_bytes = len(connection.recv(65536))
        while not stop.wait(0.1):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n" * PIPELINED)
            missing = answer_bytes * PIPELINED
            while missing:
                received = len(connection.recv(65536))
                if not received:
                    raise RuntimeError("the gateway closed a connection that pipelines")
                missing -= received
            answered.append(answer_bytes * PIPELINED)


def _num_lines(file: Path) -> int:
    """Requests that the gateway has answered, from its log."""
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--upstream", metavar="SOCKET", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.upstream:
        uvloop.run(_serve_fixed_answer(arguments.upstream))
        return
    rows = measure_overhead(arguments.seconds, arguments.passes)
    pipelined = measure_beside_pipelines(arguments.seconds, arguments.passes)
    for name, value in describe_machine().items():
        print(f"{name}: {value}")
    print(f"load: {os.getloadavg()[0]:.2f} at the end")
    print(f"body: {BODY_BYTES} bytes\n")
    print("clients  way       p50 ms  p95 ms  p99 ms      req/s")
    for row in rows:
        for way, run in (("direct", row.direct), ("gateway", row.through)):
            print(f"{row.concurrency:7}  {way:8} {run.p50_ms:7.3f} {run.p95_ms:7.3f} {run.p99_ms:7.3f} "
                  f"{run.requests_per_s:10.0f}")  # fmt: skip
        print(f"{row.concurrency:7}  added    {row.added_p50_ms:7.3f} {row.added_p95_ms:7.3f} {row.added_p99_ms:7.3f}"
              f"   gateway CPU per request: {row.cpu_us:.0f} us")  # fmt: skip
    for way, run in (("alone", pipelined.alone), ("beside pipelines", pipelined.beside)):
        print(f"8 clients {way:16} {run.p50_ms:7.3f} {run.p95_ms:7.3f} {run.p99_ms:7.3f} {run.requests_per_s:10.0f}")
    print(
        f"99th percentile beside {pipelined.num_pipelines} pipelines of {PIPELINED}: {pipelined.p99_ratio:.2f} of alone"
    )


if __name__ == "__main__":
    main()
