"""The functions of a network that algorithms use, from points to numbers, and their evaluation in chunks.

Shapes in names: N points (each one input of the network), 3 colour channels, P side of the input, K explained labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.telemetry import note_chunk

__all__ = ["DEFAULT_CHUNK", "ExplainTarget", "Gradient", "Gradients", "Probabilities", "Score", "in_chunks"]

Score = Callable[[torch.Tensor], torch.Tensor]
"""points_N3PP -> the explained score of each point, (N,)."""

Gradient = Callable[[torch.Tensor], torch.Tensor]
"""points_N3PP -> d score / d point for each point, (N, 3, P, P); may raise torch's out-of-memory errors."""

Gradients = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""points_N3PP -> the result of a `Gradient` for each of the K labels; one forward pass serves them all."""

Probabilities = Callable[[torch.Tensor], torch.Tensor]
"""points_N3PP -> the probability of every class, (N, number of classes). Needs no derivative."""

DEFAULT_CHUNK: Final = 8
"""Points in one forward pass. On a CPU larger chunks are no faster: one point already keeps all cores busy."""

_SHARE_OF_BUDGET: Final = 0.1
"""Largest share of the whole time budget that one chunk may take: an explanation ends at most this much too late."""


@dataclass(frozen=True, slots=True)
class ExplainTarget:
    """The explained score: the logit of a class, or its difference to the logit of a contrasting class."""

    class_id: int
    contrast_id: int | None = None


def in_chunks(work: Callable[[int, int], None], count: int, deadline: Deadline, chunk: int = DEFAULT_CHUNK) -> int:
    """Call `work(start, stop)` for consecutive ranges up to `count` or the deadline; return the number of points done.

    The first range is one point and is computed even when the deadline has passed. Later ranges hold `chunk` points;
    fewer when `chunk` points would take more than a tenth of the deadline's budget. After an out-of-memory error the
    size is halved; for a single point the error is raised to the caller. `work` is called again for a part of a range
    that ran out of memory, so it must not keep results before it succeeds.
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
        # The first pass of a network is slower than the later ones, so only the last measurement counts.
        seconds_each = (deadline.elapsed_s() - start_s) / size
        done += size
        note_chunk(size, done, count)
    return done


def _fitting(largest: int, seconds_each: float, deadline: Deadline) -> int:
    if deadline.seconds is None or seconds_each <= 0:
        return largest
    return max(1, min(largest, int(_SHARE_OF_BUDGET * deadline.seconds / seconds_each)))


def _is_out_of_memory(error: Exception) -> bool:
    """Recognise CUDA's error class, and the plain RuntimeError of the CPU's allocator by its text."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
