"""Batch jobs whose processes are killed: `python -m loadtests.faults.batch [--kills 200]`.

A job over drawn images, with a small package of random weights, runs undisturbed once. Then jobs run again and again.
In each attempt the controller or a worker kills itself (SIGKILL) before or after one of the calls by which it changes
the job's folder, each time another one: all points between two system calls of a commit are among them. An attempt that
was killed is followed by another on the same folder. Every job must write the bytes of the undisturbed one, and score
at most its images and, for each kill, a part per worker.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from clearsight.documents.settings import ClassificationSettings
from clearsight.exporters.write import write_package
from clearsight.handlers.scoring.scorer import choose_backend
from clearsight.networks.families.table import build_network
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import LineReader, RunFolder
from clearsight.serving.batch.entries import Listing
from clearsight.serving.batch.inputs.source import file_entry
from clearsight.serving.batch.plan import new_plan
from clearsight.tasks import Task

__all__ = ["FaultCounts", "kill_processes", "write_small_package"]

_NUM_IMAGES: Final = 24
_PART_SIZE: Final = 3
_WORKERS: Final = 2
_ATTEMPT_S: Final = 300
_LAST_POINT: Final = {"worker": 70, "controller": 130}
"""About the number of points of a process in an undisturbed job; beyond them it is not killed."""

_STEP: Final = 11
"""From one point to the next; prime to both numbers of points, so that none is left out."""

_SITE: Final = '''
import io
import os
import signal
import sys

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _install(folder, at, marker):
    """Let this process kill itself at the `at`-th point, before or after a call that changes `folder`."""
    passed = 0
    open_file, close_file, link_of = os.open, os.close, os.readlink

    def point():
        nonlocal passed
        passed += 1
        if passed == at:
            close_file(open_file(marker, os.O_CREAT))
            os.kill(os.getpid(), signal.SIGKILL)

    def changes(name, where, args):
        if name == "open" and not isinstance(args[1] if len(args) > 1 else "r", str):
            is_change = args[1] & _WRITES
        elif name == "open":
            is_change = set("wax+") & set(args[1] if len(args) > 1 else "r")
        else:
            is_change = True
        try:
            path = link_of(f"/proc/self/fd/{where}") if isinstance(where, int) else os.fspath(where)
        except (OSError, TypeError):
            return False
        return is_change and str(path).startswith(folder)

    def watched(name, function):
        def call(where, *args, **kwargs):
            if not changes(name, where, (where, *args)):
                return function(where, *args, **kwargs)
            point()
            try:
                return function(where, *args, **kwargs)
            finally:
                point()

        return call

    for name in ("open", "write", "fsync", "replace", "rename", "link", "unlink"):
        setattr(os, name, watched(name, getattr(os, name)))
    io.open = watched("open", io.open)


_is_worker = "clearsight.serving.batch.worker" in sys.orig_argv
_victim = "worker" if _is_worker else "controller"
if os.environ.get("CRASH_IN") == _victim and not os.path.exists(os.environ["CRASH_MARKER"]):
    _install(os.environ["CRASH_FOLDER"], int(os.environ["CRASH_AT"]), os.environ["CRASH_MARKER"])
'''
"""Python runs a module of this name when it starts."""


@dataclass(slots=True)
class FaultCounts:
    """What happened; `faults` must stay empty."""

    kills: int = 0
    jobs: int = 0
    scored: int = 0
    """Images of all parts that a worker of a disturbed job began."""
    faults: list[str] = field(default_factory=list)
    """Jobs whose results differ from those of the undisturbed one, or that scored more than allowed."""


def kill_processes(package: ModelPackage, folder: Path, kills: int) -> FaultCounts:
    """Run jobs in an empty folder until as many processes were killed."""
    photos, site = folder / "photos", folder / "site"
    _draw(photos, _NUM_IMAGES)
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)
    undisturbed = _lay_out(folder / "undisturbed", package, photos)
    _attempt(undisturbed, {})
    expected = _results(undisturbed).read_bytes()
    counts, points = FaultCounts(), _points()
    while counts.kills < kills:
        job = _lay_out(folder / f"job{counts.jobs}", package, photos)
        had: list[str] = []
        scored = 0
        while not _results(job).exists() or job.read_status().status != "Completed":
            victim, number = next(points) if counts.kills < kills else ("nobody", 0)
            marker = job.root.with_name(f"{job.run_id}.killed{len(had)}")
            crash = {"CRASH_IN": victim, "CRASH_AT": str(number), "CRASH_FOLDER": str(job.root)}
            _attempt(job, {**crash, "CRASH_MARKER": str(marker), "PYTHONPATH": str(site)})
            scored += _num_began(job)
            if marker.exists():
                counts.kills += 1
                had.append(f"{victim} {number}")
        counts.jobs += 1
        counts.scored += scored
        if _results(job).read_bytes() != expected:
            counts.faults.append(f"{job.run_id} ({', '.join(had)}): other results")
        if scored > _NUM_IMAGES + len(had) * _WORKERS * _PART_SIZE:
            counts.faults.append(f"{job.run_id} ({', '.join(had)}): {scored} images scored")
        print(f"{counts.kills} of {kills} kills, {counts.jobs} jobs, {counts.scored} images scored", flush=True)
    return counts


def _points() -> Iterator[tuple[str, int]]:
    """A point of a worker and one of the controller in turn, spread over all of them before any comes again."""
    for number in count():
        for victim, last in _LAST_POINT.items():
            yield victim, number * _STEP % last + 1


def _lay_out(root: Path, package: ModelPackage, photos: Path) -> RunFolder:
    """The run folder of a job that has not started."""
    root.mkdir()
    job = RunFolder(root)
    backend, device = choose_backend(package, device="cpu")
    plan = new_plan(
        package,
        run_id=job.run_id,
        backend=backend,
        device=device,
        precision="f32",
        inputs=str(photos),
        input_folder=photos,
        part_size=_PART_SIZE,
        num_workers=_WORKERS,
        num_threads=1,
        output_file=_results(job),
    )
    job.spec_file.write_text(plan.to_json())
    Listing(root).write((file_entry(file, file.name) for file in sorted(photos.iterdir())), _PART_SIZE)
    return job


def _results(job: RunFolder) -> Path:
    return job.score / "predictions.jsonl"


def _attempt(job: RunFolder, variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "clearsight.serving.batch.run", str(job.root)]
    with job.log_file.open("ab") as log:
        subprocess.run(
            command, env={**os.environ, **variables}, stdout=log, stderr=log, timeout=_ATTEMPT_S, check=False
        )


def _num_began(job: RunFolder) -> int:
    """Images of the parts that the workers of the last attempt began."""
    messages = chain.from_iterable(LineReader(file).new() for file in (job.root / "workers").glob("*.outbox.jsonl"))
    return sum(message["stop"] - message["start"] for message in messages if message["kind"] == "began")


def _draw(folder: Path, number: int) -> None:
    """Images of coloured noise."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(number):
        coarse_HWC = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse_HWC).resize((96, 96)).save(folder / f"{index:02}.png")


def write_small_package(folder: Path) -> ModelPackage:
    """A classifier with seeded random weights for images of 64 pixels."""
    images = folder / "parity"
    folder.mkdir()
    _draw(images, 4)
    torch.manual_seed(0)
    return write_package(
        folder / "mlflow-model",
        task=Task.MULTI_CLASS,
        model_name="mobilenetv2",
        labels=("can", "carton"),
        network=build_network("mobilenetv2", 2).eval(),
        settings=ClassificationSettings(valid_resize_size=72, valid_crop_size=64),
        parity_images=sorted(images.iterdir()),
        run_id="faults",
        pretrained={"source": "none"},
        gate_bf16=False,
    )


def main(arguments: Sequence[str]) -> int:
    """Print counts; the exit code is 1 when a job had another result or scored too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--package", type=Path, help="folder of a model package; default: a small one, made now")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = write_small_package(folder / "small") if given.package is None else ModelPackage.open(given.package)
        (folder / "jobs").mkdir()
        counts = kill_processes(package, folder / "jobs", given.kills)
    for fault in counts.faults:
        print(f"FAULT: {fault}")
    print(f"{counts.kills} kills, {counts.jobs} jobs, {counts.scored} images scored, {len(counts.faults)} faults")
    return 1 if counts.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
