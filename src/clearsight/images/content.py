"""Bytes of an image file, in memory or on disk, and what is read of them without loading the whole file."""

import io
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self

__all__ = ["Content", "FileContent", "count_up_to", "find", "stream_of", "unpack"]

_PAGE: Final = 64 * 1024


class Content(Protocol):
    """`bytes`, or as much of their interface as reading a header takes."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> bytes: ...


class FileContent:
    """The content of a file, read page by page where it is looked at."""

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = path.open("rb")
        self._size = os.fstat(self.file.fileno()).st_size
        self._page_start = 0
        self._page = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.file.close()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        if start < self._page_start or stop > self._page_start + len(self._page):
            self._page_start = start
            self._page = os.pread(self.file.fileno(), max(stop - start, _PAGE), start)
        return self._page[start - self._page_start : max(stop, start) - self._page_start]


def stream_of(content: Content) -> BinaryIO:
    """A binary stream of the content, at its start. Streams of one `FileContent` share their position."""
    if isinstance(content, FileContent):
        content.file.seek(0)
        return content.file
    return io.BytesIO(content[:])


def unpack(layout: str, content: Content, start: int) -> tuple[Any, ...]:
    """Unpack a `struct` layout from `start` on. Raises `struct.error` where the content ends before."""
    return struct.unpack(layout, content[start : start + struct.calcsize(layout)])


def count_up_to(limit: int, content: Content, pattern: bytes, start: int) -> int:
    """Occurrences of a pattern from `start` on, counted no further than to `limit`."""
    count, overlap = 0, len(pattern) - 1
    for offset in range(start, len(content), 1024 * 1024):
        count += content[offset : offset + 1024 * 1024 + overlap].count(pattern)
        if count >= limit:
            return limit
    return count


def find(content: Content, pattern: bytes, start: int) -> int:
    """Where the pattern, one byte, comes next from `start` on. Raises `IndexError` when it does not."""
    for offset in range(start, len(content), _PAGE):
        place = content[offset : offset + _PAGE].find(pattern)
        if place >= 0:
            return offset + place
    raise IndexError(pattern)
