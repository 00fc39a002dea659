"""What a request's explanations cost, for whoever counts it: noted deep inside, read by the process's edge.

A request is explained in one thread, between `observed()` and its end; notes outside of it go nowhere.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ExplainedRow", "Telemetry", "note_chunk", "note_row", "observed"]


@dataclass(frozen=True, slots=True)
class ExplainedRow:
    """One picture, or one object of it. `milliseconds` by phase, empty when the explanation was kept from before."""

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
        """Plain data in ASCII, some 60 bytes a row: it travels in a header."""
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


def note_chunk(size: int) -> None:
    telemetry = _current.get()
    if telemetry is not None:
        telemetry.chunk = max(size, telemetry.chunk or 0)
