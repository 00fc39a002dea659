"""Images as batches: training views drawn from a cache of decoded images, validation inputs as in serving.

Shapes in names: N images of a batch, P side of the crop, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import BadImage
from clearsight.images.decode import decode_image
from clearsight.images.size import read_size
from clearsight.tasks import Task
from clearsight.training.classification.augmentation import Augmentation, augment
from clearsight.training.data.image_file import ImageFile
from clearsight.training.data.records import Record
from clearsight.training.engine.batch_stream import VIEW, BatchOptions, BatchStream
from clearsight.vision.preprocess import preprocess

__all__ = ["Batch", "EvaluationSet", "ImageCache", "TrainingSet", "encode_targets", "find_unreadable"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Targets = npt.NDArray[np.int64] | Floats


@dataclass(frozen=True, slots=True)
class Batch:
    """Training views uint8 (N, P, P, 3) and what they show: class ids (N,), or 0/1 per class (N, K)."""

    images_NPPC: Bytes
    targets: Targets
    weight: float = 1.0
    """Factor of the batch's mean loss, see `clearsight.training.engine.batch_stream.BatchShare`."""


class ImageCache:
    """Decoded images, upright RGB uint8 (H, W, 3).

    They are kept in memory up to `max_bytes`, beyond that in `overflow`; the rest is decoded at each use.

    Images whose shorter side exceeds `largest_side` are reduced to it once. Safe to use from several threads.
    """

    def __init__(
        self, files: Sequence[Path], largest_side: int, max_bytes: int, overflow: ImageFile | None = None
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

    def size_wh(self, index: int) -> tuple[int, int]:
        """Width and height of the image after its reduction; reads the header of its file only."""
        return self._reduced_wh(*read_size(self._files[index]))

    def _reduce(self, image_HWC: Bytes) -> Bytes:
        height, width, _ = image_HWC.shape
        size_wh = self._reduced_wh(width, height)
        if size_wh == (width, height):
            return image_HWC
        return np.asarray(cv2.resize(image_HWC, size_wh, interpolation=cv2.INTER_AREA), np.uint8)

    def _reduced_wh(self, width: int, height: int) -> tuple[int, int]:
        factor = min(self._largest_side / min(height, width), 1.0)
        return max(1, round(width * factor)), max(1, round(height * factor))


class TrainingSet:
    """Shuffled, augmented batches: the share of process `rank` among `num_ranks`.

    A last batch of which a process would get fewer than `smallest_batch` images is left out: batch norm cannot
    learn from one.
    """

    def __init__(
        self,
        images: ImageCache,
        targets: Targets,
        augmentation: Augmentation,
        options: BatchOptions,
        smallest_batch: int = 2,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self._images = images
        self._targets = targets
        self._augmentation = augmentation
        self._seed = options.seed
        self._stream = BatchStream(len(images), options, smallest_batch, rank, num_ranks)

    @property
    def num_batches(self) -> int:
        return self._stream.num_batches

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from `first_batch` on."""
        with closing(self._stream.shares(epoch, self._view, first_batch)) as shares:
            for share in shares:
                yield Batch(np.stack(share.views), self._targets[share.indices_N], share.weight)

    def _view(self, epoch: int, batch: int, index: int) -> Bytes:
        random = np.random.default_rng((self._seed, VIEW, epoch, index))
        return augment(self._images[index], self._augmentation, random)


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
    """Load the images of these indices once, which fills the cache; return index -> reason of each unreadable one."""

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
