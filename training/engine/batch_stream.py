"""An epoch in batches: the order of the images, the share of each process, and threads that prefetch.

Everything random is a function of (seed, epoch, image or batch), never of the order of work: equal seeds give equal
batches for any number of workers, and a resumed epoch continues where it stopped. Several processes share each batch:
together they train on the images of one process with the sum of their batch sizes.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["SIZE", "VIEW", "BatchOptions", "BatchShare", "BatchStream"]

Indices = npt.NDArray[np.int64]
View = TypeVar("View")

_ORDER: Final = 0
VIEW: Final = 1
SIZE: Final = 2
"""Streams of random numbers: second entry of a seed (seed, stream, epoch, image or batch)."""

_BATCHES_AHEAD: Final = 2


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How images are put into batches."""

    training_size: int
    """Number of images in a training batch of one process."""
    seed: int = 0
    """Seed of the order of the images and of their augmentation."""
    num_workers: int = 0
    """Number of threads that prepare training batches; 0: the training thread prepares them itself."""
    validation_size: int = 1
    """Number of images in a validation batch."""


@dataclass(frozen=True, slots=True)
class BatchShare(Generic[View]):
    """The share of a batch that one process trains on."""

    indices_N: Indices
    views: list[View]
    """Views in the order of `indices_N`."""
    weight: float
    """Factor of the mean loss: size of this process's share over the mean share; 1 unless a batch divides unevenly."""


class BatchStream:
    """Shuffled batches of `num_items`: the share of process `rank` among `num_ranks`.

    A last batch of which a process would get fewer than `smallest_batch` items is left out.
    """

    def __init__(self, num_items: int, options: BatchOptions, smallest_batch: int, rank: int, num_ranks: int) -> None:
        self._num_items = num_items
        self._options = options
        self._smallest_batch = smallest_batch
        self._rank = rank
        self._num_ranks = num_ranks

    @property
    def num_batches(self) -> int:
        return len(self._batches_of(0))

    def shares(
        self, epoch: int, make_view: Callable[[int, int, int], View], first_batch: int = 0
    ) -> Generator[BatchShare[View], None, None]:
        """The batches of one epoch, from `first_batch` on; views are `make_view(epoch, batch, item)`, made ahead."""
        batches = list(enumerate(self._batches_of(epoch)))[first_batch:]
        if self._options.num_workers == 0:
            for batch, indices in batches:
                yield self._share(indices, [make_view(epoch, batch, int(item)) for item in self._own(indices)])
            return
        with ThreadPoolExecutor(self._options.num_workers, thread_name_prefix="augment") as pool:
            waiting: deque[tuple[Indices, list[Future[View]]]] = deque()
            try:
                for batch, indices in batches:
                    futures = [pool.submit(make_view, epoch, batch, int(item)) for item in self._own(indices)]
                    waiting.append((indices, futures))
                    if len(waiting) > _BATCHES_AHEAD:
                        yield self._collect(*waiting.popleft())
                while waiting:
                    yield self._collect(*waiting.popleft())
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _batches_of(self, epoch: int) -> list[Indices]:
        """Item indices of each batch, of all processes together."""
        order = np.random.default_rng((self._options.seed, _ORDER, epoch)).permutation(self._num_items)
        size = self._options.training_size * self._num_ranks
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if len(batches) > 1 and len(batches[-1]) < min(size, self._smallest_batch * self._num_ranks):
            batches.pop()
        return batches

    def _own(self, indices: Indices) -> Indices:
        """The share of this process in the indices of a batch."""
        return np.array_split(indices, self._num_ranks)[self._rank]

    def _collect(self, indices: Indices, futures: list[Future[View]]) -> BatchShare[View]:
        return self._share(indices, [future.result() for future in futures])

    def _share(self, indices: Indices, views: list[View]) -> BatchShare[View]:
        return BatchShare(self._own(indices), views, len(views) * self._num_ranks / len(indices))
