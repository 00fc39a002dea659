"""Crops: a given window of a scene, and one drawn around its objects.

The drawn crop is that of SSD (Liu et al. 2016, https://arxiv.org/abs/1512.02325, section 2.2) without its bounds on
overlap: an object stays when the centre of its box is inside.
"""

from typing import Final

import numpy as np

from clearsight.training.detection.data.scene import Scene
from clearsight.vision.tiles import Tile

__all__ = ["crop", "random_crop"]

_SMALLEST_SHARE: Final = 0.3
"""Smallest share of the image's width, and of its height, that a drawn crop has."""

_TRIES: Final = 20


def crop(scene: Scene, window: Tile) -> Scene:
    """The part of a scene inside a window of its image."""
    inside = scene.objects.moved(-window.left, -window.top).cut(window.height, window.width)
    return Scene(window.cut(scene.image_HWC), inside)


def random_crop(scene: Scene, random: np.random.Generator) -> Scene:
    """A window of 30 to 100 % of each side, with the objects whose centre is inside, cut to it.

    At least one object that is no crowd stays, if there is one; a scene for which no such window is found in 20
    draws is returned uncropped. For a scene without objects the first window is taken.
    """
    objects = scene.objects
    centres_N2 = (objects.boxes_xyxy_N4[:, :2] + objects.boxes_xyxy_N4[:, 2:]) / 2
    for _ in range(_TRIES):
        window = _draw_window(scene.height, scene.width, random)
        from_corner_N2 = centres_N2 - (window.left, window.top)
        is_inside_N2 = (from_corner_N2 >= 0) & (from_corner_N2 < (window.width, window.height))
        inside = objects.take(np.flatnonzero(is_inside_N2.all(axis=1)))
        part = crop(Scene(scene.image_HWC, inside), window)
        if part.objects.num_wanted > 0 or objects.num_wanted == 0:
            return part
    return scene


def _draw_window(height: int, width: int, random: np.random.Generator) -> Tile:
    share_x, share_y = random.uniform(_SMALLEST_SHARE, 1.0, 2)
    inner_width, inner_height = max(round(width * share_x), 1), max(round(height * share_y), 1)
    left = int(random.integers(0, width - inner_width + 1))
    top = int(random.integers(0, height - inner_height + 1))
    return Tile(left, top, inner_width, inner_height)
