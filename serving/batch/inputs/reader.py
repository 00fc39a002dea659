"""Reading the image of an entry, in the processes and threads of a batch job."""

import os
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from clearsight.errors import BadImage, UserError
from clearsight.fields import shown
from clearsight.files import os_error_message
from clearsight.images.files import require_image, require_size
from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.archives import Archive, archive_suffix, open_archive, read_member
from clearsight.serving.batch.inputs.tables import Table, open_table

__all__ = ["EntryReader", "Unreadable"]

Code = Literal["input_changed", "unreadable", "bad_image"]


class Unreadable(UserError):
    """The image of an entry cannot be read; `code` is that of the outcome."""

    code: Code

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        printable = message.replace("\n", "\\n").encode("utf-8", "backslashreplace").decode()  # it holds names of files
        super().__init__(printable)


class EntryReader:
    """Reads entries; each thread keeps the table or archive open that it read last.

    Entries of one file are read fastest in their order: a compressed archive is read from front to back, and a
    Parquet file from the beginning of a row group.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._open: set[Table | Archive] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of all threads, which must have ended their reading."""
        with self._lock:
            while self._open:
                self._open.pop().close()
        self._of_thread = threading.local()

    def read(self, entry: Entry) -> bytes | str:
        """The cell to score: the bytes of an image file, or base64 text of a table. Raises `Unreadable`."""
        try:
            _require_unchanged(entry)
            if entry.member is None:
                require_size(entry.size)
                content = Path(entry.location).read_bytes()
                require_image(content)
                return content
            container = self._container(entry)
            if archive_suffix(entry.location):
                content = read_member(container, entry)
                require_image(content)
                return content
            return _cell(container.value(entry.row, entry.offset), entry.member)
        except Unreadable:
            raise
        except BadImage as error:
            raise Unreadable("bad_image", str(error)) from error
        except UserError as error:
            raise Unreadable("unreadable", str(error)) from error
        except OSError as error:
            raise Unreadable("unreadable", f"the file cannot be read: {os_error_message(error)}") from error

    def _container(self, entry: Entry) -> Any:
        """The open table or archive of an entry."""
        key = (entry.location, entry.size, entry.modified_ns)
        kept = getattr(self._of_thread, "kept", None)
        if kept is not None and kept[0] == key:
            return kept[1]
        if kept is not None:
            with self._lock:
                self._open.discard(kept[1])
            kept[1].close()
            self._of_thread.kept = None
        path = Path(entry.location)
        container = open_archive(path) if archive_suffix(path.name) else open_table(path)
        with self._lock:
            self._open.add(container)
        self._of_thread.kept = (key, container)
        return container


def _require_unchanged(entry: Entry) -> None:
    """Raise `Unreadable` for a file that is not what was listed, or was no file then."""
    try:
        status: os.stat_result | None = Path(entry.location).stat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except ValueError as error:
        raise Unreadable("unreadable", f"the path cannot be a file's: {error}") from None
    if entry.size < 0:
        _refuse_missing(entry, status)
    if status is None:
        raise Unreadable("input_changed", f"{entry.location} was there when the input was listed, but is gone")
    if (status.st_size, status.st_mtime_ns) != (entry.size, entry.modified_ns):
        raise Unreadable(
            "input_changed",
            f"{entry.location} has changed since the input was listed: it had {entry.size} bytes, now "
            f"{status.st_size}, or its time of modification differs; start a new job for what it holds now",
        )


def _refuse_missing(entry: Entry, status: os.stat_result | None) -> None:
    if status is None:
        raise Unreadable("unreadable", f"{entry.location} does not exist")
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "device, pipe or socket"
        raise Unreadable("unreadable", f"{entry.location} must be a picture file, but it is a {kind}")
    raise Unreadable(
        "input_changed", f"{entry.location} could not be found when the input was listed, but is there now"
    )


def _cell(value: Any, column: str) -> bytes | str:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, bytes) and value:
        require_size(len(value))
        return value
    is_empty = value is None or value in ("", b"") or (isinstance(value, str) and not value.strip())
    what = "the cell is empty" if is_empty else f"got {shown(value)}"
    raise BadImage(f"the column {column!r} must hold base64 text or bytes of a picture, or its path, but {what}")
