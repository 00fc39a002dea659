"""Cost and progress of a request's explanations: noted where they are computed, read where the answer is sent.

A request is explained in one thread, inside a block `observed()`; notes outside of such a block are dropped. Work that
may be paused or ended by another thread runs inside a block `watched()`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = [
    "ExplainedRow",
    "Telemetry",
    "Watch",
    "checkpoint",
    "note_chunk",
    "note_row",
    "note_rows_done",
    "observed",
    "watched",
]


@dataclass(frozen=True, slots=True)
class ExplainedRow:
    """One explained image or object. `milliseconds` are by phase, and empty for a cached explanation."""

    algorithm: str
    """Algorithm that was run; it may be cheaper than the requested one."""
    milliseconds: Mapping[str, float]
    is_degraded: bool
    is_cached: bool


@dataclass(slots=True)
class Telemetry:
    """Explained rows and largest chunk of one request."""

    rows: list[ExplainedRow] = field(default_factory=list)
    chunk: int | None = None
    """Largest number of points in one forward pass, after limits of memory and time; None: there was no such pass."""

    def to_document(self) -> dict[str, Any]:
        """Plain data in ASCII, about 110 bytes per row: it is sent in a header."""
        return {
            "chunk": self.chunk,
            "rows": [
                {
                    "algorithm": row.algorithm,
                    "ms": {phase: round(milliseconds) for phase, milliseconds in row.milliseconds.items()},
                    "degraded": row.is_degraded,
                    "cached": row.is_cached,
                }
                for row in self.rows
            ],
        }


class Watch(Protocol):
    """May pause or end the work of a thread, and receives its progress."""

    def checkpoint(self) -> None:
        """Called between two steps of the work. May wait; raises an exception to end the work."""

    def rows_done(self, done: int, total: int) -> None:
        """Called with the number of explained rows, of all rows to explain."""

    def points_done(self, done: int, total: int) -> None:
        """Called with the number of computed points, of all planned points of the current map."""


_watch: ContextVar[Watch | None] = ContextVar("explanation_watch", default=None)
_current: ContextVar[Telemetry | None] = ContextVar("explanation_telemetry", default=None)


@contextmanager
def observed() -> Iterator[Telemetry]:
    """Collect the notes of this thread inside the block."""
    telemetry = Telemetry()
    token = _current.set(telemetry)
    try:
        yield telemetry
    finally:
        _current.reset(token)


def note_row(row: ExplainedRow) -> None:
    telemetry = _current.get()
    if telemetry is not None:
        telemetry.rows.append(row)


def note_chunk(size: int, done: int, total: int) -> None:
    """Note that a chunk of `size` points is computed, which makes `done` of `total` planned points. A checkpoint."""
    telemetry = _current.get()
    if telemetry is not None:
        telemetry.chunk = max(size, telemetry.chunk or 0)
    watch = _watch.get()
    if watch is not None:
        watch.points_done(done, total)
        watch.checkpoint()


def note_rows_done(done: int, total: int) -> None:
    """Note that `done` of `total` rows are explained. A checkpoint."""
    watch = _watch.get()
    if watch is not None:
        watch.rows_done(done, total)
        watch.checkpoint()


def checkpoint() -> None:
    """Let the watch of this thread, if there is one, pause or end the work here."""
    watch = _watch.get()
    if watch is not None:
        watch.checkpoint()


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Let `watch` pause or end the work that this thread does inside the block."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)
