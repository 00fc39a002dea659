"""The executors keep their contract; a job's `compute` names one; a process ends after its parent."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clearsight.executor import Executor, Inline, Local, ProcessIdentity, Resources, executor_for
from clearsight.testing.executors import ExecutorContract, MakeTask, ProcessExecutorContract, wait_for


class TestInline(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return Inline()

    def test_it_refuses_several_processes(self, executor: Executor, task: MakeTask) -> None:
        with pytest.raises(ValueError, match="num_processes=2"):
            executor.submit(replace(task("exit", "0"), resources=Resources(num_processes=2)))


PARENT = """
import sys
from pathlib import Path
from clearsight.executor import Local, TaskSpec
executor = Local()
executor.submit(TaskSpec("task_of_a_test", ("wait", sys.argv[1]), Path(sys.argv[2])))
print("started", flush=True)
executor.wait(60)
"""


class TestLocal(ProcessExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return Local()

    def test_a_process_whose_parent_is_killed_stops_by_itself(self, task: MakeTask, tmp_path: Path) -> None:
        """The process prints its id when it is ready, so that the test can look for it."""
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


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (None, Local),
        ("local", Local),
        ("inline", Inline),
        ("gpu-cluster", Local),
        ("azureml:gpu-cluster", Local),
        ("azureml:inline", Local),
        ("local:", Local),
    ],
)
def test_a_jobs_compute_names_an_executor(compute: str | None, expected: type[Executor]) -> None:
    assert isinstance(executor_for(compute), expected)
