"""A closed-loop HTTP/1.1 load client that costs little CPU, in a process of its own.

Each of `concurrency` connections sends a request, reads the complete answer, and sends the next, for `seconds` after a
warm-up that is not counted. Requests are composed before the clock starts. The client knows only the HTTP that the
gateway and TorchServe use: persistent connections, answers with Content-Length or in chunks.

    python -m loadtests.benchmarks.client SPEC.json        # prints a Measurement as JSON
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

__all__ = ["LoadMeasurement", "LoadTarget", "measure"]


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """Where to send: `connect` is `unix:/path` or `host:port`."""

    connect: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LoadMeasurement:
    """The result of one run. Latencies in ms, from the first byte written to the last byte read."""

    requests: int
    seconds: float
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    statuses: dict[str, int]
    client_cpu_s: float


def measure(
    target: LoadTarget, bodies: Sequence[bytes], concurrency: int, seconds: float, warm_up_s: float = 2.0
) -> LoadMeasurement:
    """Run the client in a process of its own and return its result.

    Raises RuntimeError when an answer was not 200: a benchmark of errors is useless.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.body") for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(body)
        spec = {
            "target": {"connect": target.connect, "path": target.path, "headers": dict(target.headers)},
            "bodies": [str(file) for file in files],
            "concurrency": concurrency,
            "seconds": seconds,
            "warm_up_s": warm_up_s,
        }
        spec_file = Path(folder, "spec.json")
        spec_file.write_text(json.dumps(spec))
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.benchmarks.client", str(spec_file)],
            capture_output=True,
            text=True,
            timeout=seconds + warm_up_s + 120,
        )
    if done.returncode:
        raise RuntimeError(f"the load client failed: {done.stderr.strip()[-500:]}")
    measurement = LoadMeasurement(**json.loads(done.stdout))
    if set(measurement.statuses) != {"200"}:
        raise RuntimeError(
            f"every answer must be 200, but got {measurement.statuses} from {target.connect}{target.path}"
        )
    return measurement


class _Connection(asyncio.Protocol):
    """One keep-alive connection; reads an answer at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def request(self, message: bytes) -> "asyncio.Future[int]":
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(message)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        status = self._complete()
        if status and self._answer and not self._answer.done():
            self._answer.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the answer was complete"))

    def _complete(self) -> int:
        """The status of a complete answer in the buffer, which is then emptied; 0 while bytes are missing."""
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return 0
        head = bytes(self._buffer[:head_end]).lower()
        if b"transfer-encoding: chunked" in head:
            if not self._buffer.endswith(b"0\r\n\r\n"):
                return 0
        else:
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self._buffer) < head_end + 4 + length:
                return 0
        status = int(self._buffer[9:12])
        self._buffer.clear()
        return status


async def _connect(connect: str) -> _Connection:
    loop = asyncio.get_running_loop()
    if connect.startswith("unix:"):
        return (await loop.create_unix_connection(_Connection, connect.removeprefix("unix:")))[1]
    host, _, port = connect.rpartition(":")
    return (await loop.create_connection(_Connection, host, int(port)))[1]


async def _run(
    target: LoadTarget, bodies: Sequence[bytes], concurrency: int, seconds: float, warm_up_s: float
) -> LoadMeasurement:
    lines = [f"{name}: {value}" for name, value in target.headers.items()]
    messages = [
        "\r\n".join([f"POST {target.path} HTTP/1.1", "Host: localhost", *lines, f"Content-Length: {len(body)}", "", ""])
        .encode() + body
        for body in bodies
    ]  # fmt: skip
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    counted_from = time.perf_counter() + warm_up_s
    end = counted_from + seconds
    cpu_at_start = 0.0

    async def loop(number: int) -> None:
        nonlocal cpu_at_start
        connection = await _connect(target.connect)
        step = number
        while (started := time.perf_counter()) < end:
            if started >= counted_from and not cpu_at_start:
                cpu_at_start = sum(os.times()[:2])
            try:
                status = await connection.request(messages[step % len(messages)])
            except ConnectionError:
                statuses["connection lost"] += 1
                connection = await _connect(target.connect)
                continue
            finished = time.perf_counter()
            step += concurrency
            # Counted by its end, so that long requests at both edges of the window cancel out.
            if counted_from <= finished <= end:
                latencies.append((finished - started) * 1000)
                statuses[str(status)] += 1
            if connection.transport.is_closing():
                connection = await _connect(target.connect)
        connection.transport.close()

    await asyncio.gather(*(loop(number) for number in range(concurrency)))
    if not latencies:
        raise RuntimeError(f"no request was answered within {seconds} s, but {dict(statuses)}")
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99)).tolist()
    return LoadMeasurement(
        requests=len(latencies),
        seconds=seconds,
        requests_per_s=len(latencies) / seconds,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        statuses=dict(statuses),
        client_cpu_s=sum(os.times()[:2]) - cpu_at_start,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    spec = json.loads(parser.parse_args().spec.read_text())
    bodies = [Path(file).read_bytes() for file in spec["bodies"]]
    run = _run(LoadTarget(**spec["target"]), bodies, spec["concurrency"], spec["seconds"], spec["warm_up_s"])
    print(json.dumps(asdict(asyncio.run(run))))


if __name__ == "__main__":
    main()
