"""Training in real processes: several at once, killed ones, and resumed ones."""

import json
import multiprocessing
import runpy
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from safetensors import safe_open

from clearsight.training.engine.ranks import Ranks

PROGRAM = Path(__file__).with_name("tiny_training.py")

Start = Callable[..., list[ForkServerProcess]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def start() -> Start:
    """Starts the program in processes with torch's variables, as the executor does.

    They are forked from one clean process that has imported everything: imports take longer than the training.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["clearsight.training.classification.objective", "clearsight.training.engine.loop", "torch._dynamo"]
    )

    def start(folder: Path, num_processes: int = 1, **options: Any) -> list[ForkServerProcess]:
        folder.mkdir(exist_ok=True)
        port = str(free_port())
        processes = []
        for rank in range(num_processes):
            place = {"RANK": str(rank), "WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1"}
            given = {"OPTIONS": {"folder": str(folder), "variables": {**place, "MASTER_PORT": port}, **options}}
            processes.append(context.Process(target=runpy.run_path, args=(str(PROGRAM), given, "__main__")))
            processes[-1].start()
        return processes

    return start


def finish(processes: list[ForkServerProcess], timeout_s: float = 120.0) -> list[int | None]:
    """Exit codes, or minus the number of a signal; None for a process that the test had to kill."""
    for process in processes:
        process.join(timeout_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["image_classification", "image_classification_multilabel"])
def test_a_killed_and_resumed_run_has_the_weights_of_an_undisturbed_one(
    start: Start, task: str, texture_folder: Path, texture_pairs_folder: Path, tmp_path: Path
) -> None:
    """Killed between two steps of an epoch, with a checkpoint from some step before, workers and accumulation."""
    data = texture_folder if task == "image_classification" else texture_pairs_folder
    options = {"data": str(data), "task": task, "accumulation": 2, "num_workers": 2, "batch_size": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    alone, dying = start(whole, **options), start(killed, **options, die_at=6)
    assert finish(dying) == [-signal.SIGKILL]
    with safe_open(killed / "last.safetensors", framework="np") as checkpoint:
        assert json.loads(checkpoint.metadata()["counters"])["step"] == 5
    assert finish(start(killed, **options)) == [0]
    assert finish(alone) == [0]
    assert result(whole)["step"] == 8
    assert result(killed)["weights"] == result(whole)["weights"]
    assert result(killed)["passes"][-1] == result(whole)["passes"][-1]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_double_batch_and_stop_and_resume_together(
    start: Start, texture_folder: Path, tmp_path: Path
) -> None:
    """Without batch norm, whose statistics each process computes from its share, and dropout, which each draws itself.

    Only the order of sums differs, hence the tolerance. 17 images: the last batch is 3 and 2 of 5.
    """
    options: dict[str, Any] = {"data": str(texture_folder), "num_training": 17, "accumulation": 2}
    plain = {**options, "depends_on_batch": False}
    one, two, dependent, stopped = (tmp_path / name for name in ("one", "two", "dependent", "stopped"))
    running = [start(one, batch_size=6, **plain), start(two, 2, batch_size=3, **plain)]
    assert [finish(processes) for processes in running] == [[0], [0, 0]]
    for ours, theirs in zip(result(two)["passes"], result(one)["passes"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)

    options["batch_size"] = 2
    running = [start(dependent, 2, **options), start(stopped, 2, **options, stop_at=3)]
    assert [finish(processes) for processes in running] == [[0, 0], [0, 0]]
    assert (result(stopped)["ending"], result(stopped)["step"]) == ("canceled", 3)
    assert finish(start(stopped, 2, **options)) == [0, 0]
    assert result(stopped)["weights"] == result(dependent)["weights"]
    assert result(stopped)["passes"] == result(dependent)["passes"][-len(result(stopped)["passes"]) :]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_at_once(start: Start, texture_folder: Path, tmp_path: Path) -> None:
    processes = start(tmp_path / "run", 2, data=str(texture_folder), die_at=2)
    assert finish(processes[1:]) == [-signal.SIGKILL]
    died_at = time.monotonic()
    assert finish(processes[:1], timeout_s=60) == [1]
    assert time.monotonic() - died_at < 20


def test_a_process_alone_agrees_with_itself() -> None:
    ranks = Ranks()
    assert ranks.is_first
    assert ranks.all_reduce_max(2) == 2
    assert list(ranks.share(3)) == [0, 1, 2]
    assert ranks.all_gather_documents("names", ["a"]) == [["a"]]
    assert ranks.agree_on_failure("diverged", "at step 3") == ("diverged", "at step 3")


def test_shares_of_a_job_cover_it_once() -> None:
    parts = [list(Ranks(rank, rank, 3).share(7)) for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert list(Ranks(2, 2, 3).share(2)) == []


def test_the_first_process_reports_the_failure_that_ended_it() -> None:
    store = dist.HashStore()
    first, second, third = (Ranks(rank, rank, 3, store) for rank in range(3))
    assert first.agree_on_failure("internal_error", "own") == ("internal_error", "own")
    second.agree_on_failure("out_of_memory", "batch 8")
    third.agree_on_failure("internal_error", "connection closed")
    told = ("out_of_memory", "process 1 of 3: batch 8")
    assert first.agree_on_failure("internal_error", "connection closed") == told
    assert first.agree_on_failure("bad_label", "line 3") == ("bad_label", "line 3")


def test_all_processes_get_the_values_of_each() -> None:
    store = dist.HashStore()
    first, second = (Ranks(rank, rank, 2, store) for rank in range(2))
    store.set("found/0", "[1]")
    assert second.all_gather_documents("found", [2]) == [[1], [2]]
    assert first.all_gather_documents("found", [1]) == [[1], [2]]
