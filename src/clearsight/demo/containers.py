"""The four classes. Each is recognised by its silhouette; colours, prints and sizes have the same distribution for all.

can: straight wall, necked-in lid, about twice as high as wide. carton: box with a gable top. milk_bottle: broad
shoulders, waist, short neck, wide cap. water_bottle: slender, long tapering neck, small cap, ribs, see-through.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np

from clearsight.demo.artwork import draw_artwork
from clearsight.demo.palette import Colour, Floats, any_colour, metal, pale, shaded, vivid
from clearsight.demo.solids import Light, Sprite, draw_faces, revolve

__all__ = ["CONTAINERS", "Drawer", "project_box"]

Drawer = Callable[[np.random.Generator, int, float, Light], Sprite]
"""(rng, height in pixels, pitch, light) -> sprite."""


def draw_can(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    half_width = height * rng.uniform(0.5, 0.62) / 2
    neck, foot = rng.uniform(0.05, 0.1), rng.uniform(0.03, 0.06)
    lid = rng.uniform(0.78, 0.86)
    radii = _profile(
        half_width,
        [(0, lid), (0.02, lid), (neck + 0.02, 1), (1 - foot, 1), (0.985, 0.86), (1, rng.uniform(0.74, 0.82))],
    )
    texture = _opaque(draw_artwork(rng, height, int(half_width * 3)))
    rim = metal(rng)
    texture[: int(height * 0.03), :, :3] = rim
    texture[int(height * 0.965) :, :, :3] = shaded(rim, 0.8)
    shiny = Light(light.angle, light.ambient, light.gloss * 1.3)
    sprite = revolve(radii, height, max(pitch, 0.06), texture, rim, shiny)
    _draw_tab(sprite, half_width * lid, max(pitch, 0.06), rim)
    return sprite


def _draw_tab(sprite: Sprite, radius: float, pitch: float, rim: Colour) -> None:
    """The pull tab and the rolled rim on the lid."""
    centre = (sprite.mask_HW.shape[1] // 2, int(3 + pitch * radius))
    axes = (max(1, int(radius * 0.82)), max(1, int(radius * pitch * 0.8)))
    cv2.ellipse(sprite.rgb_HW3, centre, axes, 0, 0, 360, shaded(rim, 0.72).tolist(), 1, cv2.LINE_AA)
    tab = (max(1, int(radius * 0.3)), max(1, int(radius * pitch * 0.3)))
    cv2.ellipse(sprite.rgb_HW3, centre, tab, 0, 0, 360, shaded(rim, 0.55).tolist(), -1, cv2.LINE_AA)


def draw_milk_bottle(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    half_width = height * rng.uniform(0.42, 0.52) / 2
    cap, cap_height = rng.uniform(0.4, 0.5), rng.uniform(0.1, 0.14)
    neck, shoulder = cap * rng.uniform(0.82, 0.92), rng.uniform(0.36, 0.44)
    waist, waist_at = rng.uniform(0.82, 0.95), rng.uniform(0.5, 0.62)
    points = [(0, cap * 0.96), (0.01, cap), (cap_height, cap), (cap_height + 0.005, neck), (cap_height + 0.05, neck)]
    rise = np.linspace(0, 1, 6)[1:]
    start = cap_height + 0.05
    points += [(start + (shoulder - start) * s, neck + (1 - neck) * np.sin(s * np.pi / 2)) for s in rise]
    points += [(waist_at - 0.06, waist + 0.02), (waist_at + 0.06, waist + 0.02), (0.78, 1), (0.95, 1), (1, 0.9)]
    radii = _profile(half_width, points, smooth_from=0.3)
    texture = _opaque(draw_artwork(rng, height, int(half_width * 3)))
    cap_colour = any_colour(rng)
    _paint_cap(texture, cap_height, cap_colour)
    if rng.random() < 0.5:
        texture[int(height * cap_height) : int(height * shoulder), :, :3] = any_colour(rng)
    return revolve(radii, height, pitch, texture, cap_colour, light)


def draw_water_bottle(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    half_width = height * rng.uniform(0.24, 0.31) / 2
    cap, cap_height = rng.uniform(0.4, 0.48), rng.uniform(0.055, 0.08)
    neck, shoulder = cap * rng.uniform(0.82, 0.92), rng.uniform(0.3, 0.4)
    start = cap_height + 0.03
    points = [(0, cap * 0.96), (0.008, cap), (cap_height, cap), (cap_height + 0.004, neck), (start - 0.012, neck)]
    points += [(start - 0.01, neck * 1.15), (start - 0.004, neck * 1.15), (start, neck)]
    swell = np.linspace(0, 1, 8)[1:]
    power = rng.uniform(0.9, 1.5)
    points += [(start + (shoulder - start) * s, neck + (1 - neck) * s**power) for s in swell]
    points += [(0.94, 1), (0.985, 0.93), (1, 0.8)]
    radii = _profile(half_width, points)
    t = np.linspace(0, 1, len(radii))
    ribs = 1 - rng.uniform(0.0, 0.035) * (1 + np.sin(t * rng.uniform(70, 130))) * (t > shoulder)
    texture = _bottle_wall(rng, height, int(half_width * 3), shoulder)
    cap_colour = any_colour(rng)
    _paint_cap(texture, cap_height, cap_colour)
    glossy = Light(light.angle, max(light.ambient, 0.6), light.gloss * 1.5)
    return revolve((radii * ribs).astype(np.float32), height, pitch, texture, cap_colour, glossy)


def _bottle_wall(rng: np.random.Generator, height: int, width: int, shoulder: float) -> Floats:
    """A see-through wall with a fill level and a printed label."""
    tint = pale(rng) if rng.random() < 0.6 else vivid(rng)
    texture = np.empty((height, width, 4), np.float32)
    edge = np.abs(np.linspace(-1, 1, width, dtype=np.float32)) ** 2
    texture[..., :3] = shaded(tint, 1.0)
    texture[..., 3] = rng.uniform(0.3, 0.6) + 0.35 * edge
    level = int(height * rng.uniform(0.15, shoulder + 0.2))
    texture[level:, :, :3] *= rng.uniform(0.8, 0.95)
    texture[level:, :, 3] = np.minimum(texture[level:, :, 3] + rng.uniform(0.05, 0.4), 1)
    texture[level : level + max(1, height // 100)] *= 0.8
    top, bottom = int(height * (shoulder + rng.uniform(0.02, 0.12))), int(height * rng.uniform(0.7, 0.92))
    texture[top:bottom, :, :3] = draw_artwork(rng, bottom - top, width)
    texture[top:bottom, :, 3] = 1
    return texture


def draw_carton(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A box with a square foot, a roof of two slopes and a crimped fin along the ridge."""
    fin, roof = rng.uniform(0.06, 0.09), rng.uniform(0.16, 0.22)
    body = 1 - fin - roof
    width = rng.uniform(0.36, 0.46)
    yaw = rng.uniform(0.25, 0.85) * (1 if rng.random() < 0.5 else -1)
    pitch = max(pitch, 0.05)
    rows, columns = height, max(8, int(width * height))
    front = draw_artwork(rng, rows, columns)
    side = front if rng.random() < 0.5 else draw_artwork(rng, rows, columns)
    roof_art = np.broadcast_to(any_colour(rng) if rng.random() < 0.5 else front[rows // 20, 0], (32, 32, 3))
    roof_art = np.ascontiguousarray(roof_art, np.float32)
    fin_art = np.ascontiguousarray(np.broadcast_to(shaded(roof_art[0, 0], 1.1), (16, 16, 3)), np.float32)

    def at(x: float, y: float, z: float) -> tuple[float, float]:
        return project_box(x * width * height, y * height, z * width * height, yaw, pitch)

    end = 0.5 if yaw > 0 else -0.5
    lit_front, lit_side = _face_light(light, -yaw), _face_light(light, np.pi / 2 * np.sign(yaw) - yaw)
    faces = [
        # The folded end below the roof: its ridge corner lies inwards, so that it looks like a triangle.
        (
            _quad(at(end, body + roof, 0), at(end, body + roof, 0), at(end, body, -0.5), at(end, body, 0.5)),
            roof_art,
            lit_side * 0.8,
        ),
        (
            _quad(at(-0.5, body + roof, 0), at(0.5, body + roof, 0), at(0.5, body, 0.5), at(-0.5, body, 0.5)),
            roof_art,
            lit_front * 1.1,
        ),
        (_quad(at(-0.5, 1, 0), at(0.5, 1, 0), at(0.5, body + roof, 0), at(-0.5, body + roof, 0)), fin_art, lit_front),
        (_quad(at(-0.5, body, 0.5), at(0.5, body, 0.5), at(0.5, 0, 0.5), at(-0.5, 0, 0.5)), front, lit_front),
    ]
    wall = [at(end, body, 0.5), at(end, body, -0.5), at(end, 0, -0.5), at(end, 0, 0.5)]
    if yaw < 0:
        wall = [wall[1], wall[0], wall[3], wall[2]]
    faces.append((_quad(*wall), side, lit_side))
    sprite = draw_faces(faces)
    if rng.random() < 0.55:
        centre = np.array(at(0, body + roof * 0.5, 0.25)) - _low_corner(faces)
        _draw_screw_cap(sprite, centre, width * height * rng.uniform(0.16, 0.22), any_colour(rng))
    return sprite


def project_box(x: float, y: float, z: float, yaw: float, pitch: float) -> tuple[float, float]:
    """Screen position (right, down) of a point: x right, y up, z to the viewer before the turn by `yaw`."""
    return x * np.cos(yaw) - z * np.sin(yaw), -y + pitch * (x * np.sin(yaw) + z * np.cos(yaw))


def _draw_screw_cap(sprite: Sprite, centre: Floats, radius: float, colour: Colour) -> None:
    """A short cylinder on the slope, seen nearly from the front."""
    for step, brightness in ((0.0, 0.75), (-0.25, 0.9), (-0.35, 1.05)):
        place = (int(centre[0]), int(centre[1] + step * radius))
        axes = (int(radius), int(radius * 0.78))
        cv2.ellipse(sprite.rgb_HW3, place, axes, 0, 0, 360, shaded(colour, brightness).tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(sprite.mask_HW, place, axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)


def _low_corner(faces: list[tuple[Floats, Floats, float]]) -> Floats:
    low: Floats = np.concatenate([corners for corners, _, _ in faces]).min(axis=0) - 3
    return low


def _quad(*corners: tuple[float, float]) -> Floats:
    return np.array(corners, np.float32)


def _face_light(light: Light, angle: float) -> float:
    """Brightness of an upright face whose normal points `angle` away from the viewer (positive to the right)."""
    return float(light.ambient + (1.05 - light.ambient) * max(0.0, np.cos(angle - light.angle)))


def _profile(half_width: float, points: list[tuple[float, float]], smooth_from: float = 1.1) -> Floats:
    """Radii at 256 equal steps from (position, share of `half_width`) points, rounded below `smooth_from`."""
    positions, shares = zip(*sorted(points), strict=True)
    t = np.linspace(0, 1, 256)
    radii = np.interp(t, positions, shares)
    rounded = np.convolve(np.pad(radii, 12, mode="edge"), np.hanning(25) / np.hanning(25).sum(), mode="valid")
    return (np.where(t > smooth_from, rounded, radii) * half_width).astype(np.float32)


def _opaque(art: Floats) -> Floats:
    return np.dstack([art, np.ones(art.shape[:2], np.float32)])


def _paint_cap(texture: Floats, cap_height: float, colour: Colour) -> None:
    rows = int(texture.shape[0] * cap_height)
    texture[:rows, :, :3] = colour
    texture[:rows, :, 3] = 1
    texture[:rows, ::4, :3] *= 0.85


CONTAINERS: Final[Mapping[str, tuple[Drawer, float]]] = MappingProxyType(
    {
        "can": (draw_can, 0.62),
        "carton": (draw_carton, 0.93),
        "milk_bottle": (draw_milk_bottle, 0.8),
        "water_bottle": (draw_water_bottle, 1.0),
    }
)
"""Class -> (drawer, usual height as a share of a tall bottle's)."""
