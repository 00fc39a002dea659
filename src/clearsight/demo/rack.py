"""A storage rack seen from afar: many cans and water bottles of a few pixels each on rows of shelves.

For trying tiling, which needs small objects in large images. At ten pixels only the outline of a container remains, so
the two classes are drawn whose outlines differ most: a can is about twice as high as wide, a water bottle four times.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from clearsight.demo.clutter import CLUTTER
from clearsight.demo.containers import CONTAINERS
from clearsight.demo.outlines import polygons_from_coverage
from clearsight.demo.palette import Bytes, Colour, Floats, neutral, pale, shaded
from clearsight.demo.solids import Light, Sprite

__all__ = ["RACK_CLASSES", "Outlined", "RackScene", "draw_rack"]

Outlined = tuple[str, list[list[float]]]
"""Class, and the outer polygons of the visible part as x1, y1, x2, y2, … in [0, 1]."""

RACK_CLASSES: Final = ("can", "water_bottle")

_DRAWN_HEIGHT: Final = 64  # pixels of a sprite before it is reduced
_OBJECT_SHARE: Final = 0.75  # share of the items on the shelves that are objects of a class; the rest is clutter
_ITEMS_PER_SHELF: Final = 6.0  # on average, in the width of 1600 pixels at objects of 16 pixels
_MARGIN: Final = 4  # empty pixels around a reduced sprite, for outlines that reach into the next pixel


@dataclass(frozen=True, slots=True)
class RackScene:
    """An image and its objects."""

    image_HW3: Bytes
    objects: tuple[Outlined, ...]


def draw_rack(rng: np.random.Generator, height: int, width: int, object_px: tuple[int, int]) -> RackScene:
    """Draw shelves with items on them, far enough apart that none hides another.

    `object_px`: least and greatest longer side of the items, pixels. The outline of a bottle can be up to two shorter:
    its neck is narrower than half a pixel.
    """
    least, greatest = object_px
    wall = shaded(pale(rng) if rng.random() < 0.5 else neutral(rng), rng.uniform(0.45, 1.0))
    canvas = _empty_rack(rng, height, width, wall)
    light = Light(rng.uniform(-1.1, 1.1), rng.uniform(0.45, 0.6), rng.uniform(0.05, 0.3))
    pitch = rng.uniform(0.05, 0.2)
    board = shaded(wall, rng.uniform(0.5, 0.75) if wall.mean() > 0.4 else rng.uniform(1.5, 2.0))
    objects: list[Outlined] = []
    for shelf in _shelves(rng, height, greatest):
        cv2.rectangle(canvas, (0, shelf), (width, shelf + max(2, greatest // 6)), board.tolist(), -1)
        for left in _places(rng, width, greatest):
            is_object = rng.random() < _OBJECT_SHARE
            label = RACK_CLASSES[rng.integers(len(RACK_CLASSES))] if is_object else None
            longer = rng.uniform(least, greatest)
            sprite = _reduced(_sprite(rng, label, pitch, light), longer)
            polygons = _put(canvas, sprite, left, shelf)
            if label is not None and polygons:
                objects.append((label, polygons))
    return RackScene(_photograph(rng, canvas), tuple(objects))


def _empty_rack(rng: np.random.Generator, height: int, width: int, wall: Colour) -> Floats:
    """A wall with uneven light, and posts."""
    light_x = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), width, dtype=np.float32)
    light_y = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), height, dtype=np.float32)
    field_HW = light_y[:, None] * light_x[None, :]
    canvas = np.asarray(cv2.merge([field_HW * channel for channel in wall]), np.float32)
    post = shaded(wall, rng.uniform(0.7, 0.85)).tolist()
    for x in np.arange(rng.uniform(0, 300), width, rng.uniform(220, 420)):
        cv2.rectangle(canvas, (int(x), 0), (int(x) + int(rng.integers(4, 12)), height), post, -1)
    return canvas


def _shelves(rng: np.random.Generator, height: int, greatest: int) -> list[int]:
    """Upper edges of the boards, the highest first."""
    shelves = []
    y = greatest * 1.5
    while y < height - greatest / 4:
        shelves.append(int(y))
        y += greatest * rng.uniform(3.0, 7.0)
    return shelves


def _places(rng: np.random.Generator, width: int, greatest: int) -> list[int]:
    """Left edges of slots that do not touch: an item, turned or not, is less than two slots high and one wide."""
    slot = 2 * greatest + 2 * _MARGIN
    slots = np.arange(0, width - slot, slot)
    chosen = rng.random(len(slots)) < _ITEMS_PER_SHELF * slot / (1600 * greatest / 16)
    jitter = rng.integers(0, greatest // 2 + 1, len(slots))
    return [int(left) for left in (slots + jitter)[chosen]]


def _sprite(rng: np.random.Generator, label: str | None, pitch: float, light: Light) -> Sprite:
    if label is not None:
        draw, _ = CONTAINERS[label]
    else:
        draw, _ = CLUTTER[list(CLUTTER)[rng.integers(len(CLUTTER))]]
    return draw(rng, _DRAWN_HEIGHT, pitch, light)


def _reduced(sprite: Sprite, longer_px: float) -> Sprite:
    """The sprite reduced until the longer side of its silhouette has that many pixels, with a margin."""
    rows, columns = np.nonzero(sprite.mask_HW > 0.5)
    top, left = int(rows.min()), int(columns.min())
    window = (slice(top, int(rows.max()) + 1), slice(left, int(columns.max()) + 1))
    mask, opacity = sprite.mask_HW[window], sprite.opacity_HW[window]
    scale = longer_px / max(mask.shape)
    size_wh = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))

    def reduce(photo: Floats) -> Floats:
        small = cv2.resize(photo, size_wh, interpolation=cv2.INTER_AREA)
        return np.pad(small, [(_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)][: small.ndim]).astype(
            np.float32, copy=False
        )

    # Colours are weighted by coverage while they are mixed, so that no black seeps in from outside the silhouette.
    weighted = reduce(sprite.rgb_HW3[window] * mask[..., None])
    small_mask = reduce(mask)
    rgb = np.asarray(weighted / np.maximum(small_mask, 1e-3)[..., None], np.float32)
    return Sprite(rgb, reduce(opacity), small_mask)


def _put(canvas: Floats, sprite: Sprite, left: int, shelf: int) -> list[list[float]]:
    """Draw a sprite with its foot on a shelf; return its outline."""
    rows, columns = sprite.mask_HW.shape
    height, width = canvas.shape[:2]
    top = shelf + _MARGIN - rows  # the margin below the foot lies before the board
    cut = max(-top, 0)
    window = (slice(top + cut, min(top + rows, height)), slice(left, left + columns))
    part = slice(cut, cut + window[0].stop - window[0].start)
    behind = canvas[window]
    behind += (sprite.rgb_HW3[part] - behind) * sprite.opacity_HW[part][..., None]
    return polygons_from_coverage(sprite.mask_HW[part], (left, top + cut), (width, height))


def _photograph(rng: np.random.Generator, canvas: Floats) -> Bytes:
    """Exposure, a trace of blur, sensor noise; then 8 bits."""
    # In place: at 1600x1200 each new array of floats costs as much as the arithmetic in it.
    noise = rng.standard_normal(canvas.shape, np.float32)
    noise *= np.float32(255 * rng.uniform(0.003, 0.012))
    image = np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.6)), np.float32)
    image *= np.float32(255 * rng.uniform(0.8, 1.1))
    image += noise
    image += np.float32(0.5)
    photo: Bytes = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return photo
