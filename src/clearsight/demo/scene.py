"""One image: items placed in a fridge, their shadows and occlusion, light, lens and sensor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np

from clearsight.demo.clutter import CLUTTER
from clearsight.demo.containers import CONTAINERS
from clearsight.demo.interior import Interior, draw_interior
from clearsight.demo.palette import Bytes, Colour, Floats, painted
from clearsight.demo.solids import Light, Sprite

__all__ = ["DrawnScene", "SceneObject", "draw_scene"]

OVERSAMPLING: Final = 1.5
"""Sprites are drawn this much larger than they appear, so that rotation and reduction stay smooth."""

MIN_VISIBLE: Final = 0.5
"""Share of an object's silhouette that must be visible; an object with less is left out of the image."""

EASY_COLOURS: Final[Mapping[str, Colour]] = MappingProxyType(
    {
        label: np.array(rgb, np.float32)
        for label, rgb in {
            "can": (0.9, 0.1, 0.1),
            "carton": (0.1, 0.75, 0.15),
            "milk_bottle": (0.1, 0.25, 0.95),
            "water_bottle": (0.95, 0.8, 0.05),
        }.items()
    }
)
"""Colours of the classes in easy scenes."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One labelled object of an image."""

    label: str
    visible_HW: Floats
    """Coverage by the visible part, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class DrawnScene:
    """An image and its objects."""

    image_HW3: Bytes
    objects: tuple[SceneObject, ...]
    """Back to front."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A sprite in the image. Arrays cover `window` alone, the part of the image in which the item lies."""

    label: str | None
    window: tuple[slice, slice]
    rgb_HW3: Floats
    opacity_HW: Floats
    mask_HW: Floats
    base_y: float
    is_standing: bool


@dataclass(frozen=True, slots=True)
class _Stage:
    """The space in which items are placed."""

    height: int
    width: int
    interior: Interior
    pitch: float
    light: Light
    is_single: bool
    """One object in the middle rather than a full shelf."""
    is_easy: bool

    def base_y(self, depth: float) -> float:
        """Where an item stands that is `depth` of the way from the back wall to the front edge."""
        return self.interior.back_y + (self.interior.front_y - self.interior.back_y) * depth


def draw_scene(
    rng: np.random.Generator, height: int, width: int, labels: tuple[str, ...], *, is_easy: bool = False
) -> DrawnScene:
    """Draw an image that shows objects of the given classes, one per label, among clutter.

    One label: a single object that dominates the middle of the image. Several (or none): a fuller shelf, on which
    an object that would be mostly hidden is left out. Easy scenes have no clutter, and a colour for each class.
    """
    pitch = rng.uniform(0.05, 0.3)
    light = Light(rng.uniform(-1.1, 1.1), rng.uniform(0.38, 0.6), rng.uniform(0.05, 0.4))
    interior = draw_interior(rng, height, width, pitch)
    stage = _Stage(height, width, interior, pitch, light, is_single=len(labels) == 1, is_easy=is_easy)
    items = [_place_object(rng, label, stage) for label in labels]
    if not is_easy:
        items += _place_clutter(rng, stage)
    items = _without_hidden(sorted(items, key=lambda item: item.base_y), height, width)
    canvas = interior.rgb_HW3.copy()
    for item in items:
        _cast_shadow(canvas, item, light)
        if item.is_standing and interior.is_glass:
            _mirror(canvas, item)
        canvas[item.window] += (item.rgb_HW3 - canvas[item.window]) * item.opacity_HW[..., None]
    objects = []
    for item, part in zip(items, _visible_parts(items, height, width), strict=True):
        if item.label is not None:
            visible = np.zeros((height, width), np.float32)
            visible[item.window] = part
            objects.append(SceneObject(item.label, visible))
    return DrawnScene(_photograph(rng, canvas), tuple(objects))


