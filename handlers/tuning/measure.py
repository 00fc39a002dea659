"""Find the fastest way to serve a package on this machine: which backend, how many workers, threads, batch size.

Which layout wins depends on runtime, network and processor, so it is measured where the package is deployed:

    python -m clearsight.handlers.tuning.measure PACKAGE [--seconds 0.3] [--precision f32] [--device cpu]

A candidate is a backend with a number of workers and of threads. Its workers are child processes that run at the same
time; each answers whole request bodies (base64 in, JSON out), so decoding counts. Backends that need torch are measured
only when they are named or when there is no other: loading torch takes longer than all other candidates together, and
they were never the fastest.

A detector takes seconds per image. So it has fewer candidates, its images are scored whole (tiles multiply the time of
every candidate by the same number), and after `MAX_TOTAL_S` no further candidate is started.
"""

import base64
import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypedDict

import click
import numpy as np
import orjson
from PIL import Image

from clearsight.documents.deployment.layout import MeasuredLayout, ServingLayout
from clearsight.errors import UserError
from clearsight.executor.call import last_error
from clearsight.handlers.backends import (
    BACKENDS,
    DEVICES,
    PRECISIONS,
    Device,
    OpenOptions,
    Precision,
    candidates,
    open_backend,
    require_able,
)
from clearsight.runs.package import ModelPackage

__all__ = ["NEARLY_AS_FAST", "TuningMeasurement", "layouts", "measure"]

CLASSIFIER_BATCH_SIZES: Final = (1, 8)
YOLO_BATCH_SIZES: Final = (1, 4)
RCNN_BATCH_SIZES: Final = (1,)
"""The R-CNN families take one image per call, so that a larger batch gains nothing."""
MAX_TOTAL_S: Final = 120.0
"""Time limit of a whole measurement once one candidate has run; well below the time limit of deployments."""
NEARLY_AS_FAST: Final = 0.95
"""Rows with at least this share of the highest throughput count as equally fast: short measurements vary that much."""
_START_TIMEOUT_S: Final = 120.0


class TuningMeasurement(TypedDict):
    """The printed JSON document."""

    num_cores: int
    rows: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    """Candidates that could not run: backend, workers, threads, reason."""
    choice: dict[str, Any]


