"""Pictures as batches: training views drawn from a cache of decoded pictures, validation inputs as in serving.

Everything random is a function of (seed, epoch, picture), never of the order of work: equal seeds give equal batches
for any number of workers, and a resumed epoch goes on where it stopped.

Shapes in names: N pictures of a batch, P side of the crop, C channels.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.errors import BadImage
from clearsight.images import decode_image
from clearsight.settings import ClassificationSettings
from clearsight.tasks import Task
from clearsight.training.augment import Augmentation, augment
from clearsight.training.records import Record
from clearsight.vision.preprocess import preprocess

__all__ = ["Batch", "EvaluationSet", "PictureCache", "TrainingSet", "encode_targets", "find_unreadable"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64] | Floats
T = TypeVar("T")

_BATCHES_AHEAD: Final = 2
_ORDER, _VIEW = 0, 1  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Batch:
    """Training views uint8 (N, P, P, 3) and what they show: class ids (N,), or 0/1 per class (N, K)."""

    images_NPPC: Bytes
    targets: Targets


class PictureCache:
    """Decoded pictures, upright RGB uint8 (H, W, 3), kept in memory up to `max_bytes`; the rest is decoded each time.

    Pictures whose shorter side exceeds `largest_side` are reduced to it once. Safe to use from several threads.
    """

    def __init__(self, files: Sequence[Path], largest_side: int, max_bytes: int) -> None:
        self._files = files
        self._largest_side = largest_side
        self._budget = max_bytes
        self._kept: dict[int, Bytes] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Bytes:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image_HWC = self._reduce(decode_image(self._files[index].read_bytes()))
        if image_HWC.nbytes <= self._budget:
            self._budget -= image_HWC.nbytes
            self._kept[index] = image_HWC
        return image_HWC

    def _reduce(self, image_HWC: Bytes) -> Bytes:
        height, width, _ = image_HWC.shape
        factor = self._largest_side / min(height, width)
        if factor >= 1:
            return image_HWC
        size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
        return np.asarray(cv2.resize(image_HWC, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


class TrainingSet:
    """Shuffled, augmented batches."""

    def __init__(
        self,
        pictures: PictureCache,
        targets: Targets,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        num_workers: int,
    ) -> None:
        self._pictures = pictures
        self._targets = targets
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._num_workers = num_workers

    @property
    def num_batches(self) -> int:
        return len(self._batches_of(0))

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from `first_batch` on."""
        wanted = self._batches_of(epoch)[first_batch:]
        if self._num_workers == 0:
            for indices in wanted:
                yield self._assemble(indices, [self._view(epoch, index) for index in indices])
            return
        with ThreadPoolExecutor(self._num_workers, thread_name_prefix="augment") as pool:
            waiting: deque[tuple[npt.NDArray[np.int64], list[Future[Bytes]]]] = deque()
            try:
                for indices in wanted:
                    waiting.append((indices, [pool.submit(self._view, epoch, int(index)) for index in indices]))
                    if len(waiting) > _BATCHES_AHEAD:
                        yield self._collect(*waiting.popleft())
                while waiting:
                    yield self._collect(*waiting.popleft())
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _batches_of(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Picture indices of each batch. A last batch of one is left out: batch norm cannot learn from it."""
        order = np.random.default_rng((self._seed, _ORDER, epoch)).permutation(len(self._pictures))
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 < self._batch_size else batches

    def _view(self, epoch: int, index: int) -> Bytes:
        random = np.random.default_rng((self._seed, _VIEW, epoch, index))
        return augment(self._pictures[index], self._augmentation, random)

    def _collect(self, indices: npt.NDArray[np.int64], futures: list[Future[Bytes]]) -> Batch:
        return self._assemble(indices, [future.result() for future in futures])

    def _assemble(self, indices: npt.NDArray[np.int64], views: list[Bytes]) -> Batch:
        return Batch(np.stack(views), self._targets[indices])


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

    def batches(self) -> Iterator[Floats]:
        """Inputs float32 (N, 3, P, P), in the order of the files."""
        for start in range(0, len(self._files), self._batch_size):
            stop = min(start + self._batch_size, len(self._files))
            yield np.stack([self.load(index) for index in range(start, stop)])

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
    files: Sequence[Path], load: Callable[[int], object], num_threads: int, should_stop: Callable[[], bool]
) -> dict[int, str]:
    """Load every picture once, which fills the cache; return index -> reason of those that cannot be read."""

    def attempt(index: int) -> str | None:
        if should_stop():
            return None
        try:
            load(index)
        except (OSError, BadImage) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(1, num_threads), thread_name_prefix="decode") as pool:
        reasons = list(pool.map(attempt, range(len(files))))
    return {index: reason for index, reason in enumerate(reasons) if reason is not None}
