"""Scenes on a canvas: the placement of serving, and a larger canvas that makes objects small."""

import numpy as np
import numpy.typing as npt

from clearsight.training.detection.data.scene import Objects, Scene
from clearsight.vision.letterbox import Placement, place

__all__ = ["expand", "put", "put_objects"]

Bytes = npt.NDArray[np.uint8]


def put(scene: Scene, placement: Placement) -> Scene:
    """The scene as a placement puts it into the input of a network."""
    return Scene(place(scene.image_HWC, placement), put_objects(scene.objects, placement))


def put_objects(objects: Objects, placement: Placement) -> Objects:
    """The objects of an image as a placement puts them into the input of a network."""
    scale_x, scale_y = placement.inner_width / placement.width, placement.inner_height / placement.height
    moved = objects.moved(placement.left, placement.top, scale_x, scale_y)
    return moved.cut(placement.canvas_height, placement.canvas_width)


def expand(scene: Scene, color: tuple[int, int, int], random: np.random.Generator, largest_ratio: float = 2.0) -> Scene:
    """The scene at a random position on a canvas of `color`, up to `largest_ratio` times as high and as wide.

    The zoom-out of SSD (Liu et al. 2016, https://arxiv.org/abs/1512.02325, section 3.6).
    """
    ratio = random.uniform(1.0, largest_ratio)
    height, width = round(scene.height * ratio), round(scene.width * ratio)
    left = int(random.integers(0, width - scene.width + 1))
    top = int(random.integers(0, height - scene.height + 1))
    canvas_HWC: Bytes = np.empty((height, width, 3), np.uint8)
    canvas_HWC[:] = color
    canvas_HWC[top : top + scene.height, left : left + scene.width] = scene.image_HWC
    return Scene(canvas_HWC, scene.objects.moved(left, top))
