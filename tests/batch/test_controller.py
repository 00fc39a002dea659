"""The engine of batch jobs: every entry exactly once, whatever happens to the processes."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from clearsight.executor.local import Local
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import LineReader, RunFolder
from clearsight.runs.stop_requests import StopRequests
from clearsight.serving.batch.controller import BatchController, BatchCounts, Canceled, TooManyFailures
from clearsight.serving.batch.entries import Entry, Listing
from clearsight.serving.batch.parts import Parts
from clearsight.serving.batch.plan import new_plan, read_plan
from clearsight.wire.encoding import to_document
from loadtests.faults.batch import kill_processes

PART_SIZE = 3


@pytest.fixture
def entries(drawn_images: list[Path], tmp_path: Path) -> list[Entry]:
    """Eleven good images, of which two are one file, and a broken one in the fifth place."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(drawn_images[0].read_bytes()[:300])
    files = [*drawn_images[:4], broken, *(drawn_images * 7)[4:11]]
    return [
        Entry(f"{n}/{file.name}", str(file), (stat := file.stat()).st_size, stat.st_mtime_ns)
        for n, file in enumerate(files)
    ]


def make_run(folder: Path, package: ModelPackage, entries: list[Entry], **changes: object) -> RunFolder:
    folder.mkdir(parents=True)
    plan = new_plan(
        package,
        run_id=folder.name,
        backend="openvino",
        device="cpu",
        precision="f32",
        inputs="photos",
        input_folder=folder,
        output_file=folder / "predictions.csv",
        part_size=PART_SIZE,
        num_threads=1,
        timeout_s=60,
    ).model_copy(update=changes)
    run = RunFolder(folder)
    run.spec_file.write_text(plan.to_json())
    Listing(folder).write(entries, PART_SIZE)
    return run


def score(run: RunFolder, stop: StopRequests | None = None) -> BatchCounts:
    return BatchController(run, read_plan(run), Local(), run.append_event, stop or StopRequests()).run()


def part_files(run: RunFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run.root / "parts").iterdir()}


def test_every_entry_has_the_answer_of_the_scorer(
    tmp_path: Path, tiny_package: ModelPackage, entries: list[Entry]
) -> None:
    run = make_run(tmp_path / "job", tiny_package, entries, num_workers=2)
    counts = score(run)
    assert (counts.total, counts.done, counts.failed, counts.num_starts) == (12, 12, 1, 2)
    parts = Parts(run.root / "parts")
    outcomes = [outcome for part in range(4) for outcome in parts.outcomes(part)]
    assert [outcome.name for outcome in outcomes] == [entry.name for entry in entries]
    answers = load_scorer(tiny_package, "openvino").score([Path(entry.location).read_bytes() for entry in entries])
    for number, (outcome, answer) in enumerate(zip(outcomes, answers, strict=True)):
        if number == 4:
            assert (outcome.answer, outcome.code) == (None, "bad_image")
        else:
            assert outcome.answer == json.loads(json.dumps(to_document(answer)))
    whole = part_files(run)
    assert len(whole) == 4

    # Torn by a power failure, or removed: only that part is scored again, and gets the same bytes.
    (run.root / "parts" / "1.jsonl").write_bytes(whole["1.jsonl"][:-30])
    (run.root / "parts" / "2.jsonl").unlink()
    (run.root / "parts" / ".3.jsonl.77.tmp").write_bytes(b"half")
    times = {name: (run.root / "parts" / name).stat().st_mtime_ns for name in ("0.jsonl", "3.jsonl")}
    counts = score(run)
    assert (counts.done, counts.failed) == (12, 1)
    assert part_files(run) == whole
    assert times == {name: (run.root / "parts" / name).stat().st_mtime_ns for name in times}


