"""Pictures as batches: training views drawn from a cache of decoded pictures, validation inputs as in serving.

Everything random is a function of (seed, epoch, picture), never of the order of work: equal seeds give equal batches
for any number of workers, and a resumed epoch goes on where it stopped. Several processes share each batch: together
they see what one process with the sum of their batch sizes sees.

Shapes in names: N pictures of a batch, P side of the crop, C channels.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.errors import BadImage
from clearsight.images import decode_image
from clearsight.settings import ClassificationSettings
from clearsight.tasks import Task
from clearsight.training.augment import Augmentation, augment
from clearsight.training.picture_file import PictureFile
from clearsight.training.records import Record
from clearsight.vision.preprocess import preprocess

__all__ = ["Batch", "EvaluationSet", "PictureCache", "TrainingSet", "encode_targets", "find_unreadable"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Targets = npt.NDArray[np.int64] | Floats

_BATCHES_AHEAD: Final = 2
_ORDER, _VIEW = 0, 1  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Batch:
    """Training views uint8 (N, P, P, 3) and what they show: class ids (N,), or 0/1 per class (N, K)."""

    images_NPPC: Bytes
    targets: Targets
    weight: float = 1.0
    """Of its mean loss: the size of this process's part over the mean part. Only in an unevenly cut batch not 1."""


class PictureCache:
    """Decoded pictures, upright RGB uint8 (H, W, 3): in memory up to `max_bytes`, then in `overflow`, else decoded.

    Pictures whose shorter side exceeds `largest_side` are reduced to it once. Safe to use from several threads.
    """

    def __init__(
        self, files: Sequence[Path], largest_side: int, max_bytes: int, overflow: PictureFile | None = None
    ) -> None:
        self._files = files
        self._largest_side = largest_side
        self._budget = max_bytes
        self._overflow = overflow
        self._kept: dict[int, Bytes] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Bytes:
        kept = self._kept.get(index)
        if kept is None and self._overflow is not None:
            kept = self._overflow.get(index)
        if kept is not None:
            return kept
        image_HWC = self._reduce(decode_image(self._files[index].read_bytes()))
        if image_HWC.nbytes <= self._budget:
            self._budget -= image_HWC.nbytes
            self._kept[index] = image_HWC
        elif self._overflow is not None:
            self._overflow.put(index, image_HWC)
        return image_HWC

    def _reduce(self, image_HWC: Bytes) -> Bytes:
        height, width, _ = image_HWC.shape
        factor = self._largest_side / min(height, width)
        if factor >= 1:
            return image_HWC
        size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
        return np.asarray(cv2.resize(image_HWC, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


class TrainingSet:
    """Shuffled, augmented batches: the part of process `rank` among `num_ranks`.

    A last batch of which a process would get fewer than `smallest_batch` pictures is left out: batch norm cannot
    learn from one.
    """

    def __init__(
        self,
        pictures: PictureCache,
        targets: Targets,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        num_workers: int,
        smallest_batch: int = 2,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self._pictures = pictures
        self._targets = targets
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._num_workers = num_workers
        self._smallest_batch = smallest_batch
        self._rank = rank
        self._num_ranks = num_ranks

    @property
    def num_batches(self) -> int:
        return len(self._batches_of(0))

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from `first_batch` on."""
        wanted = self._batches_of(epoch)[first_batch:]
        if self._num_workers == 0:
            for whole in wanted:
                yield self._assemble(whole, [self._view(epoch, int(index)) for index in self._part(whole)])
            return
        with ThreadPoolExecutor(self._num_workers, thread_name_prefix="augment") as pool:
            waiting: deque[tuple[Indices, list[Future[Bytes]]]] = deque()
            try:
                for whole in wanted:
                    waiting.append((whole, [pool.submit(self._view, epoch, int(i)) for i in self._part(whole)]))
                    if len(waiting) > _BATCHES_AHEAD:
                        yield self._collect(*waiting.popleft())
                while waiting:
                    yield self._collect(*waiting.popleft())
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _batches_of(self, epoch: int) -> list[Indices]:
        """Picture indices of each batch, of all processes together."""
        order = np.random.default_rng((self._seed, _ORDER, epoch)).permutation(len(self._pictures))
        size = self._batch_size * self._num_ranks
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if len(batches) > 1 and len(batches[-1]) < min(size, self._smallest_batch * self._num_ranks):
            batches.pop()
        return batches

    def _part(self, whole: Indices) -> Indices:
        return np.array_split(whole, self._num_ranks)[self._rank]

    def _view(self, epoch: int, index: int) -> Bytes:
        random = np.random.default_rng((self._seed, _VIEW, epoch, index))
        return augment(self._pictures[index], self._augmentation, random)

    def _collect(self, whole: Indices, futures: list[Future[Bytes]]) -> Batch:
        return self._assemble(whole, [future.result() for future in futures])

    def _assemble(self, whole: Indices, views: list[Bytes]) -> Batch:
        return Batch(np.stack(views), self._targets[self._part(whole)], len(views) * self._num_ranks / len(whole))


class EvaluationSet:
    """Validation inputs, made by the function that serving uses; kept in memory up to `max_bytes`."""

    def __init__(
        self,
        files: Sequence[Path],
        targets: Targets,
        settings: ClassificationSettings,
        batch_size: int,
        max_bytes: int,
    ) -> None:
        self.targets = targets
        self._files = files
        self._settings = settings
        self._batch_size = batch_size
        self._budget = max_bytes
        self._kept: dict[int, Floats] = {}

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, indices: Sequence[int]) -> Iterator[Floats]:
        """Inputs float32 (N, 3, P, P) of the files with these indices, in this order."""
        for start in range(0, len(indices), self._batch_size):
            yield np.stack([self.load(index) for index in indices[start : start + self._batch_size]])

    def load(self, index: int) -> Floats:
        """One input, float32 (3, P, P)."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        data = self._files[index].read_bytes()
        image_CPP = preprocess(decode_image(data, exif_orientation=self._settings.exif_orientation), self._settings)
        if image_CPP.nbytes <= self._budget:
            self._budget -= image_CPP.nbytes
            self._kept[index] = image_CPP
        return image_CPP


def encode_targets(records: Sequence[Record], classes: Sequence[str], task: Task) -> Targets:
    """Class ids int64 (N,) for multi-class; 0/1 float32 (N, K) for multi-label."""
    ids = {name: class_id for class_id, name in enumerate(classes)}
    if task is Task.MULTI_CLASS:
        return np.array([ids[record.labels[0]] for record in records], np.int64)
    targets_NK = np.zeros((len(records), len(classes)), np.float32)
    for row, record in enumerate(records):
        targets_NK[row, [ids[label] for label in record.labels]] = 1.0
    return targets_NK


def find_unreadable(
    files: Sequence[Path],
    indices: Sequence[int],
    load: Callable[[int], object],
    num_threads: int,
    should_stop: Callable[[], bool],
) -> dict[int, str]:
    """Load the pictures of these indices once, which fills the cache; return index -> reason of the unreadable."""

    def attempt(index: int) -> str | None:
        if should_stop():
            return None
        try:
            load(index)
        except (OSError, BadImage) as error:
            return f"{files[index]}: {error}"
        return None

    with ThreadPoolExecutor(max(1, num_threads), thread_name_prefix="decode") as pool:
        reasons = list(pool.map(attempt, indices))
    return {index: reason for index, reason in zip(indices, reasons, strict=True) if reason is not None}
