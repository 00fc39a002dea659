"""Validation images with the placement and the tiles of serving, and their ground truth.

Shapes in names: H height, W width, C colour channel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clearsight.documents.settings import DetectorSettings
from clearsight.handlers.scoring.views import View, views_of
from clearsight.images.decode import decode_image
from clearsight.training.data.records import Record
from clearsight.training.detection.data.canvas import put_objects
from clearsight.training.detection.data.scene import Objects, Scene, read_objects
from clearsight.training.detection.data.training_set import DetectionTarget, to_target
from clearsight.training.detection.metrics import GroundTruth
from clearsight.vision.rle import encode_rle

__all__ = ["DetectionEvaluationSet", "EvaluationImage"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """One validation image. `View.find` and `merge_views` turn the network's candidates into its detections."""

    views: tuple[View, ...]
    """The whole image first, then its tiles row by row."""
    images_HWC: tuple[Bytes, ...]
    """The network's input for each view: uint8 (H, W, 3), RGB, to be read only."""
    truth: GroundTruth
    """In pixels of the image, crowds included; masks in segmentation only."""
    target: DetectionTarget
    """Ground truth of the loss for the whole image, in pixels of the network's input."""


class DetectionEvaluationSet:
    """Validation inputs, made by the functions that serving uses; kept in memory up to `max_bytes`."""

    def __init__(
        self,
        records: Sequence[Record],
        classes: Sequence[str],
        settings: DetectorSettings,
        batch_size: int,
        max_bytes: int,
    ) -> None:
        self.records = records
        self._class_ids = {name: class_id for class_id, name in enumerate(classes)}
        self._settings = settings
        self.batch_size = batch_size
        self._budget = max_bytes
        self._with_masks = any(record.instances for record in records)
        self._kept: dict[int, EvaluationImage] = {}

    def __len__(self) -> int:
        return len(self.records)

    def batches(self, indices: Sequence[int]) -> Iterator[list[EvaluationImage]]:
        """The images with these indices, in this order."""
        for start in range(0, len(indices), self.batch_size):
            yield [self.load(index) for index in indices[start : start + self.batch_size]]

    def load(self, index: int) -> EvaluationImage:
        """One image."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        record = self.records[index]
        image_HWC = decode_image(record.image.read_bytes(), exif_orientation=self._settings.exif_orientation)
        height, width, _ = image_HWC.shape
        views = views_of(height, width, self._settings)
        images = tuple(np.ascontiguousarray(view.network_input(image_HWC)) for view in views)
        objects = read_objects(record, self._class_ids, height, width)
        placed = Scene(images[0], put_objects(objects, views[0].placement))
        truth, target = self._truth(objects, height, width), to_target(placed, self._with_masks)
        upright = EvaluationImage(views, images, truth, target)
        num_bytes = sum(image.nbytes for image in images)
        if num_bytes <= self._budget:
            self._budget -= num_bytes
            self._kept[index] = upright
        return upright

    def _truth(self, objects: Objects, height: int, width: int) -> GroundTruth:
        masks = None
        if self._with_masks:
            masks = tuple(encode_rle(mask, height, width) for mask in objects.masks(height, width))
        return GroundTruth(objects.boxes_xyxy_N4, objects.class_ids_N, objects.is_crowd_N, masks)