@pytest.mark.slow
def test_killed_workers_cost_a_bounded_number_of_scorings(
    tmp_path: Path, tiny_package: ModelPackage, entries: list[Entry]
) -> None:
    run, undisturbed = (make_run(tmp_path / name, tiny_package, entries, num_workers=2) for name in ("job", "other"))
    killer = threading.Thread(target=kill_workers, args=(run, 4))
    killer.start()
    score(run)
    killer.join()
    score(undisturbed)
    assert part_files(run) == part_files(undisturbed)
    assert num_scored(run) <= 12 + 4 * PART_SIZE


def kill_workers(run: RunFolder, number: int) -> None:
    """Kill the first workers that begin to score, each as soon as it says so."""
    killed: set[str] = set()
    deadline = time.monotonic() + 60
    while len(killed) < number and time.monotonic() < deadline:
        for outbox in (run.root / "workers").glob("*.outbox.jsonl"):
            messages = [json.loads(line) for line in outbox.read_bytes().splitlines()]
            if outbox.name not in killed and any(message["kind"] == "began" for message in messages):
                os.kill(next(message["pid"] for message in messages if "pid" in message), signal.SIGKILL)
                killed.add(outbox.name)
        time.sleep(0.002)


def num_scored(run: RunFolder) -> int:
    """Entries of all ranges that a worker began."""
    messages = [
        message
        for outbox in (run.root / "workers").glob("*.outbox.jsonl")
        for message in LineReader(outbox).new()
        if message["kind"] == "began"
    ]
    return sum(message["stop"] - message["start"] for message in messages)


@pytest.mark.slow
def test_an_image_that_kills_its_process_fails_alone(
    tmp_path: Path, tiny_package: ModelPackage, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = tmp_path / "killer.jpg"
    shutil.copy(entries[1].location, killer)
    entries[7] = Entry("killer.jpg", str(killer), killer.stat().st_size, killer.stat().st_mtime_ns)
    (tmp_path / "sitecustomize.py").write_text(KILLER.format(name="killer.jpg"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = make_run(tmp_path / "job", tiny_package, entries, max_retries=1)
    counts = score(run)
    assert (counts.done, counts.failed) == (12, 2)
    outcomes = list(Parts(run.root / "parts").outcomes(2))
    assert [outcome.code for outcome in outcomes] == [None, "crash", None]
    assert "signal 9" in str(outcomes[1].error)


KILLER = """
import os
import pathlib
import signal

read_bytes = pathlib.Path.read_bytes

def read(path):
    if path.name == {name!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_bytes(path)

pathlib.Path.read_bytes = read
"""


def test_the_job_stops_when_more_entries_fail_than_allowed(
    tmp_path: Path, tiny_package: ModelPackage, entries: list[Entry]
) -> None:
    run = make_run(tmp_path / "job", tiny_package, entries, error_threshold=0)
    with pytest.raises(TooManyFailures, match="at most 0 files may fail"):
        score(run)


def test_a_stop_is_no_failure(tmp_path: Path, tiny_package: ModelPackage, entries: list[Entry]) -> None:
    stop = StopRequests()
    stop.request()
    with pytest.raises(Canceled):
        score(make_run(tmp_path / "job", tiny_package, entries), stop)


def test_a_package_that_changes_is_not_scored_with(
    tmp_path: Path, tiny_package: ModelPackage, entries: list[Entry]
) -> None:
    package = tmp_path / "package"
    shutil.copytree(tiny_package.root, package)
    run = make_run(tmp_path / "job", ModelPackage.open(package), entries)
    settings = package / "artifacts" / "settings.json"
    settings.write_text(settings.read_text().replace("{", "{ ", 1))
    with pytest.raises(Exception, match=r"this has changed: settings.json of the package"):
        score(run)


@pytest.mark.slow
def test_jobs_that_are_killed_between_the_calls_of_a_commit_write_the_same_bytes(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    counts = kill_processes(tiny_package, tmp_path, kills=20)
    assert counts.kills >= 20
    assert counts.faults == []