def _place_object(rng: np.random.Generator, label: str, stage: _Stage) -> _Placed:
    draw, tall = CONTAINERS[label]
    size = stage.height * tall * (rng.uniform(0.74, 0.88) if stage.is_single else rng.uniform(0.4, 0.62))
    x = stage.width * (rng.uniform(0.43, 0.57) if stage.is_single else rng.uniform(0.08, 0.92))
    lies = not stage.is_single and rng.random() < 0.12
    angle = rng.choice([-90.0, 90.0]) + rng.normal(0, 8) if lies else rng.normal(0, 2.5)
    base_y = stage.base_y(rng.uniform(0.4, 0.95))
    sprite = draw(rng, int(size * OVERSAMPLING), stage.pitch, stage.light)
    if stage.is_easy:
        sprite = replace(sprite, rgb_HW3=painted(sprite.rgb_HW3, EASY_COLOURS[label]))
    if not lies:  # nearer, rather than with its head out of the image
        base_y = min(max(base_y, size * 1.08), 0.98 * stage.height)
    return _place(label, sprite, x, base_y, float(angle), stage, is_standing=not lies)


def _place_clutter(rng: np.random.Generator, stage: _Stage) -> list[_Placed]:
    """Things of no class: most behind the objects, few in front of them and then low."""
    names = list(CLUTTER)
    placed = []
    for _ in range(int(rng.integers(1, 5) if stage.is_single else rng.integers(2, 6))):
        draw, tall = CLUTTER[names[rng.integers(len(names))]]
        is_front = rng.random() < (0.06 if stage.is_single else 0.2)
        size = stage.height * tall * rng.uniform(0.6, 0.95) * (0.7 if is_front else 1.0)
        sprite = draw(rng, max(12, int(size * OVERSAMPLING)), stage.pitch, stage.light)
        base_y = stage.base_y(rng.uniform(0.9, 1.0) if is_front else rng.uniform(0.02, 0.35))
        item = _place(None, sprite, stage.width * rng.uniform(-0.02, 1.02), base_y, rng.normal(0, 2), stage)
        if not is_front and rng.random() < 0.7:
            item = _defocused(item, rng.uniform(0.8, 2.2) * stage.height / 240)
        placed.append(item)
    return placed


def _place(
    label: str | None,
    sprite: Sprite,
    x: float,
    base_y: float,
    angle: float,
    stage: _Stage,
    is_standing: bool = True,
) -> _Placed:
    """Rotate and reduce a sprite so that its lowest point touches `base_y` and its middle is at `x`."""
    rows, columns = sprite.mask_HW.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, 1 / OVERSAMPLING)
    outline_y, outline_x = np.nonzero(sprite.mask_HW > 0.5)
    reach = turn[1, 0] * outline_x + turn[1, 1] * outline_y + turn[1, 2]
    turn[:, 2] += x - columns / 2, base_y - reach.max()
    corners = turn @ np.array([[0, columns, 0, columns], [0, 0, rows, rows], [1, 1, 1, 1]])
    left, top = np.floor(corners.min(axis=1)).astype(int).clip(0, [stage.width - 1, stage.height - 1]).tolist()
    right, bottom = (
        np.ceil(corners.max(axis=1)).astype(int).clip([left + 1, top + 1], [stage.width, stage.height]).tolist()
    )
    turn[:, 2] -= left, top

    def warp(photo: Floats) -> Floats:
        size_wh = (right - left, bottom - top)
        return cv2.warpAffine(photo, turn, size_wh, flags=cv2.INTER_LINEAR).astype(np.float32, copy=False)

    mask = warp(sprite.mask_HW)
    opacity = mask if sprite.opacity_HW is sprite.mask_HW else warp(sprite.opacity_HW)
    # Colours are weighted by coverage while they are mixed, so that no black seeps in from outside the silhouette.
    rgb = warp(sprite.rgb_HW3 * sprite.mask_HW[..., None]) / np.maximum(mask, 1e-3)[..., None]
    window = (slice(top, bottom), slice(left, right))
    return _Placed(label, window, np.clip(rgb, 0, 1), opacity, mask, base_y, is_standing)


def _defocused(item: _Placed, sigma: float) -> _Placed:
    def blur(photo: Floats) -> Floats:
        return cv2.GaussianBlur(photo, (0, 0), sigma).astype(np.float32, copy=False)

    mask = blur(item.mask_HW)
    rgb = blur(item.rgb_HW3 * item.mask_HW[..., None]) / np.maximum(mask, 1e-3)[..., None]
    return replace(item, rgb_HW3=np.clip(rgb, 0, 1), opacity_HW=blur(item.opacity_HW), mask_HW=mask)


