"""Code that runs in a process of its own: its output, its last line of stderr, its time limit."""

from pathlib import Path

import psutil
import pytest

from clearsight.executor import PythonCall, call_module
from clearsight.executor.call import last_error
from clearsight.testing.executors import wait_for


@pytest.mark.parametrize(
    ("errors", "code", "expected"),
    [
        ("", 3, "the process ended with exit status 3"),
        ("\n", -9, "the process ended with signal 9"),
        ("Traceback\nerror: no such file\n", 1, "no such file"),
        ("ValueError: 7", 1, "ValueError: 7"),
    ],
)
def test_the_error_is_the_last_line_of_stderr(errors: str, code: int, expected: str) -> None:
    assert last_error(errors, code) == expected


def test_a_module_gets_arguments_and_stdin_and_its_output_is_collected() -> None:
    result = call_module("json.tool", "--compact", stdin=b'{"a": 1}', timeout_s=60)
    assert (result.code, result.output.strip()) == (0, b'{"a":1}')
    failed = call_module("json.tool", stdin=b"{", timeout_s=60)
    assert failed.code == 1
    assert failed.error.startswith("Expecting property name")  # what json.tool writes


def test_a_call_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = "import time; time.sleep(60)"
    program = (
        "import pathlib, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    call = PythonCall(["-c", program])
    wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        call.wait(0.1)
    pid = int(pid_file.read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    call.kill()  # a second call does nothing
