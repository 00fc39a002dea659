"""One contract, two executors; and what only processes can do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clearsight.executor import Executor, Exited, Inline, Local, ProcessIdentity, TaskSpec

PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path

def main(args):
    match args[0]:
        case "exit":
            return int(args[1])
        case "write":
            Path(args[1]).write_text(os.environ.get("CLEARSIGHT_TEST_WORD", "none"))
            return 0
        case "print":
            print("said on stdout", flush=True)
            print("said on stderr", file=sys.stderr, flush=True)
            return 0
        case "wait":
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
            Path(args[1]).write_text("ready")
            time.sleep(60)
        case "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path(args[1]).write_text(str(child.pid))
            time.sleep(60)
        case "rank":
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            print(*(os.environ.get(name, "-") for name in names), flush=True)
        case "fail-second":
            if os.environ["RANK"] == "1":
                return 5
            time.sleep(60)
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""

Task = Callable[..., TaskSpec]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Makes tasks that run the program above with the given arguments."""
    (tmp_path / "task_of_a_test.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)

    def make(*args: str, **environment: str) -> TaskSpec:
        return TaskSpec("task_of_a_test", args, tmp_path / "log", {"PYTHONPATH": str(tmp_path), **environment})

    return make


@pytest.fixture(params=[Inline, Local])
def executor(request: pytest.FixtureRequest) -> Executor:
    return request.param()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_was_started_and_nothing_has_ended(executor: Executor) -> None:
    assert executor.wait(0) == []


@pytest.mark.parametrize("code", [0, 3])
def test_each_task_ends_once_with_its_exit_code(executor: Executor, task: Task, code: int) -> None:
    task_id = executor.submit(task("exit", str(code)))
    assert executor.wait(30) == [Exited(task_id, code)]
    assert executor.wait(0) == []


def test_variables_reach_the_task_and_nobody_else(executor: Executor, task: Task, tmp_path: Path) -> None:
    executor.submit(task("write", str(tmp_path / "out"), CLEARSIGHT_TEST_WORD="hello"))
    assert executor.wait(30)
    assert (tmp_path / "out").read_text() == "hello"
    assert "CLEARSIGHT_TEST_WORD" not in os.environ


def test_cancelling_what_has_ended_or_never_was_does_nothing(executor: Executor, task: Task) -> None:
    task_id = executor.submit(task("exit", "0"))
    assert executor.wait(30)
    executor.cancel(task_id, grace_s=0)
    executor.cancel("unknown", grace_s=0)


def test_waiting_ends_when_the_time_is_over(task: Task, tmp_path: Path) -> None:
    executor = Local()
    task_id = executor.submit(task("wait", str(tmp_path / "ready")))
    assert executor.wait(0.1) == []
    executor.cancel(task_id, grace_s=0)
    [ended] = executor.wait(30)
    assert ended.code in (-signal.SIGTERM, -signal.SIGKILL)  # whichever was faster


def test_what_a_process_prints_is_in_its_log(task: Task, tmp_path: Path) -> None:
    executor = Local()
    executor.submit(task("print"))
    assert executor.wait(30)
    assert (tmp_path / "log").read_text().splitlines() == ["said on stdout", "said on stderr"]


def test_a_cancelled_process_may_end_in_its_own_way(task: Task, tmp_path: Path) -> None:
    executor = Local()
    task_id = executor.submit(task("wait", str(tmp_path / "ready")))
    wait_for((tmp_path / "ready").exists)
    executor.cancel(task_id, grace_s=30)
    executor.cancel(task_id, grace_s=30)  # asking again asks nothing new
    assert executor.wait(30) == [Exited(task_id, 7)]


def test_a_process_that_does_not_listen_is_ended_with_all_it_started(task: Task, tmp_path: Path) -> None:
    executor = Local()
    task_id = executor.submit(task("ignore", str(tmp_path / "child")))
    wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "")
    executor.cancel(task_id, grace_s=60)
    executor.cancel(task_id, grace_s=0.1)  # a shorter grace counts
    assert executor.wait(30) == [Exited(task_id, -9)]
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: ProcessIdentity.of(child) is None)


def test_several_processes_run_side_by_side(task: Task) -> None:
    executor = Local()
    started = {executor.submit(task("exit", str(code))): code for code in (1, 2)}
    ended: dict[str, int] = {}
    while len(ended) < 2:
        ended |= {one.task_id: one.code for one in executor.wait(30)}
    assert ended == started


def test_a_lone_process_gets_no_variables_of_a_gang(task: Task, tmp_path: Path) -> None:
    executor = Local()
    executor.submit(task("rank"))
    assert executor.wait(30)
    assert (tmp_path / "log").read_text().split() == ["-"] * 6


def test_a_gang_meets_at_one_free_port_with_ranks_of_its_own(task: Task, tmp_path: Path) -> None:
    executor = Local()
    task_id = executor.submit(replace(task("rank"), num_processes=2))
    assert executor.wait(30) == [Exited(task_id, 0)]
    first, second = sorted((tmp_path / "log").read_text().splitlines())
    assert first.split()[:5] == ["0", "0", "2", "2", "127.0.0.1"]
    assert second.split()[:5] == ["1", "1", "2", "2", "127.0.0.1"]
    assert first.split()[5] == second.split()[5]
    assert 0 < int(first.split()[5]) < 65536


def test_a_gang_ends_with_the_first_that_fails_and_with_its_code(task: Task) -> None:
    executor = Local()
    task_id = executor.submit(replace(task("fail-second"), num_processes=2))
    assert executor.wait(30) == [Exited(task_id, 5)]  # the other one would sleep for a minute


def test_a_whole_gang_is_asked_to_stop(task: Task, tmp_path: Path) -> None:
    executor = Local()
    task_id = executor.submit(replace(task("wait", str(tmp_path / "ready")), num_processes=2))
    wait_for((tmp_path / "ready").exists)
    executor.cancel(task_id, grace_s=30)
    [ended] = executor.wait(30)
    assert ended.code in (7, -signal.SIGTERM)  # one may not have set up its handler yet


def test_inline_refuses_a_gang(task: Task) -> None:
    with pytest.raises(ValueError, match="num_processes=2"):
        Inline().submit(replace(task("exit", "0"), num_processes=2))


PARENT = """
import sys
from pathlib import Path
from clearsight.executor import Local, TaskSpec
executor = Local()
executor.submit(TaskSpec("task_of_a_test", ("wait", sys.argv[1]), Path(sys.argv[2])))
print("started", flush=True)
executor.wait(60)
"""


def test_a_process_whose_parent_is_killed_stops_by_itself(task: Task, tmp_path: Path) -> None:
    """It prints its number when it is ready, so that it can be looked for."""
    program = tmp_path / "task_of_a_test.py"
    program.write_text(program.read_text().replace('write_text("ready")', "write_text(str(os.getpid()))"))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "ready"), str(tmp_path / "log")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: (tmp_path / "ready").exists() and (tmp_path / "ready").read_text() != "")
    child = int((tmp_path / "ready").read_text())
    assert ProcessIdentity.of(child) is not None
    parent.kill()
    parent.wait()
    wait_for(lambda: ProcessIdentity.of(child) is None)
    assert "the parent process is gone" in (tmp_path / "log").read_text()
