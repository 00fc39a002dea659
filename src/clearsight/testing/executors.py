# ruff: noqa: S101
"""What every executor keeps: a contract suite to inherit from.

```python
class TestMine(ProcessExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return Mine()
```

`ExecutorContract` holds for every executor, `ProcessExecutorContract` also for those that run processes beside this
one. The tasks are one module that the suite writes into the test's folder and puts on the tasks' `PYTHONPATH`.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from clearsight.executor import Executor, Exited, ProcessIdentity, Resources, TaskSpec

__all__ = ["ExecutorContract", "MakeTask", "ProcessExecutorContract", "wait_for"]

_PROGRAM: Final = """
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
        case "threads":
            print(os.environ.get("OMP_NUM_THREADS", "-"), flush=True)
        case "fail-second":
            if os.environ["RANK"] == "1":
                return 5
            time.sleep(60)
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""

MakeTask = Callable[..., TaskSpec]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for at most 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class ExecutorContract:
    """Holds for every executor."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    @pytest.fixture
    def task(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
        """Makes tasks that run the program above with the given arguments."""
        (tmp_path / "task_of_a_test.py").write_text(_PROGRAM)
        monkeypatch.syspath_prepend(tmp_path)

        def make(*args: str, **environment: str) -> TaskSpec:
            return TaskSpec("task_of_a_test", args, tmp_path / "log", {"PYTHONPATH": str(tmp_path), **environment})

        return make

    def test_nothing_was_started_and_nothing_has_ended(self, executor: Executor) -> None:
        assert executor.wait(0) == []

    @pytest.mark.parametrize("code", [0, 3])
    def test_each_task_ends_once_with_its_exit_code(self, executor: Executor, task: MakeTask, code: int) -> None:
        task_id = executor.submit(task("exit", str(code)))
        assert executor.wait(30) == [Exited(task_id, code)]
        assert executor.wait(0) == []

    def test_variables_reach_the_task_and_nobody_else(self, executor: Executor, task: MakeTask, tmp_path: Path) -> None:
        executor.submit(task("write", str(tmp_path / "out"), CLEARSIGHT_TEST_WORD="hello"))
        assert executor.wait(30)
        assert (tmp_path / "out").read_text() == "hello"
        assert "CLEARSIGHT_TEST_WORD" not in os.environ

    def test_cancelling_what_has_ended_or_never_was_does_nothing(self, executor: Executor, task: MakeTask) -> None:
        task_id = executor.submit(task("exit", "0"))
        assert executor.wait(30)
        executor.cancel(task_id, grace_s=0)
        executor.cancel("unknown", grace_s=0)


class ProcessExecutorContract(ExecutorContract):
    """Holds for executors whose tasks are processes beside this one."""

    def test_waiting_ends_when_the_time_is_over(self, executor: Executor, task: MakeTask, tmp_path: Path) -> None:
        task_id = executor.submit(task("wait", str(tmp_path / "ready")))
        assert executor.wait(0.1) == []
        executor.cancel(task_id, grace_s=0)
        [ended] = executor.wait(30)
        assert ended.code in (-signal.SIGTERM, -signal.SIGKILL)  # whichever was faster

    def test_what_a_process_prints_is_in_its_log(self, executor: Executor, task: MakeTask, tmp_path: Path) -> None:
        executor.submit(task("print"))
        assert executor.wait(30)
        assert (tmp_path / "log").read_text().splitlines() == ["said on stdout", "said on stderr"]

    def test_a_cancelled_process_may_end_in_its_own_way(
        self, executor: Executor, task: MakeTask, tmp_path: Path
    ) -> None:
        task_id = executor.submit(task("wait", str(tmp_path / "ready")))
        wait_for((tmp_path / "ready").exists)
        executor.cancel(task_id, grace_s=30)
        executor.cancel(task_id, grace_s=30)  # asking again asks nothing new
        assert executor.wait(30) == [Exited(task_id, 7)]

    def test_a_process_that_does_not_listen_is_ended_with_all_it_started(
        self, executor: Executor, task: MakeTask, tmp_path: Path
    ) -> None:
        task_id = executor.submit(task("ignore", str(tmp_path / "child")))
        wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "")
        executor.cancel(task_id, grace_s=60)
        executor.cancel(task_id, grace_s=0.1)  # a shorter grace counts
        assert executor.wait(30) == [Exited(task_id, -9)]
        child = int((tmp_path / "child").read_text())
        wait_for(lambda: ProcessIdentity.of(child) is None)

    def test_several_processes_run_side_by_side(self, executor: Executor, task: MakeTask) -> None:
        started = {executor.submit(task("exit", str(code))): code for code in (1, 2)}
        ended: dict[str, int] = {}
        while len(ended) < 2:
            ended |= {one.task_id: one.code for one in executor.wait(30)}
        assert ended == started

    def test_a_lone_process_gets_no_variables_of_a_process_group(
        self, executor: Executor, task: MakeTask, tmp_path: Path
    ) -> None:
        executor.submit(task("rank"))
        assert executor.wait(30)
        assert (tmp_path / "log").read_text().split() == ["-"] * 6

    def test_processes_of_one_task_meet_at_one_free_port_with_ranks_of_their_own(
        self, executor: Executor, task: MakeTask, tmp_path: Path
    ) -> None:
        task_id = executor.submit(replace(task("rank"), resources=Resources(num_processes=2)))
        assert executor.wait(30) == [Exited(task_id, 0)]
        first, second = sorted((tmp_path / "log").read_text().splitlines())
        assert first.split()[:5] == ["0", "0", "2", "2", "127.0.0.1"]
        assert second.split()[:5] == ["1", "1", "2", "2", "127.0.0.1"]
        assert first.split()[5] == second.split()[5]
        assert 0 < int(first.split()[5]) < 65536

    def test_a_task_ends_with_its_first_process_that_fails_and_with_its_code(
        self, executor: Executor, task: MakeTask
    ) -> None:
        task_id = executor.submit(replace(task("fail-second"), resources=Resources(num_processes=2)))
        assert executor.wait(30) == [Exited(task_id, 5)]  # the other one would sleep for a minute

    @pytest.mark.parametrize(
        ("resources", "limit", "expected"),
        [
            (Resources(), None, ["-"]),
            (Resources(num_cores=3), None, ["3"]),
            (Resources(num_processes=2, num_cores=6), None, ["3", "3"]),
            (Resources(num_processes=2, num_cores=1), None, ["1", "1"]),
            (Resources(num_processes=2, num_cores=6), "5", ["5", "5"]),
        ],
    )
    def test_the_processes_of_a_task_share_its_cores_unless_the_environment_sets_the_threads(
        self,
        executor: Executor,
        task: MakeTask,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        resources: Resources,
        limit: str | None,
        expected: list[str],
    ) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if limit is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", limit)
        executor.submit(replace(task("threads"), resources=resources))
        assert executor.wait(30)
        assert (tmp_path / "log").read_text().split() == expected

    def test_all_processes_of_a_task_are_asked_to_stop(
        self, executor: Executor, task: MakeTask, tmp_path: Path
    ) -> None:
        task_id = executor.submit(replace(task("wait", str(tmp_path / "ready")), resources=Resources(num_processes=2)))
        wait_for((tmp_path / "ready").exists)
        executor.cancel(task_id, grace_s=30)
        [ended] = executor.wait(30)
        assert ended.code in (7, -signal.SIGTERM)  # one may not have set up its handler yet
