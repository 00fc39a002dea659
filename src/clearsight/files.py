"""Files that are written completely or not at all, and logs that only their owner reads."""

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_log", "write_atomically"]


def write_atomically(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never an incomplete one.

    Parent folders are made. The file is created with `mode` before any byte is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_log(file: Path) -> BinaryIO:
    """Open a log to append to, with mode 0600: it may hold addresses, names and paths.

    Its folder is made with mode 0700 when it is missing; the mode of a folder that is there stays.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stream = os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")
    status = os.fstat(stream.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:  # of an earlier version; never of /dev/null
        with contextlib.suppress(PermissionError):  # the file is somebody else's, who decides
            os.fchmod(stream.fileno(), 0o600)
    return stream
