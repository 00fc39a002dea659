"""Predictions of a deployment while 20 explanations wait for its low-priority worker, compared with predictions alone.

ResNet-50 at 224 with seeded random weights, in a service as a user starts it. Both are measured in turn, several times;
the ratio is the median over these pairs. Explanations are XRAI with its default steps; each is requested again as soon
as it is answered, so that there are always 20.
"""

import contextlib
import http.client
import json
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from loadtests.benchmarks.client import LoadMeasurement, LoadTarget, measure
from loadtests.benchmarks.online import random_package, running_service, to_bodies

__all__ = ["LaneRow", "measure_explain_lane"]

NUM_QUEUED: Final = 20
NUM_PAIRS: Final = 5
CONCURRENCIES: Final = (1, 4)
TIMEOUT_S: Final = 180


@dataclass(frozen=True, slots=True)
class LaneRow:
    """Medians over the pairs; milliseconds of predictions."""

    clients: int
    alone_p50_ms: float
    alone_p99_ms: float
    beside_p50_ms: float
    beside_p99_ms: float
    p99_ratio: float
    """Median of the pairs' own ratios; the bar is 1.5."""
    worst_p99_ratio: float
    explained: int
    """Explanations that were answered meanwhile, in all pairs."""
    pairs: int


def measure_explain_lane(images: Sequence[bytes], seconds: float, report: Any = print) -> list[LaneRow]:
    """One row per number of predicting clients."""
    bodies = to_bodies(images)
    variables = {"CLEARSIGHT_EXPLAIN_MAX_IN_FLIGHT": str(NUM_QUEUED)}
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        package = random_package(Path(name), images)
        with running_service(Path(name, "home"), package, "f32", variables, TIMEOUT_S) as service:
            target = service.ways["gateway"]
            _explain_once(target, bodies[0])  # loads the explainer
            for clients in CONCURRENCIES:
                pairs: list[tuple[LoadMeasurement, LoadMeasurement]] = []
                statuses: list[int] = []
                for number in range(NUM_PAIRS):
                    alone = measure(target, bodies, clients, seconds)
                    with _explanations(target, bodies, statuses):
                        beside = measure(target, bodies, clients, seconds)
                    _explain_once(target, bodies[0])  # waits for the one that still runs
                    pairs.append((alone, beside))
                    report(f"  {clients} clients, pair {number + 1}: p99 {alone.p99_ms:.1f} -> {beside.p99_ms:.1f} ms")
                if set(statuses) - {200}:
                    counts = dict(Counter(statuses))
                    raise RuntimeError(f"every explanation must be answered with 200 (0: not at all), but got {counts}")
                rows.append(_row(clients, pairs, len(statuses)))
    return rows


def _row(clients: int, pairs: Sequence[tuple[LoadMeasurement, LoadMeasurement]], explained: int) -> LaneRow:
    ratios = [beside.p99_ms / alone.p99_ms for alone, beside in pairs]
    return LaneRow(
        clients=clients,
        alone_p50_ms=median(alone.p50_ms for alone, _ in pairs),
        alone_p99_ms=median(alone.p99_ms for alone, _ in pairs),
        beside_p50_ms=median(beside.p50_ms for _, beside in pairs),
        beside_p99_ms=median(beside.p99_ms for _, beside in pairs),
        p99_ratio=median(ratios),
        worst_p99_ratio=max(ratios),
        explained=explained,
        pairs=len(pairs),
    )


@contextmanager
def _explanations(target: LoadTarget, bodies: Sequence[bytes], statuses: list[int]) -> Iterator[None]:
    """Keep the lane full while the block runs; the clients then disconnect. Adds the status of each answer."""
    is_over = threading.Event()
    connections = [http.client.HTTPConnection(target.connect, timeout=TIMEOUT_S + 30) for _ in range(NUM_QUEUED)]
    asked_s = [0.0] * NUM_QUEUED

    def ask_on(number: int) -> None:
        connection = connections[number]
        while not is_over.is_set():
            asked_s[number] = time.monotonic()
            try:
                status = _ask(connection, target, bodies[number % len(bodies)])
            except (OSError, http.client.HTTPException):
                if not is_over.is_set():
                    statuses.append(0)
                return
            statuses.append(status)

    threads = [threading.Thread(target=ask_on, args=(number,), daemon=True) for number in range(NUM_QUEUED)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)  # all are sent
    try:
        yield
    finally:
        is_over.set()
        # The waiting ones before the running one: when that one disconnects, the next in the queue would be started.
        for number in sorted(range(NUM_QUEUED), key=lambda number: asked_s[number], reverse=True):
            if sock := connections[number].sock:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()


def _ask(connection: http.client.HTTPConnection, target: LoadTarget, body: bytes) -> int:
    connection.request("POST", target.path.replace("/score", "/explain"), body, dict(target.headers))
    response = connection.getresponse()
    response.read()
    return response.status


def _explain_once(target: LoadTarget, body: bytes) -> None:
    """Request an explanation and wait for it, and so for all before it."""
    document = json.loads(body)
    document["params"] = {"xai_parameters": {"xai_algorithm": "guided_backprop"}}
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        connection = http.client.HTTPConnection(target.connect, timeout=TIMEOUT_S + 30)
        try:
            status = _ask(connection, target, json.dumps(document).encode())
        finally:
            connection.close()
        if status == 200:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"an explanation must be answered with 200, but got {status}")
        time.sleep(0.2)
