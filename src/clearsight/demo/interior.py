"""The empty fridge: back wall, side walls, the shelf that items stand on, the shelf above, the space below."""

from dataclasses import dataclass

import cv2
import numpy as np

from clearsight.demo.palette import Colour, Floats, neutral, pale, shaded

__all__ = ["Interior", "draw_interior"]


@dataclass(frozen=True, slots=True)
class Interior:
    """An empty compartment. `y` grows downwards, in pixels."""

    rgb_HW3: Floats
    back_y: float
    """Height at which the shelf meets the back wall."""
    front_y: float
    """Height of the front edge of the shelf."""
    is_glass: bool


def draw_interior(rng: np.random.Generator, height: int, width: int, pitch: float) -> Interior:
    """Draw one compartment; the steeper the `pitch`, the more of the shelf is seen."""
    wall = _wall_colour(rng)
    front_y = height * rng.uniform(0.84, 0.95)
    back_y = front_y - height * (0.06 + 0.75 * pitch)
    ceiling_y = height * rng.uniform(-0.25, 0.1)
    rgb = np.empty((height, width, 3), np.float32)
    rgb[:] = wall
    _paint_back_wall(rng, rgb, wall)
    _paint_side_walls(rng, rgb, wall, ceiling_y, back_y, front_y)
    is_glass = bool(rng.random() < 0.65)
    _paint_shelf(rng, rgb, wall, back_y, front_y, is_glass)
    if ceiling_y > 0:
        _paint_ceiling(rng, rgb, wall, ceiling_y)
    _shade(rng, rgb, back_y)
    return Interior(np.clip(rgb, 0, 1).astype(np.float32, copy=False), back_y, front_y, is_glass)


