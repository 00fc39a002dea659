"""Logs are readable by their owner alone; devices keep their mode."""

import os
import stat
from pathlib import Path

from clearsight.files import open_log


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_log_and_its_folder_are_private(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "gateway.log"
    for line in (b"one\n", b"two\n"):
        with open_log(file) as stream:
            stream.write(line)
    assert file.read_bytes() == b"one\ntwo\n"
    assert (mode(file.parent), mode(file)) == (0o700, 0o600)


def test_a_log_of_an_earlier_version_becomes_private_and_its_folder_stays(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "gateway.log"
    file.parent.mkdir(mode=0o755)
    file.touch(mode=0o644)
    open_log(file).close()
    assert (mode(file.parent), mode(file)) == (0o755, 0o600)


def test_a_log_that_is_no_file_keeps_its_mode(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o644)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        open_log(tmp_path / "pipe").close()
    finally:
        os.close(reader)
    assert mode(tmp_path / "pipe") == 0o644
