"""Clutter of a fridge. No item here belongs to a class or has the outline of one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np

from clearsight.demo.artwork import draw_artwork
from clearsight.demo.containers import Drawer, project_box
from clearsight.demo.palette import Floats, any_colour, metal, neutral, pale, shaded, vivid
from clearsight.demo.solids import MARGIN, Light, Sprite, draw_ball, draw_faces, revolve

__all__ = ["CLUTTER"]

FRUIT: Final = MappingProxyType(
    {
        "orange": ((0.95, 0.55, 0.12), 0.96),
        "lemon": ((0.95, 0.85, 0.25), 0.8),
        "apple": ((0.78, 0.16, 0.14), 0.92),
        "green apple": ((0.56, 0.74, 0.22), 0.92),
        "tomato": ((0.86, 0.2, 0.12), 0.84),
        "plum": ((0.36, 0.14, 0.3), 0.94),
    }
)


def draw_fruit(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """Two or three fruits side by side."""
    colour, squash = list(FRUIT.values())[rng.integers(len(FRUIT))]
    balls = []
    for _ in range(int(rng.integers(1, 4))):
        mottled = 1 + 0.12 * (cv2.resize(rng.random((9, 9), np.float32), (32, 32)) - 0.5)
        size = int(height * rng.uniform(0.42, 0.52))
        tone = shaded(np.array(colour, np.float32), rng.uniform(0.85, 1.12))
        balls.append(draw_ball(size, tone, squash * rng.uniform(0.94, 1.04), light, mottled))
    return _side_by_side(balls, overlap=0.18)


def draw_eggs(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A row of eggs in a grey tray."""
    shell = np.array([0.93, 0.86, 0.76] if rng.random() < 0.6 else [0.78, 0.58, 0.44], np.float32)
    size = int(height * 0.36)
    eggs = [draw_ball(size, shaded(shell, rng.uniform(0.92, 1.05)), 1.22, light) for _ in range(rng.integers(3, 6))]
    row = _side_by_side(eggs, overlap=0.1)
    rows, columns = row.mask_HW.shape
    lip = int(rows * 0.55)
    tray = shaded(neutral(rng), 0.8)
    bumps = 0.9 + 0.1 * np.cos(np.linspace(0, 2 * np.pi * len(eggs), columns, dtype=np.float32))
    fade = np.linspace(1.0, 0.75, rows - lip, dtype=np.float32)[:, None]
    row.rgb_HW3[lip:] = tray * (bumps * fade)[..., None]
    row.mask_HW[lip : rows - MARGIN, MARGIN : columns - MARGIN] = 1
    return Sprite(row.rgb_HW3, row.mask_HW, row.mask_HW)


