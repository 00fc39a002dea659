"""A run folder can be read in any state, also after a power failure or on a full disk."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clearsight.errors import Conflict
from clearsight.runs.run_folder import LineReader, RunFolder, RunStatus


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    return folder


def test_an_empty_folder_is_a_run_that_has_not_started(folder: RunFolder) -> None:
    assert folder.read_status().status == "NotStarted"
    assert folder.read_metrics() == []
    assert list(LineReader(folder.events_file).new()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"status": "Dancing"}', '{"nonsense": 1}', "\x00\x00"])
def test_a_damaged_status_is_unknown_and_names_its_file(folder: RunFolder, content: str) -> None:
    folder.status_file.write_text(content)
    status = folder.read_status()
    assert status.status == "Unknown"
    assert str(folder.status_file) in str(status.message)


def test_a_status_survives_the_file(folder: RunFolder) -> None:
    metrics = {"accuracy": 0.5}
    status = RunStatus(
        "Completed", reason="all_epochs", best_epoch=2, metrics=metrics, intervals_95={"accuracy": [0.1, 0.9]}
    )
    folder.write_status(status)
    assert folder.read_status() == status


@pytest.mark.parametrize("state", ["Starting", "Preparing", "Running", "Finalizing", "CancelRequested"])
def test_a_run_under_way_without_an_owner_does_not_respond(folder: RunFolder, state: str) -> None:
    folder.status_file.write_text(json.dumps({"status": state, "pid": os.getpid()}))
    assert folder.read_status().status == "NotResponding"
    with folder.own():
        assert folder.read_status().status == state
    assert folder.read_status().status == "NotResponding"


@pytest.mark.parametrize("state", ["NotStarted", "Completed", "Failed", "Canceled"])
def test_other_states_need_no_owner(folder: RunFolder, state: str) -> None:
    folder.status_file.write_text(json.dumps({"status": state}))
    assert folder.read_status().status == state


def test_a_run_has_one_owner(folder: RunFolder) -> None:
    assert not folder.is_locked()
    with folder.own():
        assert folder.is_locked()
        with pytest.raises(Conflict, match="another process works on it"):
            folder.own()
    assert not folder.is_locked()
    folder.own().release()


def test_a_killed_process_owns_nothing(folder: RunFolder) -> None:
    program = f"""
from pathlib import Path
from clearsight.runs.lock import RunLock
owned = RunLock.take(Path({str(folder.root / "lock")!r}))
print("owned", flush=True)
import time; time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert folder.is_locked()
        process.kill()
    assert not folder.is_locked()


def test_events_are_read_once_and_whole(folder: RunFolder) -> None:
    reader = LineReader(folder.events_file)
    folder.append_event("a", value=1)
    assert [event["kind"] for event in reader.new()] == ["a"]
    with folder.events_file.open("a") as stream:
        stream.write('{"kind": "b"')
        stream.flush()
        assert list(reader.new()) == []
        stream.write("}\n")
    assert list(reader.new()) == [{"kind": "b"}]


def test_damaged_lines_are_left_out(folder: RunFolder) -> None:
    folder.events_file.write_bytes(b'{"kind": "a"}\n\x00\x00{"kind"\n7\n{"kind": "b"}\n')
    assert [event["kind"] for event in LineReader(folder.events_file).new()] == ["a", "b"]
    folder.metrics_file.write_bytes(b'{"epoch": 0, "x": 1}\n{"epo\n{"epoch": 0, "x": 2}\n')
    assert folder.read_metrics() == [{"epoch": 0, "x": 2}]


def test_a_disk_that_becomes_full_leaves_no_incomplete_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.append_event("a")
    write = os.write
    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        with pytest.raises(OSError, match="No space left") as caught:
            folder.append_event("b")
    assert caught.value.errno == errno.ENOSPC
    folder.append_event("c")
    assert [event["kind"] for event in LineReader(folder.events_file).new()] == ["a", "c"]


FULL_DISK = """
import os, sys
from pathlib import Path
from clearsight.runs.run_folder import RunFolder, RunStatus
folder = RunFolder(Path(sys.argv[1]))
folder.write_status(RunStatus("Running", message="x" * 300))
with open(folder.root / "filler", "wb", 0) as filler:
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError as error:
        print(error.strerror)
failed = RunStatus("Failed", reason="disk_full", message="why " * 200)
for status in (failed, RunStatus("Failed", reason="short")):
    folder.write_status(status)
    print(folder.read_status() == status, sorted(os.listdir(folder.root)))
(folder.root / "filler").unlink()
folder.write_status(failed)
print(folder.read_status() == failed, folder.status_file.read_bytes().endswith(b"}\\n"))
"""


def test_a_status_is_replaced_on_a_full_disk(tmp_path: Path) -> None:
    """On a real file system of 64 KB without a free block."""
    mount = f'mount -t tmpfs -o size=64k tmpfs "{tmp_path}" && exec "$@"'
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    made = subprocess.run(["unshare", "-rm", "sh", "-c", mount, "sh", *program], capture_output=True, text=True)
    if "unshare" in made.stderr or "mount" in made.stderr:
        pytest.skip(f"this system allows no file system of one's own: {made.stderr}")
    assert made.stdout.splitlines() == [
        "No space left on device",
        "True ['filler', 'status.json']",
        "True ['filler', 'status.json']",
        "True True",
    ], made.stderr
