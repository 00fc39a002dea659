"""The same requests to the Scorer alone, to TorchServe, through the gateway, and to stock TorchServe.

ResNet-50 at 224 with seeded random weights: speed does not depend on the weights, and accuracy is not measured here.
The service is started as a user starts it (`clearsight serve` and the verbs), in the layout that a deployment chooses
by itself; the limit is that of the fastest layout. For each number of clients the ways are measured one after the
other, between two measurements of the limit; if those differ by more than 10 %, the ways between do not count.
"""

import base64
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import torch

from clearsight.documents.settings import ClassificationSettings
from clearsight.exporters.write import write_package
from clearsight.networks.families.table import build_network
from clearsight.runs.package import MANIFEST_FILE
from clearsight.serving.supervisor.torchserve_files import free_ports
from clearsight.tasks import Task
from loadtests.benchmarks.client import LoadMeasurement, LoadTarget, measure
from loadtests.benchmarks.in_process import WorkerLayout, in_process_limit
from loadtests.benchmarks.stock_torchserve import stock_torchserve

__all__ = [
    "ENDPOINT",
    "MAX_DRIFT",
    "OnlineRow",
    "Service",
    "measure_online",
    "random_package",
    "running_service",
    "to_bodies",
]

NUM_CLASSES = 10
MODEL = "resnet50"
ENDPOINT = "bench"
INSTANCES = 2  # while one worker decodes and answers, the other computes
MAX_DRIFT = 0.10
CONCURRENCIES = (1, 8, 32)
CANDIDATES = ((1, 2, 8), (2, 1, 1), (2, 1, 8), (2, 2, 1), (2, 2, 8))
"""Workers, threads of each, requests per batch."""


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """Medians over the passes that count. `way` is direct (TorchServe), gateway, or stock."""

    precision: str
    layout: str
    way: str
    concurrency: int
    requests_per_s: float
    over_limit: float
    """Requests/s over the in-process limit around this measurement."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    added_p50_ms: float | None
    """For one client: p50 minus the in-process latency of one request."""
    client_cpu: float
    """Share of one core that the client took."""
    limit_requests_per_s: float
    passes: int


def measure_online(
    images: Sequence[bytes], precision: str, seconds: float, passes: int, report: Any = print
) -> list[OnlineRow]:
    """Measure every way in one precision; no rows where the machine cannot run it. Stock TorchServe: f32 only."""
    bodies = to_bodies(images)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        folder = Path(name)
        package = random_package(folder, images)
        try:
            service = stack.enter_context(running_service(folder / "home", package, precision))
        except RuntimeError as error:
            if precision == "f32":
                raise
            report(f"  no rows for {precision}: this machine cannot run it ({error})")
            return []
        fastest = _fastest_layout(package, service.layout.backend, precision, bodies, report)
        report(f"limit: {fastest}; service: {service.layout}")
        targets = {way: (target, bodies) for way, target in service.ways.items()}
        if precision == "f32":
            stock = stack.enter_context(_stock(folder, threads=None))
            tuned = stack.enter_context(_stock(folder, threads=1))
            targets |= {"stock": (stock, list(images)), "stock, 1 thread": (tuned, list(images))}
        samples: dict[tuple[str, int], list[_Sample]] = {}
        for number in range(passes):
            report(f"pass {number + 1} of {passes}")
            _one_pass(package, service.layout, fastest, bodies, targets, seconds, samples, report)
    return [_row(precision, service.layout, way, c, taken) for (way, c), taken in samples.items()]


def to_bodies(images: Sequence[bytes]) -> list[bytes]:
    """A request for each image, as Azure's sample clients write it."""
    return [
        json.dumps({"input_data": {"columns": ["image"], "data": [base64.encodebytes(image).decode()]}}).encode()
        for image in images
    ]


@dataclass(frozen=True, slots=True)
class _Sample:
    measurement: LoadMeasurement
    limit: float
    alone_ms: float


def _one_pass(
    package: Path,
    service: WorkerLayout,
    fastest: WorkerLayout,
    bodies: Sequence[bytes],
    targets: Mapping[str, tuple[LoadTarget, Sequence[bytes]]],
    seconds: float,
    samples: dict[tuple[str, int], list[_Sample]],
    report: Any,
) -> None:
    """Measure every way once per number of clients; keep the results between two limits that agree."""
    lone = WorkerLayout(service.backend, service.precision, 1, service.threads, 1)
    before = in_process_limit(package, fastest, bodies, seconds).requests_per_s
    for concurrency in CONCURRENCIES:
        alone_ms = in_process_limit(package, lone, bodies, seconds / 2).latency_ms if concurrency == 1 else math.nan
        taken = {way: measure(target, contents, concurrency, seconds) for way, (target, contents) in targets.items()}
        after = in_process_limit(package, fastest, bodies, seconds).requests_per_s
        drift = abs(after - before) / before
        verdict = "" if drift <= MAX_DRIFT else ": does not count, the machine's speed changed"
        report(f"  {concurrency} clients: limit {before:.1f} -> {after:.1f} requests/s, drift {drift:.1%}{verdict}")
        if drift <= MAX_DRIFT:
            for way, measurement in taken.items():
                samples.setdefault((way, concurrency), []).append(_Sample(measurement, (before + after) / 2, alone_ms))
        before = after