def _without_hidden(items: list[_Placed], height: int, width: int) -> list[_Placed]:
    """Take out what hides an object too much: clutter first, else the hidden object itself."""
    while True:
        parts = _visible_parts(items, height, width)
        for index, (item, part) in enumerate(zip(items, parts, strict=True)):
            if item.label is None or part.sum() >= MIN_VISIBLE * max(float(item.mask_HW.sum()), 1.0):
                continue
            blocker = next(
                (other for other in items[index + 1 :] if other.label is None and _overlap(item, other)), item
            )
            items = [other for other in items if other is not blocker]
            break
        else:
            return items


def _overlap(one: _Placed, other: _Placed) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one.window, other.window, strict=True))


def _visible_parts(items: list[_Placed], height: int, width: int) -> list[Floats]:
    """Coverage of each item, in its window, that nothing in front of it covers. `items` stand back to front."""
    free = np.ones((height, width), np.float32)
    parts = []
    for item in reversed(items):
        parts.append(item.mask_HW * free[item.window])
        free[item.window] *= 1 - item.mask_HW
    return parts[::-1]


def _cast_shadow(canvas: Floats, item: _Placed, light: Light) -> None:
    """A soft shadow on the wall behind, and a dark contact line on the shelf."""
    height, width = canvas.shape[:2]
    scale = height / 240
    reach = int(28 * scale)
    rows, columns = item.window
    top, left = max(rows.start - reach, 0), max(columns.start - reach, 0)
    bottom, right = min(rows.stop + reach, height), min(columns.stop + reach, width)
    shift = np.array(
        [[1, 0, columns.start - left - np.sin(light.angle) * 14 * scale], [0, 1, rows.start - top + 5 * scale]]
    )
    cast = cv2.GaussianBlur(cv2.warpAffine(item.mask_HW, shift, (right - left, bottom - top)), (0, 0), 6 * scale)
    shade = 1 - 0.3 * cast
    solid = np.nonzero(item.mask_HW.max(axis=0) > 0.5)[0]
    if len(solid):
        middle, half = columns.start - left + (solid[0] + solid[-1]) / 2, (solid[-1] - solid[0]) / 2
        axes = (max(int(half * 1.02), 1), max(int(half * 0.16), 1))
        place = (int(middle - np.sin(light.angle) * 3 * scale), int(item.base_y - top - axes[1] * 0.4))
        contact = np.zeros_like(shade)
        cv2.ellipse(contact, place, axes, 0, 0, 360, (1.0,), -1)
        shade *= 1 - 0.5 * cv2.GaussianBlur(contact, (0, 0), 3 * scale)
    canvas[top:bottom, left:right] *= shade[..., None]


def _mirror(canvas: Floats, item: _Placed) -> None:
    """A faint reflection in the glass shelf, fading downwards."""
    height = canvas.shape[0]
    rows, columns = item.window
    base = int(item.base_y)
    depth = min(int(0.2 * height), height - base, base - rows.start)
    if depth <= 0 or base > rows.stop:
        return
    lowest = slice(base - rows.start - depth, base - rows.start)
    image, alpha = item.rgb_HW3[lowest][::-1], item.opacity_HW[lowest][::-1]
    fade = 0.22 * np.linspace(1, 0, len(image), dtype=np.float32)[:, None]
    strip = canvas[base : base + len(image), columns]
    strip += (image - strip) * (alpha * fade)[..., None]


def _photograph(rng: np.random.Generator, canvas: Floats) -> Bytes:
    """Light falloff, white balance, exposure, focus and sensor noise; then 8 bits."""
    height, width = canvas.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    lamp_x, lamp_y, spread = rng.uniform(-1, 1), rng.uniform(-1.2, 0), rng.uniform(0.3, 1.2)
    lamp = np.exp(-((x - lamp_x) ** 2) / spread) * np.exp(-((y - lamp_y) ** 2) / spread)
    field = 1 + rng.uniform(0, 0.35) * lamp + rng.uniform(-0.15, 0.15) * x - rng.uniform(0, 0.2) * (x**2 + y**2)
    warmth = rng.uniform(-0.09, 0.09)
    balance = np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * np.float32(rng.uniform(0.75, 1.12))
    image = canvas * field.astype(np.float32)[..., None]
    image *= balance
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9) * height / 240)
    noise = rng.standard_normal((height, width, 3), np.float32)
    # Photon noise grows with the root of the light; green stands for all three.
    noise *= np.float32(rng.uniform(0.004, 0.022)) * np.sqrt(np.clip(image[..., 1:2], 0.05, 1))
    image += noise
    photo: Bytes = np.clip(image * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
    return photo
