"""The two recipes that make training views of scenes: yolov5's, and that of the R-CNN family and RetinaNet.

Steps as in Azure's page on image jobs, which gives no numbers: yolov5's are those of its classic recipe, the others
are SSD's and torchvision's. Colours are not changed. Both recipes end with the placement of serving, so that
objects have the same sizes as in serving.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from clearsight.training.detection.data.affine import flip, random_affine
from clearsight.training.detection.data.canvas import expand, put
from clearsight.training.detection.data.crop import random_crop
from clearsight.training.detection.data.mosaic import middle, mosaic
from clearsight.training.detection.data.scene import Scene
from clearsight.vision.letterbox import letterbox, shorter_side

__all__ = ["DetectionAugmentation", "RcnnAugmentation", "YoloAugmentation"]

_STRIDE: Final = 32
"""Stride of yolov5's coarsest level: the sides of its input are multiples of it."""
_SMALLEST_FULL_CROP: Final = 0.5
"""Images are kept so large that crops down to this share of a side need no enlarging; smaller crops are rare."""


class DetectionAugmentation(Protocol):
    """Makes the input of a network from scenes."""

    @property
    def num_scenes(self) -> int:
        """Number of scenes in a view."""
        ...

    @property
    def largest_useful_side(self) -> int:
        """Shorter side, in pixels, to which a larger image, or tile, can be reduced in the cache."""
        ...

    def draw_size(self, random: np.random.Generator) -> int:
        """Draw the size of the views of a batch."""
        ...

    def view(self, scenes: Sequence[Scene], size: int, random: np.random.Generator) -> Scene:
        """Make one random view of `num_scenes` scenes; the epoch determines the first one, the others are drawn."""
        ...


@dataclass(frozen=True, slots=True)
class YoloAugmentation:
    """Mosaic, random affine, flip; letterbox."""

    image_size: int = 640
    """Side of a view, pixels; a multiple of 32."""
    with_mosaic: bool = True
    """Azure's `apply_mosaic_for_yolo`."""
    with_geometry: bool = True
    """Affine and flip: Azure's `apply_automl_train_augmentations`."""
    multi_scale: bool = False
    """Draw the side of each batch from 0.5 to 1.5 times `image_size`, multiples of 32."""
    scale: float = 0.5
    translate: float = 0.1
    """Strengths of the affine step."""
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.image_size % _STRIDE:
            raise ValueError(f"image_size must be a multiple of {_STRIDE}, but got {self.image_size}")

    @property
    def num_scenes(self) -> int:
        return 4 if self.with_mosaic else 1

    @property
    def largest_useful_side(self) -> int:
        return self._size_range()[1]

    def draw_size(self, random: np.random.Generator) -> int:
        smallest, largest = self._size_range()
        return _STRIDE * int(random.integers(smallest // _STRIDE, largest // _STRIDE + 1))

    def view(self, scenes: Sequence[Scene], size: int, random: np.random.Generator) -> Scene:
        if self.with_mosaic:
            scene = mosaic(scenes, size, random)
        else:
            scene = put(scenes[0], letterbox(scenes[0].height, scenes[0].width, size))
        if not self.with_geometry:
            return middle(scene, size)
        scene = random_affine(scene, size, self.scale, self.translate, random)
        return flip(scene) if random.random() < self.flip_probability else scene

    def _size_range(self) -> tuple[int, int]:
        if not self.multi_scale:
            return self.image_size, self.image_size
        smallest = math.ceil(0.5 * self.image_size / _STRIDE) * _STRIDE
        return smallest, math.floor(1.5 * self.image_size / _STRIDE) * _STRIDE


@dataclass(frozen=True, slots=True)
class RcnnAugmentation:
    """Crop around boxes, expand, flip; resize."""

    min_size: int = 600
    """Length of the shorter side of a view, pixels, …"""
    max_size: int = 1333
    """… unless the longer one would exceed this."""
    with_geometry: bool = True
    """All but the resize: Azure's `apply_automl_train_augmentations`."""
    crop_probability: float = 0.5
    expand_probability: float = 0.5
    flip_probability: float = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Colour of the canvas around an expanded scene, in [0, 1]: zero after normalisation."""

    @property
    def num_scenes(self) -> int:
        return 1

    @property
    def largest_useful_side(self) -> int:
        return math.ceil(self.min_size / _SMALLEST_FULL_CROP) if self.with_geometry else self.min_size

    def draw_size(self, random: np.random.Generator) -> int:
        return self.min_size

    def view(self, scenes: Sequence[Scene], size: int, random: np.random.Generator) -> Scene:
        scene = scenes[0]
        if self.with_geometry:
            # All draws at once, so that the choice of one step does not change what the next one draws.
            does_crop, does_expand, does_flip = random.random(3) < (
                self.crop_probability,
                self.expand_probability,
                self.flip_probability,
            )
            scene = random_crop(scene, random) if does_crop else scene
            if does_expand:
                red, green, blue = (round(255 * level) for level in self.mean)
                scene = expand(scene, (red, green, blue), random)
            scene = flip(scene) if does_flip else scene
        return put(scene, shorter_side(scene.height, scene.width, size, self.max_size))
