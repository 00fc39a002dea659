"""The final status of a trial, also of one that could not write it."""

from pathlib import Path

import pytest

from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.trial_ending import final_status, log_tail


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.mark.parametrize("stop_reason", [None, "canceled", "timeout"])
@pytest.mark.parametrize("state", ["Completed", "Failed"])
def test_the_reported_status_counts(folder: RunFolder, state: str, stop_reason: str | None) -> None:
    reported = RunStatus(state, reason="its own", message="its own")
    assert final_status(reported, folder, 0, stop_reason) == reported


def test_a_trial_that_stopped_at_the_time_limit_says_so(folder: RunFolder) -> None:
    reported = RunStatus("Canceled", reason="canceled", message="at step 3")
    ended = final_status(reported, folder, 130, "timeout")
    assert (ended.status, ended.reason, ended.message) == ("Canceled", "timeout", "at step 3")


@pytest.mark.parametrize(
    ("state", "code", "stop_reason", "expected", "words"),
    [
        ("NotStarted", -15, "canceled", ("Canceled", "canceled"), "stopped at its start"),
        ("Running", -9, "canceled", ("Canceled", "canceled"), "there is no checkpoint yet"),
        ("Running", -9, "timeout", ("Canceled", "timeout"), "there is no checkpoint yet"),
        ("Running", -9, None, ("Failed", "killed"), "SIGKILL, most likely since the memory was full"),
        ("Running", -11, None, ("Failed", "killed"), "killed by SIGSEGV; its log is"),
        ("Running", -40, None, ("Failed", "killed"), "killed by signal 40"),
        ("Running", 3, None, ("Failed", "internal_error"), "exit code 3 without a word"),
    ],
)
def test_a_status_is_derived_when_none_was_reported(
    folder: RunFolder, state: str, code: int, stop_reason: str | None, expected: tuple[str, str], words: str
) -> None:
    ended = final_status(RunStatus(state), folder, code, stop_reason)
    assert (ended.status, ended.reason) == expected
    assert words in str(ended.message)
    assert ended.ended_at is not None


def test_an_existing_checkpoint_is_named(folder: RunFolder) -> None:
    folder.checkpoints.mkdir()
    (folder.checkpoints / "last.safetensors").touch()
    assert final_status(RunStatus("Running"), folder, -9, "timeout").message == (
        "ended at once; the last checkpoint is kept"
    )


def test_a_full_disk_is_named(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
    message = str(final_status(RunStatus("Running"), folder, 1, None).message)
    assert f"the disk of {folder.root} is full" in message


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", []),
        ("one\n\ntwo\n", ["one", "two"]),
        ("".join(f"{number}\n" for number in range(20)), [str(number) for number in range(12, 20)]),
        (
            'before\nTraceback (most recent call last):\n  File "x", line 1, in f\n    g()\nMemoryError: 3 GB\nafter\n',
            ["before", "MemoryError: 3 GB", "after"],
        ),
    ],
)
def test_the_end_of_a_log_holds_no_traceback(tmp_path: Path, log: str, expected: list[str]) -> None:
    file = tmp_path / "log"
    file.write_text(log)
    assert log_tail(file) == expected


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "log") == []
