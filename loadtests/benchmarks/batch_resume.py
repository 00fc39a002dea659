"""Resuming a long batch job: time until a worker gets its first part, and memory of the controller.

    python -m loadtests.benchmarks.batch_resume PHOTO PACKAGE [--entries 1000000] [--done 0.99]

A job over a list that names one photograph again and again is laid out as if it had been interrupted: all parts but
the last ones are there. Then the program of the job runs as `job resume` would start it, until its first worker gets a
part.
Bars: 5 s and 200 MB.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clearsight.handlers.scoring.scorer import choose_backend
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import RunFolder
from clearsight.serving.batch.entries import Entry, Listing
from clearsight.serving.batch.parts import PartRange, Parts, encode_outcome
from clearsight.serving.batch.plan import new_plan
from loadtests.benchmarks.machine import describe_machine

__all__ = ["measure_resume"]

_PART_SIZE: Final = 10
_MOST_SECONDS: Final = 5.0
_MOST_MB: Final = 200.0


def measure_resume(photo: Path, package: ModelPackage, num_entries: int, done: float) -> tuple[float, float]:
    """Seconds to the first part that a worker gets, and the peak of the controller's memory until then, in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        _lay_out(folder, photo, package, num_entries, done)
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "clearsight.serving.batch.run", name], start_new_session=True)
        try:
            inbox = folder.root / "workers" / "1.inbox.jsonl"
            while not (inbox.is_file() and inbox.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"the job must go on, but it ended: {folder.read_status().message}")
                time.sleep(0.005)
            seconds = time.perf_counter() - started
            status = Path(f"/proc/{process.pid}/status").read_text()
            return seconds, int(status.split("VmHWM:")[1].split()[0]) / 1000
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def _lay_out(folder: RunFolder, photo: Path, package: ModelPackage, num_entries: int, done: float) -> None:
    backend, device = choose_backend(package)
    plan = new_plan(
        package,
        run_id=folder.run_id,
        backend=backend,
        device=device,
        precision="f32",
        inputs=str(photo),
        input_folder=folder.root,
        part_size=_PART_SIZE,
        output_file=folder.root / "predictions.jsonl",
    )
    folder.spec_file.write_text(plan.to_json())
    stat = photo.stat()
    listing, parts = Listing(folder.root), Parts(folder.parts)
    entries = (Entry(f"{n:07}.jpg", str(photo), stat.st_size, stat.st_mtime_ns) for n in range(num_entries))
    listing.write(entries, _PART_SIZE)
    parts.done(0)  # makes the folder
    for part in range(int(done * listing.num_parts)):
        lines = [
            encode_outcome(f"{part * _PART_SIZE + n:07}.jpg", 0, b'{"probs":[1.0],"labels":["a"]}')
            for n in range(_PART_SIZE)
        ]
        parts.commit(PartRange(part, 0, _PART_SIZE), True, lines, 0)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit code is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--done", type=float, default=0.99)
    given = parser.parse_args(arguments)
    seconds, megabytes = measure_resume(given.photo, ModelPackage.open(given.package), given.entries, given.done)
    print(f"first part after {seconds:.2f} s (bar {_MOST_SECONDS:g}), controller {megabytes:.0f} MB (bar {_MOST_MB:g})")
    print(json.dumps(describe_machine(), indent=2))
    return 0 if seconds <= _MOST_SECONDS and megabytes <= _MOST_MB else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
