"""The fixed list of what a batch job scores: one entry for each image, written once, read by position.

`entries.jsonl` holds one JSON array per entry in its order; `entries.index` holds the offset of the first line of every
part as 64-bit integers, so that a part is read without the lines before it, and a list of a million entries needs no
memory. A listing is complete once the index exists, which is renamed into place last.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Final

from clearsight.files import written_by_way_of

__all__ = ["Entry", "Listing"]

_OFFSET: Final = struct.Struct("<Q")
_TRAILER: Final = struct.Struct("<QQ")
"""Number of entries, and entries per part, at the end of the index."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of an input: a file, a member of an archive, or a row of a table."""

    name: str
    """Path below the root of the input with `/`, as it stands in the results. Bytes of a file name that are not UTF-8
    are surrogate escapes (PEP 383)."""
    location: str
    """Absolute path or URL of the file that holds the image."""
    size: int
    """Bytes of that file when it was listed."""
    modified_ns: int
    """Its time of modification then, in nanoseconds since 1970; 0 where the storage has none."""
    row: int = 0
    """Number of the row of a table, counted from 0; 0 for a file of its own."""
    member: str | None = None
    """Name of a member of an archive, or of the column of a table; None for a file of its own."""
    offset: int = 0
    """Where the row of a CSV or JSONL table, or the header of a member of a tar archive, begins: bytes from the start,
    of the archive when it is unpacked; 0 elsewhere."""


_FIELDS: Final = attrgetter(*(field.name for field in fields(Entry)))  # dataclasses.astuple takes 30 times as long


class Listing:
    """The entries of a batch job in a folder. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._lines = folder / "entries.jsonl"
        self._index = folder / "entries.index"

    def exists(self) -> bool:
        """Whether the listing is complete."""
        return self._index.exists()

    def write(self, entries: Iterable[Entry], part_size: int) -> int:
        """Write the listing, in parts of `part_size` entries; return their number. Memory does not grow with it."""
        count = 0
        temporary = self._index.with_suffix(".tmp")
        with written_by_way_of(temporary, self._index):
            with self._lines.open("wb") as lines, temporary.open("wb") as index:
                for count, entry in enumerate(entries, start=1):
                    if (count - 1) % part_size == 0:
                        index.write(_OFFSET.pack(lines.tell()))
                    lines.write(json.dumps(_FIELDS(entry)).encode("ascii") + b"\n")
                index.write(_TRAILER.pack(count, part_size))
            temporary.rename(self._index)
        return count

    @property
    def num_entries(self) -> int:
        return self._trailer()[0]

    @property
    def part_size(self) -> int:
        return self._trailer()[1]

    @property
    def num_parts(self) -> int:
        count, part_size = self._trailer()
        return -(-count // part_size)

    def read_part(self, part: int) -> list[Entry]:
        """The entries of a part, counted from 0; the last part may be shorter."""
        with self._index.open("rb") as index:
            index.seek(part * _OFFSET.size)
            [offset] = _OFFSET.unpack(index.read(_OFFSET.size))
        with self._lines.open("rb") as lines:
            lines.seek(offset)
            return [_entry(line) for line in islice(lines, self.part_size)]

    def read(self) -> Iterator[Entry]:
        """All entries in their order."""
        with self._lines.open("rb") as lines:
            yield from map(_entry, lines)

    def _trailer(self) -> tuple[int, int]:
        with self._index.open("rb") as index:
            index.seek(-_TRAILER.size, 2)
            count, part_size = _TRAILER.unpack(index.read(_TRAILER.size))
        return count, part_size


def _entry(line: bytes) -> Entry:
    return Entry(*json.loads(line))