def layouts(num_cores: int) -> list[tuple[int, int]]:
    """Pairs (workers, threads of each) to measure on this number of cores, ascending.

    One worker with all cores, one worker per core, workers of two cores, and two workers that share all cores. The
    last overlaps decoding with computing and still answers a single client with all cores. Whether a runtime's threads
    tolerate such sharing differs: measured with ResNet-50 on two cores, OpenVINO's do.
    """
    found = {(1, num_cores), (num_cores, 1)}
    if num_cores >= 2:
        found.add((2, num_cores))
    if num_cores >= 4:
        found.add((num_cores // 2, 2))
    return sorted(found)


def _detector_layouts(num_cores: int) -> list[tuple[int, int]]:
    """Fewer pairs for detectors: a worker may need gigabytes, and two that share all cores slow each other down."""
    return sorted({(1, num_cores), (min(2, num_cores), max(1, num_cores // 2))})


def _plan(package: ModelPackage, num_cores: int) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Layouts and batch sizes to measure."""
    if package.task.is_classification:
        return layouts(num_cores), CLASSIFIER_BATCH_SIZES
    detection = package.settings().detection
    takes_batches = detection is not None and detection.input_size.is_square
    return _detector_layouts(num_cores), YOLO_BATCH_SIZES if takes_batches else RCNN_BATCH_SIZES


def choose(rows: Sequence[MeasuredLayout]) -> MeasuredLayout:
    """Choose the row with the highest throughput; among nearly equal ones (`NEARLY_AS_FAST`) the lowest latency."""
    best = max(row.images_per_s for row in rows)
    return min((row for row in rows if row.images_per_s >= NEARLY_AS_FAST * best), key=lambda row: row.latency_ms)


def measure(
    path: Path | str,
    seconds: float = 0.3,
    precision: Precision = "f32",
    backends: Sequence[str] = (),
    max_total_s: float = MAX_TOTAL_S,
    device: Device = "cpu",
) -> TuningMeasurement:
    """Measure every candidate for `seconds` per batch size, at least one call. Raises `UserError` when none runs.

    After `max_total_s`, and once one candidate has run, the others are skipped and listed in `failed`.

    `precision` below f32 is measured whether or not the package has passed its gate; serving it needs the gate.
    """
    package = ModelPackage.open(path)
    able = candidates(package, device, precision)
    names = list(backends) or [name for name in able if BACKENDS[name].needs != "torch"] or able
    num_cores = len(os.sched_getaffinity(0))
    rows: list[MeasuredLayout] = []
    failed: list[dict[str, Any]] = []
    able_layouts, batch_sizes = _plan(package, num_cores)
    started = time.monotonic()
    for name in names:
        for workers, threads in able_layouts:
            try:
                options = OpenOptions(device, precision, threads)
                require_able(name, options)
                if rows and time.monotonic() - started > max_total_s:
                    raise UserError(f"not measured: the measurement has taken more than {max_total_s:.0f} s")
                rows += _measure_layout(package.root, name, options, workers, seconds, batch_sizes)
            except UserError as error:
                failed.append({"backend": name, "workers": workers, "threads": threads, "reason": str(error)})
    if not rows:
        reasons = "; ".join(f"{fault['backend']}: {fault['reason']}" for fault in failed) or "no candidate"
        raise UserError(f"no backend can run {package.root} in {precision} on this machine: {reasons}")
    return {
        "num_cores": num_cores,
        "rows": [row.to_document() for row in rows],
        "failed": failed,
        "choice": choose(rows).to_document(),
    }


def _measure_layout(
    root: Path,
    backend: str,
    options: OpenOptions,
    workers: int,
    seconds: float,
    batch_sizes: Sequence[int],
) -> list[MeasuredLayout]:
    """Start the workers, run each batch size in all of them at the same time, and add up their throughput."""
    precision, threads = options.precision, options.num_threads
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, str(root), "--worker"]
    command += [f"--backend={backend}", f"--device={options.device}", f"--precision={precision}"]
    command += [f"--threads={threads}", f"--seconds={seconds}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    children = [
        subprocess.Popen(command, env=environment, text=True, stdin=-1, stdout=-1, stderr=-1) for _ in range(workers)
    ]
    try:
        for child in children:
            _expect_line(child)
        rows = []
        for batch_size in batch_sizes:
            for child in children:
                assert child.stdin is not None  # noqa: S101  a pipe was asked for
                child.stdin.write(f"{batch_size}\n")
                child.stdin.flush()
            results = [orjson.loads(_expect_line(child)) for child in children]
            rate = sum(result["images_per_s"] for result in results)
            latency = max(result["latency_ms"] for result in results)
            layout = ServingLayout(
                backend, precision, workers=workers, num_threads=threads, batch_size=batch_size, source="measured"
            )
            rows.append(MeasuredLayout(layout, round(rate, 2), round(latency, 3)))
        return rows
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _expect_line(child: subprocess.Popen[str]) -> str:
    """Read one line of a worker; a worker that ended instead raises `UserError` with its last line of stderr."""
    assert child.stdout is not None  # noqa: S101  a pipe was asked for
    line = child.stdout.readline()
    if line:
        return line
    _, errors = child.communicate(timeout=_START_TIMEOUT_S)
    raise UserError(last_error(errors, child.returncode))


def example_body() -> bytes:
    """A request body with one image like a photograph: 640 x 480, JPEG, about 60 KB."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:480, 0:640]
    image_HWC = np.stack([rows * 255 // 479, columns * 255 // 639, (rows + columns) % 256], axis=-1)
    image_HWC[100:300, 200:420] = (200, 120, 40)
    image_HWC = np.clip(image_HWC + random.normal(0, 8, image_HWC.shape), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "JPEG", quality=85)
    text = base64.encodebytes(stream.getvalue()).decode()
    return orjson.dumps({"input_data": {"columns": ["image"], "data": [text]}})


def _work(root: Path, backend: str, options: OpenOptions, seconds: float) -> None:
    """Run as one worker: load, print `ready`, then measure each batch size that comes on stdin."""
    from clearsight.handlers.scoring.answering import answer_bodies
    from clearsight.handlers.scoring.scorer import Scorer

    package = ModelPackage.open(root, verify=False)  # the parent verified it
    settings = package.settings()
    if settings.detection is not None:
        settings = replace(settings.detection, tile_grid_size=None)
    scorer = Scorer(package, open_backend(backend, package, options), backend, options, settings=settings)
    body = example_body()
    answer_bodies(scorer, [body])
    click.echo("ready")
    for line in sys.stdin:
        bodies = [body] * int(line)
        durations: list[float] = []
        started = time.perf_counter()
        while not durations or time.perf_counter() - started < seconds:
            before = time.perf_counter()
            replies = answer_bodies(scorer, bodies)
            durations.append(time.perf_counter() - before)
            if any(reply.status != 200 for reply in replies):
                raise UserError(f"the backend {backend} failed on the example picture")
        rate = len(durations) * len(bodies) / (time.perf_counter() - started)
        click.echo(orjson.dumps({"images_per_s": rate, "latency_ms": float(np.median(durations)) * 1e3}).decode())


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--seconds", default=0.3, show_default=True, help="Per batch size of each candidate.")
@click.option("--precision", default="f32", show_default=True, type=click.Choice(PRECISIONS))
@click.option("--device", default="cpu", show_default=True, type=click.Choice(DEVICES))
@click.option("--backend", multiple=True, type=click.Choice(list(BACKENDS)), help="Only these.")
@click.option("--worker", is_flag=True, hidden=True)
@click.option("--threads", default=1, hidden=True)
def main(
    package: Path,
    seconds: float,
    precision: Precision,
    device: Device,
    backend: tuple[str, ...],
    worker: bool,
    threads: int,
) -> None:
    """Measure how to serve PACKAGE fastest on this machine; print JSON."""
    try:
        if worker:
            _work(package, backend[0], OpenOptions(device, precision, threads), seconds)
        else:
            result = measure(package, seconds, precision, backend, device=device)
            click.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
