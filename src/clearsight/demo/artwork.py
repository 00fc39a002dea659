"""Printed artwork of a can, a carton or a label: a flat image that is later wrapped around the body."""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np

from clearsight.demo.palette import Bytes, Colour, Floats, any_colour, neutral, to_8bit, vivid

__all__ = ["draw_artwork"]

BRANDS: Final = (
    "NORDA",
    "Luma",
    "ZEST",
    "Hillside",
    "ALPINE",
    "Fresco",
    "OMI",
    "BOREAL",
    "Tavo",
    "KIRA",
    "Vale",
    "SOL",
)
FONTS: Final = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX)


def draw_artwork(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A printed surface of the given size in pixels, float32 RGB in [0, 1]."""
    ground = any_colour(rng)
    art = np.empty((height, width, 3), np.uint8)  # OpenCV smooths edges on 8-bit images only
    art[:] = to_8bit(ground)
    ink = _contrasting(rng, ground)
    for pattern in rng.permutation(len(PATTERNS))[: rng.choice(3, p=[0.3, 0.5, 0.2])]:
        # Colours close to the ground: prints with as much contrast as the outline would hide the shape of the class.
        tone = rng.uniform(0.25, 0.7)
        PATTERNS[pattern](rng, art, ground + (ink - ground) * np.float32(tone))
        ink = _contrasting(rng, ground)
    if rng.random() < 0.8:
        _logo(rng, art, ground)
    if rng.random() < 0.6:
        _fine_print(rng, art, _contrasting(rng, ground))
    return art.astype(np.float32) / np.float32(255)


def _fine_print(rng: np.random.Generator, art: Bytes, ink: Colour) -> None:
    """Rows of small strokes and perhaps a bar code, somewhere in the lower half."""
    height, width = art.shape[:2]
    left, top = int(width * rng.uniform(0.05, 0.6)), int(height * rng.uniform(0.55, 0.8))
    row = max(2, height // 45)
    for line in range(int(rng.integers(3, 7))):
        y = top + 2 * row * line
        right = left + int(width * rng.uniform(0.15, 0.32))
        cv2.line(art, (left, y), (right, y), to_8bit(ink), max(1, row // 2), cv2.LINE_AA)
    if rng.random() < 0.4:
        x = int(width * rng.uniform(0.1, 0.75))
        size = int(height * 0.1)
        cv2.rectangle(art, (x, top), (x + int(width * 0.2), top + size), (242, 242, 242), -1)
        for bar in range(9):
            offset = x + int(width * 0.02 * (bar + 0.7))
            cv2.line(art, (offset, top + 2), (offset, top + size - 2), (26, 26, 26), int(rng.integers(1, 3)))


def _bands(rng: np.random.Generator, art: Bytes, ink: Colour) -> None:
    height, width = art.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        y, thick = int(height * rng.random()), max(2, int(height * rng.uniform(0.02, 0.16)))
        cv2.rectangle(art, (0, y), (width, y + thick), to_8bit(ink), -1)


def _stripes(rng: np.random.Generator, art: Bytes, ink: Colour) -> None:
    height, width = art.shape[:2]
    step, slope = width * rng.uniform(0.12, 0.4), height * rng.uniform(-0.8, 0.8)
    for x in np.arange(-width, 2 * width, step):
        start, end = (int(x), int(height / 2 - slope)), (int(x + width * 0.5), int(height / 2 + slope))
        cv2.line(art, start, end, to_8bit(ink), max(2, int(step * rng.uniform(0.2, 0.45))), cv2.LINE_AA)


def _wave(rng: np.random.Generator, art: Bytes, ink: Colour) -> None:
    """A wavy lower (or upper) field."""
    height, width = art.shape[:2]
    x = np.linspace(0, width, 40)
    level = height * rng.uniform(0.35, 0.75)
    waves = np.sin(x / width * rng.uniform(4, 14) + rng.uniform(0, 6))
    y = level + height * rng.uniform(0.02, 0.1) * waves
    end = height if rng.random() < 0.7 else 0
    outline = np.stack([np.append(x, [width, 0]), np.append(y, [end, end])], axis=1)
    cv2.fillPoly(art, [outline.astype(np.int32)], to_8bit(ink), cv2.LINE_AA)


def _dots(rng: np.random.Generator, art: Bytes, ink: Colour) -> None:
    height, width = art.shape[:2]
    for _ in range(int(rng.integers(4, 14))):
        centre = (int(width * rng.random()), int(height * rng.random()))
        cv2.circle(art, centre, max(2, int(width * rng.uniform(0.03, 0.12))), to_8bit(ink), -1, cv2.LINE_AA)


def _burst(rng: np.random.Generator, art: Bytes, ink: Colour) -> None:
    """A sun: a disc with rays."""
    height, width = art.shape[:2]
    centre = np.array([width * rng.uniform(0.3, 0.7), height * rng.uniform(0.25, 0.75)])
    radius = width * rng.uniform(0.1, 0.2)
    for angle in np.arange(0, 2 * np.pi, 2 * np.pi / rng.integers(10, 19)):
        ray = np.array([np.cos(angle), np.sin(angle)])
        side = 0.22 * radius * np.array([-ray[1], ray[0]])
        tip = centre + radius * rng.uniform(1.7, 2.2) * ray
        cv2.fillPoly(art, [np.array([centre + side, tip, centre - side]).astype(np.int32)], to_8bit(ink), cv2.LINE_AA)
    cv2.circle(art, (int(centre[0]), int(centre[1])), int(radius), to_8bit(ink), -1, cv2.LINE_AA)


PATTERNS: Final[tuple[Callable[[np.random.Generator, Bytes, Colour], None], ...]] = (
    _bands,
    _stripes,
    _wave,
    _dots,
    _burst,
)


def _logo(rng: np.random.Generator, art: Bytes, ground: Colour) -> None:
    """A brand name, often on an oval or a plate, sometimes running upwards."""
    height, width = art.shape[:2]
    ink = _contrasting(rng, ground)
    centre = (int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.25, 0.6)))
    half = (int(width * rng.uniform(0.24, 0.36)), int(height * rng.uniform(0.07, 0.14)))
    if rng.random() < 0.6:
        plate = _contrasting(rng, ground)
        if rng.random() < 0.6:
            cv2.ellipse(art, centre, half, 0, 0, 360, to_8bit(plate), -1, cv2.LINE_AA)
        else:
            corner = (centre[0] - half[0], centre[1] - half[1])
            cv2.rectangle(art, corner, (centre[0] + half[0], centre[1] + half[1]), to_8bit(plate), -1)
        ink = _contrasting(rng, plate)
    word, font = BRANDS[rng.integers(len(BRANDS))], FONTS[rng.integers(len(FONTS))]
    (text_width, text_height), _ = cv2.getTextSize(word, font, 1, 2)
    scale = 1.7 * half[0] / text_width
    origin = (int(centre[0] - text_width * scale / 2), int(centre[1] + text_height * scale / 2))
    cv2.putText(art, word, origin, font, scale, to_8bit(ink), max(1, round(2.2 * scale)), cv2.LINE_AA)


def _contrasting(rng: np.random.Generator, ground: Colour) -> Colour:
    """A colour that can be distinguished from `ground`."""
    for _ in range(8):
        colour = vivid(rng) if rng.random() < 0.6 else neutral(rng)
        if abs(float(colour.mean() - ground.mean())) > 0.22:
            return colour
    return np.full(3, 0.95 if ground.mean() < 0.5 else 0.12, np.float32)
