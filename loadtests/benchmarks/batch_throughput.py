"""Batch jobs: images per second over those of the same `Scorer` on the files' bytes in memory, and memory over time.

    python -m loadtests.benchmarks.batch_throughput PHOTOS PACKAGE... [--images 500] [--rounds 5] [--workers 1]

PHOTOS is a folder of photographs, of which altered copies are made (mirrored, turned, cropped), so that no two files
are equal. A round scores them with a package in memory, by a batch job, and in memory again; a round whose two limits
differ by more than 10 % does not count. The job counts from its first ready worker to its last part; the memory of its
workers is sampled every 0.1 s.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from clearsight.batch import run
from clearsight.images.files import find_images
from clearsight.runs.package import ModelPackage
from loadtests.benchmarks.machine import describe_machine

__all__ = ["BatchRow", "measure_batch"]

_MAX_DRIFT: Final = 0.1
_LEAST_OVER_LIMIT: Final = 0.95
_MOST_GROWTH: Final = 1.05
_MINI_BATCH: Final = 10
_SAMPLE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Medians over the rounds that count."""

    model: str
    num_images: int
    limit_images_per_s: float
    images_per_s: float
    over_limit: float
    memory_growth: float
    """Peak memory of the last quarter of the job over that of the second quarter."""
    rounds: int


def measure_batch(package: ModelPackage, photos: Path, rounds: int, workers: int) -> BatchRow | None:
    """Measure one package on all images of a folder; None when the machine was never steady enough."""
    found = []
    for _ in range(rounds):
        before = _limit(package, photos)
        per_s, growth = _job(package, photos, workers)
        after = _limit(package, photos)
        if abs(after - before) <= _MAX_DRIFT * before:
            found.append(((before + after) / 2, per_s, growth))
    if not found:
        return None
    ratio = median(per_s / limit for limit, per_s, _ in found)
    limit, per_s, growth = (median(column) for column in zip(*found, strict=True))
    return BatchRow(package.model_name, len(list(photos.iterdir())), limit, per_s, ratio, growth, len(found))


def _limit(package: ModelPackage, photos: Path) -> float:
    """Images per second of `Scorer.score` on bytes in memory, all cores, in a process of its own."""
    arguments = [sys.executable, "-m", "loadtests.benchmarks.batch_throughput", "--limit", str(package.root)]
    output = subprocess.run([*arguments, str(photos)], check=True, capture_output=True).stdout
    return float(output)


def _print_limit(package: str, photos: Path) -> None:
    from clearsight.handlers.scoring.scorer import load_scorer

    contents = [image.file.read_bytes() for image in find_images([photos])]
    scorer = load_scorer(package, max_batch_size=_MINI_BATCH)
    scorer.warm_up()
    scorer.score(contents[:_MINI_BATCH])
    started = time.perf_counter()
    for start in range(0, len(contents), _MINI_BATCH):
        scorer.score(contents[start : start + _MINI_BATCH])
    print(len(contents) / (time.perf_counter() - started))


def _job(package: ModelPackage, photos: Path, workers: int) -> tuple[float, float]:
    """Images per second of a batch job, and the growth of its workers' memory."""
    times: dict[str, float] = {}
    samples: list[int] = []
    ended = threading.Event()

    def on_event(kind: str, **fields: Any) -> None:
        times.setdefault(kind, time.perf_counter())

    def sample() -> None:
        while not ended.wait(_SAMPLE_S):
            if "worker" in times and "exporting" not in times:
                samples.append(sum(_worker_memory()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "predictions.jsonl")
            summary = run(
                package, photos, output, workers=workers, mini_batch_size=_MINI_BATCH, timeout_s=600, on_event=on_event
            )
    finally:
        ended.set()
        sampler.join()
    if summary.num_failed:
        raise RuntimeError(f"every image must be scored, but {summary.num_failed} failed")
    quarter = len(samples) // 4
    growth = max(samples[-quarter:]) / max(samples[quarter : 2 * quarter]) if quarter else float("nan")
    return summary.num_ok / (times["exporting"] - times["worker"]), growth


def _worker_memory() -> Iterator[int]:
    """Resident memory in KiB of the worker processes of this process."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    for pid in itertools.chain.from_iterable(file.read_text().split() for file in children):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        if "VmRSS:" in status:
            yield int(status.split("VmRSS:")[1].split()[0])


def _write_photos(photos: Path, number: int, folder: Path) -> None:
    """Altered copies of photographs: mirrored, turned by a multiple of 90 degrees, cropped by some pixels."""
    files = [image.file for image in find_images([photos])]
    folder.mkdir()
    for index in range(number):
        copy, which = divmod(index, len(files))
        with Image.open(files[which]) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        image = image.rotate(90 * (copy % 4), expand=True)
        image = ImageOps.mirror(image) if copy % 8 >= 4 else image
        image = image.crop((copy // 8, copy // 8, *image.size))
        image.save(folder / f"{index:05}.jpg", quality=90)


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table; the exit code is 1 when a row misses its bar."""
    if arguments[:1] == ["--limit"]:
        _print_limit(arguments[1], Path(arguments[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=500, help="images that each package scores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    table = Table(title="Batch jobs, images/s", title_justify="left")
    for column in ("model", "images", "limit", "batch job", "ratio (>= 0.95)", "memory (<= 1.05)", "rounds"):
        table.add_column(column)
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder, "photos")
        _write_photos(given.photos, given.images, copies)
        for package in map(ModelPackage.open, given.packages):
            row = measure_batch(package, copies, given.rounds, given.workers)
            if row is None:
                table.add_row(package.model_name, str(given.images), "not measurable", "", "", "", "0")
                continue
            passed &= row.over_limit >= _LEAST_OVER_LIMIT and not row.memory_growth > _MOST_GROWTH
            numbers = (row.limit_images_per_s, row.images_per_s, row.over_limit, row.memory_growth)
            table.add_row(row.model, str(row.num_images), *(f"{number:.3g}" for number in numbers), str(row.rounds))
    Console().print(table)
    print(json.dumps(describe_machine(), indent=2))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
