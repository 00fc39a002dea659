"""Four scenes in one (Bochkovskiy et al. 2020, https://arxiv.org/abs/2004.10934): context and small objects."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clearsight.training.detection.data.canvas import put
from clearsight.training.detection.data.crop import crop
from clearsight.training.detection.data.scene import Objects, Scene
from clearsight.vision.letterbox import GREY, letterbox
from clearsight.vision.tiles import Tile

__all__ = ["middle", "mosaic"]

Bytes = npt.NDArray[np.uint8]


def mosaic(scenes: Sequence[Scene], size: int, random: np.random.Generator) -> Scene:
    """Four scenes, in drawn order, around a point near the middle of a grey canvas of twice `size`.

    Each has the size that it has in a letterbox of `size`. The point, drawn from the middle half of the canvas on
    both axes, is where a corner of each lies; the rest is cut off.
    """
    if len(scenes) != 4:
        raise ValueError(f"a mosaic must have four scenes, but got {len(scenes)}")
    x, y = (int(value) for value in random.integers(size // 2, size + size // 2 + 1, 2))
    canvas_HWC: Bytes = np.full((2 * size, 2 * size, 3), GREY, np.uint8)
    parts = []
    for place, index in enumerate(random.permutation(4)):
        scene = _resized(scenes[index], size)
        is_right, is_lower = place % 2 == 1, place >= 2
        width = min(scene.width, 2 * size - x if is_right else x)
        height = min(scene.height, 2 * size - y if is_lower else y)
        # A scene left of the point shows its right part, one above it its lower part.
        window = Tile(0 if is_right else scene.width - width, 0 if is_lower else scene.height - height, width, height)
        left, top = x if is_right else x - width, y if is_lower else y - height
        seen = crop(scene, window)
        canvas_HWC[top : top + height, left : left + width] = seen.image_HWC
        parts.append(seen.objects.moved(left, top))
    return Scene(canvas_HWC, Objects.joined(parts))


def middle(scene: Scene, size: int) -> Scene:
    """The `size` x `size` in the middle of a scene."""
    return crop(scene, Tile((scene.width - size) // 2, (scene.height - size) // 2, size, size))


def _resized(scene: Scene, size: int) -> Scene:
    placement = letterbox(scene.height, scene.width, size)
    height, width = placement.inner_height, placement.inner_width
    return put(scene, replace(placement, left=0, top=0, canvas_height=height, canvas_width=width))
