"""Shaded bodies: a profile turned around its axis, a box seen from a corner, a ball. Each becomes a sprite.

Orthographic camera, looking down by `pitch` (sine of the angle); light from the upper left or right.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.demo.palette import Colour, Floats

__all__ = ["Light", "Sprite", "draw_ball", "draw_faces", "revolve"]

MARGIN = 3
"""Empty pixels around a sprite, so that its soft edge survives a rotation."""


@dataclass(frozen=True, slots=True)
class Light:
    """Where the light of a scene comes from."""

    angle: float
    """Radians around the vertical axis: 0 from the viewer, negative from the left."""
    ambient: float
    gloss: float


@dataclass(frozen=True, slots=True)
class Sprite:
    """A drawn item before it is placed. All float32 in [0, 1]."""

    rgb_HW3: Floats
    opacity_HW: Floats
    """How much of the background it hides; below 1 inside `mask_HW` for glass."""
    mask_HW: Floats
    """Coverage of the silhouette: what counts as the object."""


def revolve(radii: Floats, height: int, pitch: float, texture_HW4: Floats, lid: Colour, light: Light) -> Sprite:
    """Turn a profile around its axis.

    `radii` are pixels at equal steps from top to bottom; `texture_HW4` (RGB + opacity) covers the visible half of the
    side. The top is closed by a flat `lid`.
    """
    table = np.interp(np.linspace(0, 1, 512), np.linspace(0, 1, len(radii)), radii).astype(np.float32)
    slope = np.gradient(table) * (512 / height)
    top = MARGIN + pitch * table[0]
    half_width = int(table.max()) + MARGIN + 1
    num_rows = int(top + height + pitch * table[-1]) + MARGIN + 1
    y = (np.arange(num_rows, dtype=np.float32)[:, None] + 0.5 - top) / height
    x = np.arange(2 * half_width, dtype=np.float32)[None, :] + 0.5 - half_width

    def lookup(t: Floats) -> npt.NDArray[np.int32]:
        return np.clip(t * 511, 0, 511).astype(np.int32)

    depth = np.sqrt(np.clip(1 - (x / table[lookup(y)]) ** 2, 0, 1))
    t = y - pitch * table[lookup(y)] * depth / height
    index = lookup(t)
    radius = table[index]
    u = np.clip(x / radius, -1, 1)
    side = np.clip((radius - np.abs(x)) + 0.5, 0, 1)
    side *= np.clip(t * height + 0.5, 0, 1) * np.clip((1 - t) * height + 0.5, 0, 1)

    theta = np.arcsin(u)
    texture_height, texture_width = texture_HW4.shape[:2]
    texture = cv2.remap(
        texture_HW4,
        (theta / np.pi + 0.5) * (texture_width - 1),
        np.clip(t, 0, 1) * (texture_height - 1),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    facing_up = np.clip(slope[index] * 0.35, -0.3, 0.3)
    shade = light.ambient + (1.08 - light.ambient) * np.clip(np.cos(theta - light.angle), 0, 1) + facing_up
    streak = light.gloss * np.exp(-(((u - np.sin(light.angle) * 0.8) / 0.13) ** 2))
    rgb = texture[..., :3] * shade[..., None] + streak[..., None]
    rim = (x / (table[0] + 1e-3)) ** 2 + ((y * height) / (pitch * table[0] + 1e-3)) ** 2
    cover = np.clip((1 - np.sqrt(rim)) * pitch * table[0] + 0.5, 0, 1) * (rim < 1.6)
    lid_shade = 0.95 + 0.25 * (x / half_width) * np.sin(light.angle) - 0.18 * (rim > 0.72)
    rgb = rgb * (1 - cover[..., None]) + lid * (lid_shade * cover)[..., None]
    mask = np.maximum(side, cover).astype(np.float32)
    opacity = np.maximum(texture[..., 3] * side, cover).astype(np.float32)
    return Sprite(np.clip(rgb, 0, 1).astype(np.float32), opacity, mask)


def draw_faces(faces: list[tuple[Floats, Floats, float]]) -> Sprite:
    """Draw textured parallelograms back to front: (corners_xy 4x2 from top left clockwise, texture RGB, brightness)."""
    corners = np.concatenate([corners for corners, _, _ in faces])
    low = corners.min(axis=0) - MARGIN
    width, height = (np.ceil(corners.max(axis=0)) - low + MARGIN).astype(int).tolist()
    rgb = np.zeros((height, width, 3), np.float32)
    mask = np.zeros((height, width), np.float32)
    for face, texture, brightness in faces:
        placed = (face - low).astype(np.float32)
        rows, columns = texture.shape[:2]
        source = np.array([[0, 0], [columns, 0], [0, rows]], np.float32)
        warp = cv2.getAffineTransform(source, placed[[0, 1, 3]])
        image = cv2.warpAffine(texture, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cover = np.zeros((height, width), np.uint8)
        cv2.fillPoly(cover, [np.round(placed * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        alpha = cover.astype(np.float32) / 255
        rgb += (np.clip(image * brightness, 0, 1) - rgb) * alpha[..., None]
        mask = np.maximum(mask, alpha)
    return Sprite(rgb, mask, mask)


def draw_ball(radius: int, colour: Colour, squash: float, light: Light, mottled: Floats | None = None) -> Sprite:
    """A ball or egg; `squash` is height over width, `mottled` a brightness texture of its box."""
    half_height = max(2, int(radius * squash))
    y = (np.arange(2 * (half_height + MARGIN), dtype=np.float32)[:, None] + 0.5 - half_height - MARGIN) / half_height
    x = (np.arange(2 * (radius + MARGIN), dtype=np.float32)[None, :] + 0.5 - radius - MARGIN) / radius
    distance = np.sqrt(x**2 + y**2)
    z = np.sqrt(np.clip(1 - distance**2, 0, 1))
    lit = np.clip(0.7 * np.sin(light.angle) * x - 0.55 * y + 0.65 * z, 0, 1)
    shade = light.ambient + (1.15 - light.ambient) * lit
    spot = light.gloss * 1.2 * np.exp(-(((x - 0.45 * np.sin(light.angle)) ** 2 + (y + 0.45) ** 2) / 0.03))
    mask = np.clip((1 - distance) * min(radius, half_height) + 0.5, 0, 1).astype(np.float32)
    if mottled is not None:
        shade = shade * cv2.resize(mottled, mask.shape[::-1])
    rgb = np.clip(colour * shade[..., None] + spot[..., None], 0, 1).astype(np.float32)
    return Sprite(rgb, mask, mask)