def _row(precision: str, layout: WorkerLayout, way: str, concurrency: int, samples: Sequence[_Sample]) -> OnlineRow:
    def middle(name: str) -> float:
        return median(getattr(sample.measurement, name) for sample in samples)

    ours = not way.startswith("stock")
    return OnlineRow(
        precision=precision,
        layout=str(layout) if ours else "eager torch, image_classifier, 2 workers",
        way=way,
        concurrency=concurrency,
        requests_per_s=middle("requests_per_s"),
        over_limit=median(sample.measurement.requests_per_s / sample.limit for sample in samples),
        p50_ms=middle("p50_ms"),
        p95_ms=middle("p95_ms"),
        p99_ms=middle("p99_ms"),
        added_p50_ms=median(sample.measurement.p50_ms - sample.alone_ms for sample in samples)
        if concurrency == 1 and ours
        else None,
        client_cpu=median(sample.measurement.client_cpu_s / sample.measurement.seconds for sample in samples),
        limit_requests_per_s=median(sample.limit for sample in samples),
        passes=len(samples),
    )


def random_package(folder: Path, images: Sequence[bytes]) -> Path:
    """Write the package of a ResNet-50 with seeded random weights; return its folder."""
    files = []
    for number, image in enumerate(images):
        file = folder / f"{number}.jpg"
        file.write_bytes(image)
        files.append(file)
    torch.manual_seed(0)
    target = folder / "mlflow-model"
    write_package(
        target,
        task=Task.MULTI_CLASS,
        model_name=MODEL,
        labels=tuple(f"class_{number}" for number in range(NUM_CLASSES)),
        network=build_network(MODEL, NUM_CLASSES).eval(),
        settings=ClassificationSettings(),
        parity_images=files,
        run_id="benchmark",
        pretrained={"source": "random"},
    )
    # With random weights the accuracy of bf16 has no meaning: the gate is passed for this measurement of speed.
    manifest = json.loads((target / MANIFEST_FILE).read_text())
    manifest["precision_gates"] = {"bf16": {"passed": True, "reason": "not applicable: random weights, speed only"}}
    (target / MANIFEST_FILE).write_text(json.dumps(manifest))
    return target


def _fastest_layout(package: Path, backend: str, precision: str, bodies: Sequence[bytes], report: Any) -> WorkerLayout:
    """The layout with the highest in-process throughput of this backend: the limit."""
    found: dict[WorkerLayout, float] = {}
    for workers, threads, batch_size in CANDIDATES:
        layout = WorkerLayout(backend, precision, workers, threads, batch_size)
        found[layout] = in_process_limit(package, layout, bodies, 3.0).requests_per_s
        report(f"  {layout}: {found[layout]:.1f} requests/s in process")
    return max(found, key=lambda layout: found[layout])


@dataclass(frozen=True, slots=True)
class Service:
    layout: WorkerLayout
    """What the deployment chose on this machine."""
    ways: Mapping[str, LoadTarget]


@contextmanager
def running_service(
    home: Path, package: Path, precision: str, variables: Mapping[str, str] = MappingProxyType({}), timeout_s: int = 60
) -> Iterator[Service]:
    """`clearsight serve` with one deployment, which measures and chooses its layout by itself.

    `variables` are further environment variables of the deployment.
    """
    program = str(Path(sys.executable).with_name("clearsight"))
    environment = {**os.environ, "CLEARSIGHT_HOME": str(home)}

    def verb(*arguments: str) -> Any:
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"clearsight {' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout else None

    home.mkdir()
    deployment = home / "deployment.yml"
    deployment.write_text(
        json.dumps(
            {
                "name": "blue",
                "endpoint_name": ENDPOINT,
                "model": {"path": str(package), "type": "mlflow_model"},
                "instance_type": "local",
                "instance_count": INSTANCES,
                "request_settings": {
                    "request_timeout_ms": timeout_s * 1000,
                    "max_concurrent_requests_per_instance": max(CONCURRENCIES),
                },
                "environment_variables": {"CLEARSIGHT_PRECISION": precision, **variables},
            }
        )
    )
    with (home / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "serve", "--port", str(free_ports(1)[0])], env=environment, stdout=log, stderr=log
        )
    try:
        _wait_for(home / "control.sock", server, home / "serve.log")
        verb("online-endpoint", "create", "--name", ENDPOINT)
        created = verb("online-deployment", "create", "--file", str(deployment), "--all-traffic")
        key = verb("online-endpoint", "get-credentials", "--name", ENDPOINT)["primaryKey"]
        uri = verb("online-endpoint", "show", "--name", ENDPOINT)["scoring_uri"]
        host, _, path = uri.removeprefix("http://").partition("/")
        table = json.loads((home / "endpoints" / "routing.json").read_text())
        upstream = table["endpoints"][ENDPOINT]["deployments"]["blue"]["upstream"]
        token = json.loads(Path(upstream["key_file"]).read_text())["inference"]["key"]
        json_headers = {"Content-Type": "application/json"}
        chosen = created["serving"]
        layout = WorkerLayout(
            chosen["backend"], precision, chosen["workers"], chosen["num_threads"], chosen["batch_size"]
        )
        ways = {
            "direct": LoadTarget(
                f"unix:{upstream['socket']}", upstream["path"], {**json_headers, "Authorization": f"Bearer {token}"}
            ),
            "gateway": LoadTarget(host, f"/{path}", {**json_headers, "Authorization": f"Bearer {key}"}),
        }
        yield Service(layout, ways)
    finally:
        server.terminate()
        server.wait(60)


def _wait_for(socket: Path, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"clearsight serve did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)


@contextmanager
def _stock(folder: Path, threads: int | None) -> Iterator[LoadTarget]:
    stock_folder = folder / f"stock-{threads}"
    stock_folder.mkdir()
    java_home = subprocess.check_output([str(Path(sys.executable).with_name("clearsight")), "java-home"], text=True)
    with stock_torchserve(NUM_CLASSES, java_home.strip(), stock_folder, threads) as target:
        yield target
