"""Many points through a network: a few at a time, within a deadline and within memory."""

from collections.abc import Callable
from typing import Final

import torch

from clearsight.handlers.explain.algorithms.deadline import Deadline
from clearsight.handlers.explain.answering.telemetry import note_chunk

__all__ = ["DEFAULT_CHUNK", "in_chunks"]

DEFAULT_CHUNK: Final = 8
"""Points in one pass. On a CPU larger ones are no faster: the network is busy with one point already."""

_SHARE_OF_BUDGET: Final = 0.1
"""How much of the whole budget one chunk may take: by so much an explanation may be late."""


def in_chunks(work: Callable[[int, int], None], count: int, deadline: Deadline, chunk: int = DEFAULT_CHUNK) -> int:
    """Call `work(start, stop)` for one range after the other, until `count` or the deadline; give how many were done.

    The first range is one point, and is done whatever the deadline says. Later ones hold `chunk` points, fewer when
    so many would take more than a tenth of the deadline's budget, and half of it each time memory runs out; when it
    runs out for a single point, the error goes to the caller. Work that ran out of memory is called again for a part
    of its range, so it must keep nothing before it succeeds.
    """
    done = 0
    largest = chunk
    seconds_each = 0.0
    while done < count and (done == 0 or not deadline.is_over()):
        size = min(1 if done == 0 else _fitting(largest, seconds_each, deadline), count - done)
        start_s = deadline.elapsed_s()
        try:
            work(done, done + size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not _is_out_of_memory(error):
                raise
            largest = size // 2
            continue
        # The first pass of a network is slower than the later ones; the last measurement counts.
        seconds_each = (deadline.elapsed_s() - start_s) / size
        done += size
        note_chunk(size, done, count)
    return done


def _fitting(largest: int, seconds_each: float, deadline: Deadline) -> int:
    if deadline.seconds is None or seconds_each <= 0:
        return largest
    return max(1, min(largest, int(_SHARE_OF_BUDGET * deadline.seconds / seconds_each)))


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class of its own; the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
