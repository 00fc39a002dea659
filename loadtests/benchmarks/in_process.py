"""The in-process limit: `answer_bodies` on the same request bodies that the servers get, without any server.

Each worker is a process of its own that answers batches in a loop; all start to count together. This is the most that
a server can reach with that backend, precision and layout. The network alone is measured in the same way, by the
backend calls for these bodies, with the same inputs.

    python -m loadtests.benchmarks.in_process SPEC.json        # one worker; prints its count as JSON
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # only the worker process imports these
    from clearsight.handlers.backends import Array, Backend

__all__ = ["Limit", "WorkerLayout", "in_process_limit"]

START_UP_S = 60.0


@dataclass(frozen=True, slots=True)
class WorkerLayout:
    """How a package runs: workers x threads, requests per batch."""

    backend: str
    precision: str
    workers: int
    threads: int
    batch_size: int

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}, {self.workers}x{self.threads}, batch {self.batch_size}"


@dataclass(frozen=True, slots=True)
class Limit:
    """The result of a run without a server. `latency_ms` is the median duration of a batch."""

    requests_per_s: float
    latency_ms: float


def in_process_limit(
    package: Path, layout: WorkerLayout, bodies: Sequence[bytes], seconds: float, only_network: bool = False
) -> Limit:
    """Answer `bodies` in turn for `seconds` in `layout.workers` processes; or run their network calls alone."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.body") for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(body)
        spec = {
            "package": str(package),
            "bodies": [str(file) for file in files],
            "seconds": seconds,
            "only_network": only_network,
            **asdict(layout),
        }
        spec_file = Path(folder, "spec.json")
        spec_file.write_text(json.dumps(spec))
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "loadtests.benchmarks.in_process", str(spec_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(layout.threads)},
            )
            for _ in range(layout.workers)
        ]
        for worker in workers:
            if not worker.stdout or worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"a worker of the in-process limit did not start: {layout}")
        outputs = []
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            outputs.append(json.loads(worker.communicate(timeout=seconds + START_UP_S)[0]))
    return Limit(
        requests_per_s=sum(output["requests"] / output["seconds"] for output in outputs),
        latency_ms=median(output["latency_ms"] for output in outputs),
    )


class _Recorder:
    """A backend that records the inputs of its calls."""

    def __init__(self, backend: "Backend") -> None:
        self._backend = backend
        self.calls: list[tuple[Array, ...]] = []

    def run(self, inputs: "Sequence[Array]") -> "tuple[Array, ...]":
        self.calls.append(tuple(array.copy() for array in inputs))
        return self._backend.run(inputs)


def main() -> None:
    from clearsight.handlers.backends import OpenOptions, open_backend
    from clearsight.handlers.scoring.answering import answer_bodies
    from clearsight.handlers.scoring.scorer import Scorer
    from clearsight.runs.package import ModelPackage

    spec = json.loads(Path(sys.argv[1]).read_text())
    bodies = [Path(file).read_bytes() for file in spec["bodies"]]
    package = ModelPackage.open(spec["package"])
    options = OpenOptions("cpu", spec["precision"], spec["threads"])
    backend = open_backend(spec["backend"], package, options)
    recorder = _Recorder(backend)
    batch_size = spec["batch_size"]
    batches = [
        [bodies[(start + step) % len(bodies)] for step in range(batch_size)]
        for start in range(0, len(bodies), batch_size)
    ]

    def answer(scorer: Scorer, batch: list[bytes]) -> None:
        replies = answer_bodies(scorer, batch)
        if any(reply.status != 200 for reply in replies):
            raise RuntimeError(f"every body must be answered, but got {replies!r:.300}")

    work: list[Any]
    if spec["only_network"]:
        scorer = Scorer(package, recorder, spec["backend"], options)
        work = []
        for batch in batches:
            recorder.calls.clear()
            answer(scorer, batch)
            work.append(list(recorder.calls))

        def once(item: Any) -> None:
            for inputs in item:
                backend.run(inputs)
    else:
        scorer = Scorer(package, backend, spec["backend"], options)
        work = batches

        def once(item: Any) -> None:
            answer(scorer, item)

    for item in work:
        once(item)
    print("ready", flush=True)
    sys.stdin.readline()
    latencies = []
    requests = 0
    started = time.perf_counter()
    end = started + spec["seconds"]
    while (now := time.perf_counter()) < end:
        once(work[len(latencies) % len(work)])
        latencies.append((time.perf_counter() - now) * 1000)
        requests += batch_size
    elapsed = time.perf_counter() - started
    print(json.dumps({"requests": requests, "seconds": elapsed, "latency_ms": median(latencies)}))


if __name__ == "__main__":
    main()
