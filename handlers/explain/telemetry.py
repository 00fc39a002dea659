"""What a request's explanations cost, and how far they are: noted deep inside, read by the process's edge.

A request is explained in one thread, between `observed()` and its end; notes outside of it go nowhere. Work that may be
held up or ended from outside is done inside `watched()`.
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
    """One image, or one object of it. `milliseconds` by phase, empty when the explanation was kept from before."""

    algorithm: str
    """What was computed, which may be less than was asked for."""
    milliseconds: Mapping[str, float]
    is_degraded: bool
    is_cached: bool


@dataclass(slots=True)
class Telemetry:
    """Of one request."""

    rows: list[ExplainedRow] = field(default_factory=list)
    chunk: int | None = None
    """Most points in one pass through the network, after memory and time had their say; None: no such pass."""

    def to_document(self) -> dict[str, Any]:
        """Plain data in ASCII, some 110 bytes a row: it travels in a header."""
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
    """Who may hold up or end the work of a thread, and is told how far it is."""

    def checkpoint(self) -> None:
        """Called between two parts of the work. May wait; raises to end the work."""

    def rows_done(self, done: int, total: int) -> None:
        """So many of the rows to be explained are done."""

    def points_done(self, done: int, total: int) -> None:
        """So many points of the present way through the network are done."""


_watch: ContextVar[Watch | None] = ContextVar("explanation_watch", default=None)
_current: ContextVar[Telemetry | None] = ContextVar("explanation_telemetry", default=None)


@contextmanager
def observed() -> Iterator[Telemetry]:
    """Collect what is noted inside."""
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
    """`size` points went through the network, with which `done` of the `total` planned are done. Is a checkpoint."""
    telemetry = _current.get()
    if telemetry is not None:
        telemetry.chunk = max(size, telemetry.chunk or 0)
    watch = _watch.get()
    if watch is not None:
        watch.points_done(done, total)
        watch.checkpoint()


def note_rows_done(done: int, total: int) -> None:
    """`done` of the rows to be explained are done. Is a checkpoint."""
    watch = _watch.get()
    if watch is not None:
        watch.rows_done(done, total)
        watch.checkpoint()


def checkpoint() -> None:
    """Let the watch of this thread, if there is one, hold up or end the work here."""
    watch = _watch.get()
    if watch is not None:
        watch.checkpoint()


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """What is done inside, in this thread, is watched."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)