def _wall_colour(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.6:
        tint = np.array([rng.uniform(0.94, 1.0), rng.uniform(0.97, 1.0), rng.uniform(0.97, 1.03)], np.float32)
        return shaded(tint, rng.uniform(0.72, 0.95))
    return shaded(neutral(rng) if rng.random() < 0.6 else pale(rng), rng.uniform(0.5, 1.0))


def _paint_back_wall(rng: np.random.Generator, rgb: Floats, wall: Colour) -> None:
    """Plain, grooved, or with a vent grille."""
    height, width = rgb.shape[:2]
    kind = rng.integers(4)
    if kind == 1:
        step = rng.uniform(0.08, 0.2) * width
        for x in np.arange(rng.uniform(0, step), width, step):
            _line(rgb, (x, 0), (x, height), shaded(wall, 0.88), 2)
            _line(rgb, (x + 2, 0), (x + 2, height), shaded(wall, 1.06), 1)
    if kind == 2:
        step = rng.uniform(0.06, 0.14) * height
        for y in np.arange(rng.uniform(0, step), height, step):
            _line(rgb, (0, y), (width, y), shaded(wall, 0.9), 2)
            _line(rgb, (0, y + 2), (width, y + 2), shaded(wall, 1.05), 1)
    if kind == 3:
        left, top = rng.uniform(0.1, 0.7) * width, rng.uniform(0.05, 0.3) * height
        for slot in range(int(rng.integers(4, 8))):
            y = top + slot * height * 0.035
            _line(rgb, (left, y), (left + width * 0.2, y), shaded(wall, 0.6), 2)


def _paint_side_walls(
    rng: np.random.Generator, rgb: Floats, wall: Colour, ceiling_y: float, back_y: float, front_y: float
) -> None:
    height, width = rgb.shape[:2]
    for side in (0, 1):
        reach = rng.uniform(-0.1, 0.2) * width
        if reach <= 0:
            continue
        inner, outer = (reach, -0.02 * width) if side == 0 else (width - reach, 1.02 * width)
        spread = 0.35 * reach
        corners = [(inner, ceiling_y), (outer, ceiling_y - spread), (outer, front_y + spread), (inner, back_y)]
        _fill(rgb, corners, shaded(wall, rng.uniform(0.74, 0.9)))
        _line(rgb, (inner, ceiling_y), (inner, back_y), shaded(wall, 0.66), 1)
        for y in np.arange(0.15, 0.9, 0.25) * height:  # ledges that carry shelves
            drop = spread * (y / height - 0.4)
            _line(rgb, (inner, y), (outer, y + drop), shaded(wall, 1.08), 2)
            _line(rgb, (inner, y + 3), (outer, y + drop + 3), shaded(wall, 0.7), 1)


def _paint_shelf(
    rng: np.random.Generator, rgb: Floats, wall: Colour, back_y: float, front_y: float, is_glass: bool
) -> None:
    height, width = rgb.shape[:2]
    below = shaded(wall, rng.uniform(0.35, 0.7))
    _fill(rgb, [(-2, back_y), (width + 2, back_y), (width + 2, height + 2), (-2, height + 2)], below)
    for _ in range(int(rng.integers(2, 6))):  # out-of-focus items on the shelf below
        centre = (int(rng.uniform(0, width)), int(rng.uniform(front_y, height * 1.15)))
        axes = (int(width * rng.uniform(0.05, 0.12)), int(height * rng.uniform(0.08, 0.2)))
        cv2.ellipse(rgb, centre, axes, 0, 0, 360, shaded(neutral(rng), rng.uniform(0.3, 0.9)).tolist(), -1)
    edge = int(back_y)
    margin = min(height // 20, edge)
    rgb[edge:] = cv2.GaussianBlur(rgb[edge - margin :], (0, 0), height / 60)[margin:]
    if is_glass:
        plate = 0.72 * wall + 0.28 * np.array([0.75, 0.9, 0.86], np.float32)
        rows = np.linspace(0.78, 1.0, max(int(front_y) - edge, 1), dtype=np.float32)[:, None, None]
        strip = rgb[edge : edge + len(rows)]
        strip[:] = strip * 0.22 + 0.78 * plate * rows[: len(strip)]
    else:
        wire = shaded(neutral(rng), 1.0) if rng.random() < 0.5 else np.full(3, 0.85, np.float32)
        vanish = width * rng.uniform(0.3, 0.7)
        for x in np.linspace(-0.3 * width, 1.3 * width, int(rng.integers(22, 36))):
            _line(rgb, (vanish + (x - vanish) * 0.8, back_y), (x, front_y), wire, 2)
        _line(rgb, (0, (back_y + front_y) / 2), (width, (back_y + front_y) / 2), shaded(wire, 0.9), 2)
    thick = height * rng.uniform(0.015, 0.04)
    trim = shaded(wall, 1.12) if rng.random() < 0.5 else shaded(neutral(rng), 0.95)
    _fill(rgb, [(-2, front_y), (width + 2, front_y), (width + 2, front_y + thick), (-2, front_y + thick)], trim)
    _line(rgb, (0, front_y), (width, front_y), shaded(trim, 1.15), 1)
    _line(rgb, (0, front_y + thick), (width, front_y + thick), shaded(trim, 0.55), 2)


def _paint_ceiling(rng: np.random.Generator, rgb: Floats, wall: Colour, ceiling_y: float) -> None:
    """The front edge of the shelf above, and the dark of its underside."""
    width = rgb.shape[1]
    _fill(rgb, [(-2, -2), (width + 2, -2), (width + 2, ceiling_y * 0.55), (-2, ceiling_y * 0.55)], shaded(wall, 0.72))
    trim = shaded(wall, rng.uniform(0.95, 1.15))
    _fill(rgb, [(-2, ceiling_y * 0.55), (width + 2, ceiling_y * 0.55), (width + 2, ceiling_y), (-2, ceiling_y)], trim)
    _line(rgb, (0, ceiling_y), (width, ceiling_y), shaded(wall, 0.5), 2)


def _shade(rng: np.random.Generator, rgb: Floats, back_y: float) -> None:
    """Light from the ceiling, darker towards the floor and the corner where wall and shelf meet."""
    height = rgb.shape[0]
    y = np.arange(height, dtype=np.float32)
    fall = np.linspace(rng.uniform(0.98, 1.12), rng.uniform(0.75, 0.95), height, dtype=np.float32)
    crease = 1 - rng.uniform(0.1, 0.3) * np.exp(-(((y - back_y) / (0.045 * height)) ** 2))
    rgb *= (fall * crease)[:, None, None]


def _fill(rgb: Floats, corners: list[tuple[float, float]], colour: Colour) -> None:
    cv2.fillPoly(rgb, [np.round(np.array(corners)).astype(np.int32)], colour.tolist())


def _line(rgb: Floats, start: tuple[float, float], end: tuple[float, float], colour: Colour, thickness: int) -> None:
    ends: list[tuple[int, int]] = [(round(x), round(y)) for x, y in (start, end)]
    cv2.line(rgb, ends[0], ends[1], colour.tolist(), thickness)
