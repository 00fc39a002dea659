"""Shuffled, augmented batches of scenes.

Shapes in names: N objects, 4 sides of a box, H height, W width, C colour channel.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clearsight.training.classification.datasets import ImageCache
from clearsight.training.data.records import Record
from clearsight.training.detection.data.augmentation import DetectionAugmentation
from clearsight.training.detection.data.scene import Scene, make_scene, read_objects
from clearsight.training.detection.data.tiling import TileGrid, cut_tile, objects_in, tiles_with_objects
from clearsight.training.engine.batch_stream import SIZE, VIEW, BatchOptions, BatchStream
from clearsight.vision.letterbox import letterbox
from clearsight.vision.masks import CroppedMask
from clearsight.vision.tiles import Tile

__all__ = ["DetectionBatch", "DetectionTarget", "DetectionTrainingSet", "to_target", "useful_side"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DetectionTarget:
    """The ground truth of one view for the loss: its objects without crowds; there may be none."""

    boxes_xyxy_N4: Floats
    """Boxes in pixels of the view."""
    class_ids_N: Indices
    """Class ids from 0; the background has none."""
    masks_N: tuple[CroppedMask, ...] | None
    """Masks in pixels of the view; None in detection."""


@dataclass(frozen=True, slots=True)
class DetectionBatch:
    """Training views uint8 (H, W, 3), RGB, to be read only, with their ground truth.

    All views have one size for yolov5; for the R-CNN families each has its own.
    """

    images_HWC: tuple[Bytes, ...]
    targets: tuple[DetectionTarget, ...]
    weight: float = 1.0
    """Factor of the batch's mean loss, see `clearsight.training.engine.batch_stream.BatchShare`."""


class DetectionTrainingSet:
    """Shuffled, augmented batches: the share of process `rank` among `num_ranks`.

    Images without objects are used too. With a grid, every tile that shows an object is used as an image of its own.
    For a view of several scenes the others are drawn from all images and tiles. A last batch of which a process would
    get fewer than `smallest_batch` images is left out. Equal (seed, epoch, index) give equal views, whatever the number
    of workers.
    """

    def __init__(
        self,
        images: ImageCache,
        records: Sequence[Record],
        classes: Sequence[str],
        augmentation: DetectionAugmentation,
        options: BatchOptions,
        grid: TileGrid | None = None,
        smallest_batch: int = 1,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self._images = images
        self._records = records
        self._class_ids = {name: class_id for class_id, name in enumerate(classes)}
        self._augmentation = augmentation
        self._seed = options.seed
        self._with_masks = any(record.instances for record in records)
        self._sources: list[tuple[int, Tile | None]] = [(index, None) for index in range(len(records))]
        if grid is not None:
            self._sources += [(index, tile) for index in range(len(records)) for tile in self._tiles(index, grid)]
        self._stream = BatchStream(len(self._sources), options, smallest_batch, rank, num_ranks)

    @property
    def num_batches(self) -> int:
        return self._stream.num_batches

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[DetectionBatch]:
        """The batches of one epoch, from `first_batch` on."""
        with closing(self._stream.shares(epoch, self._view, first_batch)) as shares:
            for share in shares:
                images, targets = zip(*share.views, strict=True)
                yield DetectionBatch(images, targets, share.weight)

    def box_sizes_wh(self, image_size: int) -> Floats:
        """Widths and heights (M, 2), pixels, of all objects that are targets, letterboxed to `image_size`.

        The objects of images and of tiles count; only the headers of the files are read.
        """
        sizes = [np.zeros((0, 2))]
        for image, tile in self._sources:
            width, height = self._images.size_wh(image)
            objects = read_objects(self._records[image], self._class_ids, height, width)
            if tile is not None:
                objects, width, height = objects_in(objects, tile), tile.width, tile.height
            boxes_N4 = objects.boxes_xyxy_N4[~objects.is_crowd_N]
            placement = letterbox(height, width, image_size)
            scale = placement.inner_width / width, placement.inner_height / height
            sizes.append((boxes_N4[:, 2:] - boxes_N4[:, :2]) * scale)
        return np.concatenate(sizes).astype(np.float32)

    def _tiles(self, index: int, grid: TileGrid) -> tuple[Tile, ...]:
        width, height = self._images.size_wh(index)
        return tiles_with_objects(
            read_objects(self._records[index], self._class_ids, height, width), height, width, grid
        )

    def _view(self, epoch: int, batch: int, index: int) -> tuple[Bytes, DetectionTarget]:
        size = self._augmentation.draw_size(np.random.default_rng((self._seed, SIZE, epoch, batch)))
        random = np.random.default_rng((self._seed, VIEW, epoch, index))
        others = random.integers(0, len(self._sources), self._augmentation.num_scenes - 1)
        scenes = [self._scene(int(source)) for source in (index, *others)]
        view = self._augmentation.view(scenes, size, random)
        return np.ascontiguousarray(view.image_HWC), to_target(view, self._with_masks)

    def _scene(self, index: int) -> Scene:
        image, tile = self._sources[index]
        scene = make_scene(self._images[image], self._records[image], self._class_ids)
        return scene if tile is None else cut_tile(scene, tile)


def useful_side(augmentation: DetectionAugmentation, grid: TileGrid | None) -> int:
    """The `largest_side` of the `ImageCache` of a training set: tiles keep the detail that a whole image has."""
    return math.ceil(augmentation.largest_useful_side * (1 if grid is None else grid.zoom))


def to_target(scene: Scene, with_masks: bool) -> DetectionTarget:
    """The ground truth of a scene: its objects without crowds and, with masks, without those that cover no pixel."""
    objects = scene.objects.take(np.flatnonzero(~scene.objects.is_crowd_N))
    masks = None
    if with_masks:
        drawn = objects.masks(scene.height, scene.width)
        objects = objects.take(np.flatnonzero([mask.area > 0 for mask in drawn]))
        masks = tuple(mask for mask in drawn if mask.area > 0)
    return DetectionTarget(objects.boxes_xyxy_N4.astype(np.float32), objects.class_ids_N, masks)
