"""The same requests to the Scorer alone, to TorchServe, through the gateway, and to stock TorchServe.

ResNet-50 at 224 with seeded random weights: speed does not depend on the weights, so nothing is said about accuracy
here. The service is started as a user starts it (`clearsight serve` and the verbs). Every pass measures every way in
turn, and the limit before and after; a pass whose limit drifts by more than 10 % does not count.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from clearsight.exporters.write import write_package
from clearsight.networks.registry import build_network
from clearsight.package import MANIFEST_FILE
from clearsight.settings import ClassificationSettings
from clearsight.tasks import Task
from loadtests.benchmarks.client import Measurement, Target, measure
from loadtests.benchmarks.in_process import Layout, in_process_limit
from loadtests.benchmarks.stock_torchserve import free_ports, stock_torchserve

__all__ = ["OnlineRow", "measure_online"]

NUM_CLASSES = 10
MODEL = "resnet50"
ENDPOINT = "bench"
MAX_DRIFT = 0.10
CONCURRENCIES = (1, 8, 32)
CANDIDATES = (
    Layout("openvino", "f32", 1, 2, 8),
    Layout("openvino", "f32", 2, 1, 1),
    Layout("openvino", "f32", 2, 1, 8),
    Layout("onnxruntime", "f32", 1, 2, 8),
    Layout("onnxruntime", "f32", 2, 1, 1),
)


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """Medians over the passes that count. `way` is direct (TorchServe), gateway, or stock."""

    precision: str
    layout: str
    way: str
    concurrency: int
    requests_per_s: float
    over_limit: float
    """Requests/s over the in-process limit of the same pass; for one client, of batch 1."""
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
    pictures: Sequence[bytes], precisions: Sequence[str], seconds: float, passes: int, say: Any = print
) -> list[OnlineRow]:
    """Measure every way for every precision; stock TorchServe runs in eager f32, once."""
    bodies = [
        json.dumps({"input_data": {"columns": ["image"], "data": [base64.encodebytes(picture).decode()]}}).encode()
        for picture in pictures
    ]
    rows: list[OnlineRow] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        package = _random_package(folder, pictures)
        for precision in precisions:
            try:
                layout = _best_layout(package, precision, bodies, say)
            except RuntimeError as error:
                if precision == "f32":
                    raise
                say(f"  no rows for {precision}: this machine cannot run it ({error})")
                continue
            with ExitStack() as stack:
                ways = stack.enter_context(_service(folder / f"home-{precision}", package, layout))
                samples: dict[tuple[str, int], list[_Sample]] = {}
                targets = {way: (target, bodies) for way, target in ways.items()}
                if precision == "f32":
                    stock = stack.enter_context(_stock(folder, threads=None))
                    tuned = stack.enter_context(_stock(folder, threads=1))
                    targets |= {"stock": (stock, list(pictures)), "stock, 1 thread": (tuned, list(pictures))}
                for number in range(passes):
                    say(f"{layout}: pass {number + 1} of {passes}")
                    _one_pass(package, layout, bodies, targets, seconds, samples, say)
            rows += [_row(precision, layout, way, c, taken) for (way, c), taken in samples.items()]
    return rows


@dataclass(frozen=True, slots=True)
class _Sample:
    measurement: Measurement
    limit: float
    alone_ms: float


def _one_pass(
    package: Path,
    layout: Layout,
    bodies: Sequence[bytes],
    targets: Mapping[str, tuple[Target, Sequence[bytes]]],
    seconds: float,
    samples: dict[tuple[str, int], list[_Sample]],
    say: Any,
) -> None:
    """Measure every way once, between two measurements of the limit; keep it when the limits agree."""
    all_cores = layout.workers * layout.threads
    alone = Layout(layout.backend, layout.precision, 1, all_cores // layout.workers, 1)
    before = in_process_limit(package, layout, bodies, seconds)
    lone = in_process_limit(package, alone, bodies, seconds / 2)
    taken = {
        (way, concurrency): measure(target, contents, concurrency, seconds)
        for concurrency in CONCURRENCIES
        for way, (target, contents) in targets.items()
    }
    after = in_process_limit(package, layout, bodies, seconds)
    drift = abs(after.requests_per_s - before.requests_per_s) / before.requests_per_s
    say(f"  limit {before.requests_per_s:.1f} -> {after.requests_per_s:.1f} requests/s, drift {drift:.1%}")
    if drift > MAX_DRIFT:
        say("  the pass does not count: the machine's speed changed")
        return
    limit = (before.requests_per_s + after.requests_per_s) / 2
    for key, measurement in taken.items():
        samples.setdefault(key, []).append(_Sample(measurement, limit, lone.latency_ms))


def _row(precision: str, layout: Layout, way: str, concurrency: int, samples: Sequence[_Sample]) -> OnlineRow:
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


def _random_package(folder: Path, pictures: Sequence[bytes]) -> Path:
    files = []
    for number, picture in enumerate(pictures):
        file = folder / f"{number}.jpg"
        file.write_bytes(picture)
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
    # The accuracy of bf16 says nothing with random weights; the gate is opened for this measurement of speed alone.
    manifest = json.loads((target / MANIFEST_FILE).read_text())
    manifest["precision_gates"] = {"bf16": {"passed": True, "reason": "not applicable: random weights, speed only"}}
    (target / MANIFEST_FILE).write_text(json.dumps(manifest))
    return target


def _best_layout(package: Path, precision: str, bodies: Sequence[bytes], say: Any) -> Layout:
    """The fastest of the candidates without a server; it is the limit's and the service's layout."""
    found: dict[Layout, float] = {}
    for candidate in CANDIDATES:
        if precision != "f32" and candidate.backend != "openvino":
            continue
        layout = Layout(candidate.backend, precision, candidate.workers, candidate.threads, candidate.batch_size)
        found[layout] = in_process_limit(package, layout, bodies, 3.0).requests_per_s
        say(f"  {layout}: {found[layout]:.1f} requests/s in process")
    return max(found, key=lambda layout: found[layout])


@contextmanager
def _service(home: Path, package: Path, layout: Layout) -> Iterator[dict[str, Target]]:
    """`clearsight serve` with one deployment; yields where TorchServe and the gateway listen."""
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
                "instance_count": layout.workers,
                "request_settings": {
                    "request_timeout_ms": 60000,
                    "max_concurrent_requests_per_instance": max(CONCURRENCIES),
                },
                "environment_variables": {
                    "CLEARSIGHT_BACKEND": layout.backend,
                    "CLEARSIGHT_PRECISION": layout.precision,
                    "CLEARSIGHT_BATCH_SIZE": str(layout.batch_size),
                    "CLEARSIGHT_NUM_THREADS": str(layout.threads),
                },
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
        verb("online-deployment", "create", "--file", str(deployment), "--all-traffic")
        key = verb("online-endpoint", "get-credentials", "--name", ENDPOINT)["primaryKey"]
        uri = verb("online-endpoint", "show", "--name", ENDPOINT)["scoring_uri"]
        host, _, path = uri.removeprefix("http://").partition("/")
        table = json.loads((home / "endpoints" / "routing.json").read_text())
        upstream = table["endpoints"][ENDPOINT]["deployments"]["blue"]["upstream"]
        token = json.loads(Path(upstream["key_file"]).read_text())["inference"]["key"]
        json_headers = {"Content-Type": "application/json"}
        yield {
            "direct": Target(
                f"unix:{upstream['socket']}", upstream["path"], {**json_headers, "Authorization": f"Bearer {token}"}
            ),
            "gateway": Target(host, f"/{path}", {**json_headers, "Authorization": f"Bearer {key}"}),
        }
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
def _stock(folder: Path, threads: int | None) -> Iterator[Target]:
    place = folder / f"stock-{threads}"
    place.mkdir()
    java_home = subprocess.check_output([str(Path(sys.executable).with_name("clearsight")), "java-home"], text=True)
    with stock_torchserve(NUM_CLASSES, java_home.strip(), place, threads) as target:
        yield target


def rows_as_dicts(rows: Sequence[OnlineRow]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
