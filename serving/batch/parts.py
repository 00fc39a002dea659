"""The parts of a batch job: the outcomes of consecutive entries in one file each.

A part is written to a temporary name and renamed, which commits it. Its bytes are a function of its entries, so that
two workers that score the same part write the same file. Each line is the JSON of one outcome, in the order of the
entries; the last line holds their number and the SHA-256 of the bytes before it, which tells a whole part from one that
a power failure has torn.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Outcome", "PartRange", "Parts", "encode_outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one entry: an answer, or the reason why there is none."""

    name: str
    """Name of the entry (`entries.Entry.name`)."""
    row: int
    """Its row (`entries.Entry.row`)."""
    answer: dict[str, Any] | None
    """The answer as `wire.encoding.to_document` makes it; None for a failure."""
    error: str | None = None
    """One sentence; None for an answer."""
    code: str | None = None
    """Kind of the failure for programs: `bad_image`, `input_changed`, `unreadable`, `crash`, `timeout`, `error`."""


def encode_outcome(
    name: str, row: int, answer: bytes | None, error: str | None = None, code: str | None = None
) -> bytes:
    """The line of an `Outcome`; `answer` is JSON."""
    head = f'{{"name":{json.dumps(name)},"row":{row},'.encode("ascii")
    if answer is not None:
        return head + b'"answer":' + answer + b"}\n"
    failure = f'"answer":null,"error":{json.dumps(error)},"code":{json.dumps(code)}}}\n'
    return head + failure.encode("ascii")


@dataclass(frozen=True, slots=True, order=True)
class PartRange:
    """Entries `start` to `stop` (without it) of a part; a whole part, or what is left to try of one that failed."""

    part: int
    start: int
    stop: int

    def halves(self) -> tuple["PartRange", "PartRange"]:
        """The first and the second half; `stop - start` must be at least 2."""
        middle = (self.start + self.stop) // 2
        return PartRange(self.part, self.start, middle), PartRange(self.part, middle, self.stop)


class Parts:
    """The part files of a batch job, in a folder. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def done(self, num_parts: int) -> bytearray:
        """One byte for each part: 1 when it is committed. What an interruption left unfinished is removed.

        Reads the names of the folder once. No worker may be at work.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = bytearray(num_parts)
        with os.scandir(self._folder) as files:
            for file in files:
                stem, _, suffix = file.name.partition(".")
                if suffix == "jsonl" and stem.isdecimal() and int(stem) < num_parts:
                    flags[int(stem)] = 1
                else:
                    Path(file).unlink()
        return flags

    def commit(self, where: PartRange, is_whole: bool, outcomes: Sequence[bytes], num_failed: int) -> None:
        """Write the outcomes of a range (`encode_outcome`), durably; only a whole range commits the part."""
        body = b"".join(outcomes)
        facts = {"count": len(outcomes), "failed": num_failed, "sha256": hashlib.sha256(body).hexdigest()}
        trailer = json.dumps(facts).encode() + b"\n"
        target = self._file(where, is_whole)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as stream:
            stream.write(body + trailer)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)

    def join(self, part: int, ranges: Iterable[PartRange]) -> None:
        """Commit a part from the files of its ranges, which must be complete, and remove those."""
        ordered = sorted(ranges)
        files = [_split(self._file(one, is_whole=False).read_bytes()) for one in ordered]
        lines = [line for body, _ in files for line in body.splitlines(keepends=True)]
        num_failed = sum(json.loads(trailer)["failed"] for _, trailer in files)
        self.commit(PartRange(part, ordered[0].start, ordered[-1].stop), True, lines, num_failed)
        for one in ordered:
            self._file(one, is_whole=False).unlink(missing_ok=True)

    def num_failed(self, part: int) -> int | None:
        """Number of entries of a committed part without an answer; None when its bytes are not those it states."""
        body, trailer = _split(self._whole(part).read_bytes())
        try:
            stated = json.loads(trailer)
            is_whole = stated["sha256"] == hashlib.sha256(body).hexdigest()
            return int(stated["failed"]) if is_whole else None
        except (ValueError, KeyError, TypeError):
            return None

    def outcomes(self, part: int) -> Iterator[Outcome]:
        """The outcomes of a committed part, in the order of its entries."""
        body, _ = _split(self._whole(part).read_bytes())
        for line in body.splitlines():
            yield Outcome(**json.loads(line))

    def remove(self, part: int) -> None:
        """Forget a part, so that it is scored again."""
        self._whole(part).unlink(missing_ok=True)

    def _whole(self, part: int) -> Path:
        return self._folder / f"{part}.jsonl"

    def _file(self, where: PartRange, is_whole: bool) -> Path:
        return self._whole(where.part) if is_whole else self._folder / f"{where.part}.{where.start}-{where.stop}.jsonl"


def _split(content: bytes) -> tuple[bytes, bytes]:
    """The outcomes and the last line."""
    end = content.rfind(b"\n", 0, -1) + 1
    return content[:end], content[end:]
