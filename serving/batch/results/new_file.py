"""A file that appears complete, and never in the place of another."""

import errno
import fcntl
import filecmp
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from clearsight.errors import Conflict
from clearsight.files import written_by_way_of

__all__ = ["NewFile", "already_exists"]

_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems without hard links answer."""
_BUFFER_BYTES: Final = 1 << 18


def already_exists(target: Path) -> Conflict:
    """The error for a target that is somebody else's."""
    return Conflict(f"results are never written over others, but {target} exists; move it away or name another")


class _TargetNamed(io.FileIO):
    """A file whose errors of writing name the target, also when a library writes to it."""

    def __init__(self, descriptor: int, temporary: Path, target: Path) -> None:
        super().__init__(descriptor, "wb")
        self._names = temporary, target

    def write(self, data: Any, /) -> int:
        with written_by_way_of(*self._names):
            return super().write(data)


class NewFile:
    """A context in which `stream` is written under a hidden name beside `target`; `publish` gives it its name.

    Without `publish` nothing stays. What a killed process left under the hidden name is written over. Raises
    `Conflict` while another process writes the same target, and `OSError`, which names the target.
    """

    def __init__(self, target: Path, mode: int = 0o666) -> None:
        """`mode` of the new file, less what the process's mask forbids."""
        self.target, self._mode = target, mode
        self._temporary = target.with_name(f".{target.name}.tmp")

    def __enter__(self) -> Self:
        with written_by_way_of(self._temporary, self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            descriptor = self._open()
        self.stream = io.BufferedWriter(_TargetNamed(descriptor, self._temporary, self.target), _BUFFER_BYTES)
        return self

    def _open(self) -> int:
        """A descriptor of the hidden file, empty and locked until it is closed."""
        while True:
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, self._mode)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_mine(descriptor):
                    os.ftruncate(descriptor, 0)
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise Conflict(f"{self.target} is being written by another job; wait for it, or name another") from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _is_mine(self, descriptor: int) -> bool:
        """Whether a locked file has the hidden name and no other, so that it may be emptied."""
        held = os.fstat(descriptor)
        try:
            named = self._temporary.lstat()
        except FileNotFoundError:  # another process has published the file since it was opened
            return False
        if not os.path.samestat(held, named):
            return False
        if held.st_nlink > 1:  # it is the target too: its process was killed between giving and removing a name
            self._temporary.unlink()
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # about the rest of its buffer; what ended the context has said so
            self.stream.close()

    def publish(self, replaces: bool = False) -> bool:
        """Write durably and rename; return whether the target is new.

        An existing target is replaced only with `replaces`. Otherwise it stays, and raises `Conflict` unless it has
        the same bytes, as that of a job has which was killed before it could record that it had finished.
        """
        with written_by_way_of(self._temporary, self.target):
            self.stream.flush()
            os.fsync(self.stream.fileno())
            if replaces:
                self._temporary.replace(self.target)
                return False
            try:
                self._link()
            except FileExistsError:
                if not filecmp.cmp(self._temporary, self.target, shallow=False):
                    raise already_exists(self.target) from None
                return False
        return True

    def _link(self) -> None:
        try:
            os.link(self._temporary, self.target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Creating the name exclusively takes its place; only a kill between these two lines leaves it empty.
            os.close(os.open(self.target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            self._temporary.replace(self.target)