def draw_jar(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A squat jar with a lid wider than its neck and food inside."""
    half_width = height * rng.uniform(0.78, 1.05) / 2
    lid = int(256 * rng.uniform(0.14, 0.2))
    radii = np.full(256, half_width, np.float32)
    radii[:lid] *= rng.uniform(0.9, 0.98)
    radii[lid : lid + 12] *= 0.84
    radii[-8:] *= np.linspace(1, 0.9, 8, dtype=np.float32)
    food = vivid(rng) if rng.random() < 0.6 else pale(rng)
    texture = np.empty((height, int(half_width * 3), 4), np.float32)
    grain = cv2.resize(rng.random((24, 24), np.float32), texture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    texture[..., :3] = np.clip(food * (0.75 + 0.5 * grain)[..., None], 0, 1)
    texture[..., 3] = 0.95
    if rng.random() < 0.7:
        top, bottom = int(height * 0.4), int(height * 0.8)
        texture[top:bottom, :, :3] = draw_artwork(rng, bottom - top, texture.shape[1])
    cover = metal(rng) if rng.random() < 0.4 else any_colour(rng)
    texture[: int(height * lid / 256), :, :3] = cover
    return revolve(radii, height, pitch, texture, cover, light)


def draw_cup(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A yoghurt cup: wider above than below, foil on top."""
    half_width = height * rng.uniform(0.85, 1.15) / 2
    radii = np.linspace(half_width, half_width * rng.uniform(0.7, 0.8), 256, dtype=np.float32)
    radii[:10] *= 1.07
    texture = np.dstack(
        [draw_artwork(rng, height, int(half_width * 3)), np.ones((height, int(half_width * 3)), np.float32)]
    )
    return revolve(radii, height, pitch, texture, metal(rng) if rng.random() < 0.6 else pale(rng), light)


def draw_bowl(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A wide bowl with food."""
    half_width = height * rng.uniform(1.0, 1.4)
    arc = np.sqrt(np.linspace(1, 0.1, 256, dtype=np.float32))
    glaze = neutral(rng) if rng.random() < 0.5 else any_colour(rng)
    texture = np.ones((height, int(half_width * 3), 4), np.float32)
    texture[..., :3] = glaze
    if rng.random() < 0.5:
        texture[height // 8 : height // 4, :, :3] = any_colour(rng)
    return revolve(
        (arc * half_width).astype(np.float32), height, max(pitch, 0.12), texture, shaded(vivid(rng), 0.9), light
    )


def draw_box(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A flat package: butter, pizza, leftovers in a tub."""
    yaw, depth = rng.uniform(0.1, 0.7) * rng.choice([-1.0, 1.0]), rng.uniform(0.6, 1.2)
    width = rng.uniform(1.3, 2.4)
    top = np.ascontiguousarray(np.broadcast_to(any_colour(rng), (32, 32, 3)), np.float32)
    front = draw_artwork(rng, height, int(height * width))
    side = np.ascontiguousarray(np.broadcast_to(shaded(front[height // 2, 0], 0.8), (32, 32, 3)), np.float32)
    return _box(height, width, depth, yaw, max(pitch, 0.08), light, front, side, top)


def draw_tub(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A plastic food box: milky walls, coloured lid."""
    yaw, width = rng.uniform(0.1, 0.5) * rng.choice([-1.0, 1.0]), rng.uniform(1.4, 2.2)
    lid = any_colour(rng)
    wall = np.empty((height, int(height * width), 3), np.float32)
    wall[:] = shaded(pale(rng), 0.95)
    wall[int(height * rng.uniform(0.35, 0.6)) :] = shaded(vivid(rng), 0.9) * 0.6 + 0.35
    wall[: int(height * 0.16)] = lid
    wall[int(height * 0.16) : int(height * 0.19)] *= 0.7
    top = np.ascontiguousarray(np.broadcast_to(lid, (32, 32, 3)), np.float32)
    return _box(height, width, 0.9, yaw, max(pitch, 0.08), light, wall, wall * 0.92, top)


def draw_greens(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A head of salad: a heap of leaf-like discs."""
    columns, rows = int(height * 1.7), int(height)
    rgb = np.zeros((rows, columns, 3), np.uint8)
    mask = np.zeros((rows, columns), np.uint8)
    leaf = np.array([rng.uniform(0.3, 0.55), rng.uniform(0.55, 0.75), rng.uniform(0.15, 0.3)], np.float32)
    for step in range(60):
        reach = 1 - step / 75
        angle = rng.uniform(0, np.pi)
        x = columns / 2 + np.cos(angle) * columns * 0.36 * reach * rng.random()
        y = rows * 0.82 - np.sin(angle) * rows * 0.6 * reach * rng.random()
        size = (int(height * rng.uniform(0.08, 0.16)) + 1, int(height * rng.uniform(0.05, 0.1)) + 1)
        place, turn = (int(x), int(min(y, rows - size[0] - 2))), float(rng.uniform(0, 180))
        tone = shaded(leaf, rng.uniform(0.55, 1.25) * (0.75 + 0.4 * (1 - y / rows)))
        cv2.ellipse(rgb, place, size, turn, 0, 360, (tone * 255).tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(mask, place, size, turn, 0, 360, (255,), -1, cv2.LINE_AA)
    cover = mask.astype(np.float32) / np.float32(255)
    return Sprite(rgb.astype(np.float32) / np.float32(255), cover, cover)


def draw_cheese(rng: np.random.Generator, height: int, pitch: float, light: Light) -> Sprite:
    """A wedge, seen from the cut side."""
    columns = int(height * rng.uniform(1.5, 2.1))
    cut = np.array([0.96, rng.uniform(0.72, 0.86), rng.uniform(0.3, 0.5)], np.float32)
    art = np.empty((64, 64, 3), np.float32)
    art[:] = cut
    for _ in range(int(rng.integers(0, 9))):
        centre = (int(rng.integers(6, 58)), int(rng.integers(6, 58)))
        cv2.ellipse(
            art, centre, (int(rng.integers(2, 6)), int(rng.integers(2, 7))), 0, 0, 360, shaded(cut, 0.78).tolist(), -1
        )
    lift = max(pitch, 0.12) * height
    near, far, tip = (0.0, float(height)), (columns * 0.35, height - lift * 1.6), (float(columns), height - lift * 0.3)
    up = 0.78 * height - lift
    top = [(x, y - up) for x, y in (near, far, tip)]
    rind = np.ascontiguousarray(np.broadcast_to(shaded(vivid(rng), 0.9), (8, 8, 3)), np.float32)
    faces = [
        (
            np.array([top[1], top[2], top[0], top[0]], np.float32),
            np.full((8, 8, 3), shaded(cut, 1.08), np.float32),
            1.0,
        ),
        (np.array([top[0], top[2], tip, near], np.float32), art, 0.7 + 0.25 * np.cos(light.angle)),
        (np.array([top[0], (top[0][0] + 3, top[0][1]), (near[0] + 3, near[1]), near], np.float32), rind, 0.9),
    ]
    return draw_faces(faces)


def _box(
    height: int,
    width: float,
    depth: float,
    yaw: float,
    pitch: float,
    light: Light,
    front: Floats,
    side: Floats,
    top: Floats,
) -> Sprite:
    def at(x: float, y: float, z: float) -> tuple[float, float]:
        return project_box(x * width * height, y * height, z * depth * height, yaw, pitch)

    end = 0.5 if yaw > 0 else -0.5
    wall = [at(end, 1, 0.5 * np.sign(yaw)), at(end, 1, -0.5 * np.sign(yaw))]
    wall += [at(end, 0, -0.5 * np.sign(yaw)), at(end, 0, 0.5 * np.sign(yaw))]
    lit = light.ambient + (1.0 - light.ambient) * max(0.0, float(np.cos(light.angle + yaw)))
    roof = [at(-0.5, 1, -0.5), at(0.5, 1, -0.5), at(0.5, 1, 0.5), at(-0.5, 1, 0.5)]
    face = [at(-0.5, 1, 0.5), at(0.5, 1, 0.5), at(0.5, 0, 0.5), at(-0.5, 0, 0.5)]
    return draw_faces(
        [
            (np.array(roof, np.float32), top, 1.08),
            (np.array(wall, np.float32), side, lit * 0.75),
            (np.array(face, np.float32), front, lit),
        ]
    )


def _side_by_side(sprites: list[Sprite], overlap: float) -> Sprite:
    """Sprites in a row with aligned lower edges, each covering a bit of the one before."""
    rows = max(sprite.mask_HW.shape[0] for sprite in sprites)
    starts, total = [], 0
    for sprite in sprites:
        starts.append(total)
        total += int(sprite.mask_HW.shape[1] * (1 - overlap))
    columns = starts[-1] + sprites[-1].mask_HW.shape[1]
    rgb, mask = np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns), np.float32)
    for start, sprite in zip(starts, sprites, strict=True):
        height, width = sprite.mask_HW.shape
        place = np.s_[rows - height :, start : start + width]
        rgb[place] += (sprite.rgb_HW3 - rgb[place]) * sprite.mask_HW[..., None]
        mask[place] = np.maximum(mask[place], sprite.mask_HW)
    return Sprite(rgb, mask, mask)


CLUTTER: Final[Mapping[str, tuple[Drawer, float]]] = MappingProxyType(
    {
        "fruit": (draw_fruit, 0.3),
        "eggs": (draw_eggs, 0.3),
        "jar": (draw_jar, 0.42),
        "cup": (draw_cup, 0.34),
        "bowl": (draw_bowl, 0.26),
        "box": (draw_box, 0.24),
        "tub": (draw_tub, 0.26),
        "greens": (draw_greens, 0.42),
        "cheese": (draw_cheese, 0.24),
    }
)
"""Name -> (drawer, usual height as a share of a tall bottle's)."""
