"""Times functions side by side, which take turns so that they run on the machine in the same state."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import cv2
import torch

__all__ = ["interleaved_medians_ms", "one_thread"]


def interleaved_medians_ms(
    functions: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median duration of each function, which take turns. The first turn warms up and does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, durations_ms in zip(functions, times, strict=True):
            start = clock()
            function()
            if turn:
                durations_ms.append((clock() - start) * 1000)
    return [statistics.median(durations_ms) for durations_ms in times]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and OpenCV use one thread each."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
