"""Files that are written completely or not at all, logs that only their owner reads, errors of the system in words."""

import contextlib
import errno
import functools
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

__all__ = ["is_disk_full", "open_log", "os_error_message", "real_paths", "write_atomically", "written_by_way_of"]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_REMEDIES: Final[Mapping[int, str]] = MappingProxyType(
    {
        **dict.fromkeys(_FULL, "free some space and try again"),
        **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "change its permissions or choose another folder"),
    }
)


def real_paths(paths: Iterable[Path]) -> Iterator[Path]:
    """The path of each file without links and `..`: equal paths are one file. Folders are looked up once."""
    real_folder = functools.cache(Path.resolve)
    for path in paths:
        is_plain = path.name != ".." and not path.is_symlink()
        yield real_folder(path.parent) / path.name if is_plain else path.resolve()


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a quota on it, is used up; libraries often keep only the system's text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(os.strerror(number) in str(error) for number in _FULL)


def os_error_message(error: OSError) -> str:
    """One line for people: the file, what the operating system says, and what to do where that is known."""
    if error.strerror is None:
        return str(error) or type(error).__name__
    what = error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"
    remedy = _REMEDIES.get(error.errno or 0)
    return what if remedy is None else f"{what}; {remedy}"


@contextlib.contextmanager
def written_by_way_of(temporary: Path, target: Path) -> Iterator[None]:
    """Let an `OSError` about `temporary`, which is gone by the time that people read of it, name `target` instead.

    Of the errors that `shutil.copytree` collects the first is raised.
    """
    try:
        yield
    except shutil.Error as error:
        source, _, text = error.args[0][0]
        found = re.match(r"\[Errno (\d+)\]", text)
        number = int(found[1]) if found else errno.EIO
        is_of_source = str(source) in text and str(temporary) not in text
        raise OSError(number, os.strerror(number), str(source if is_of_source else target)) from error
    except OSError as error:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
        if error.errno is not None and (not names or any(name.startswith(str(temporary)) for name in names)):
            error.filename, error.filename2 = str(target), None
        raise


def write_atomically(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never an incomplete one.

    Parent folders are made. The file is created with `mode` before any byte is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with written_by_way_of(temporary, path):
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
