"""Colours of drawn items, as float RGB in [0, 1].

No class has colours of its own: classes differ by shape alone, except in images that are meant to be easy, where items
are `painted`.
"""

import colorsys

import numpy as np
import numpy.typing as npt

__all__ = [
    "Bytes",
    "Colour",
    "Floats",
    "any_colour",
    "metal",
    "neutral",
    "painted",
    "pale",
    "shaded",
    "to_8bit",
    "vivid",
]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Colour = npt.NDArray[np.float32]
"""Three float32 numbers."""


def vivid(rng: np.random.Generator) -> Colour:
    """A saturated packaging colour."""
    return _hsv(rng.random(), rng.uniform(0.55, 0.95), rng.uniform(0.4, 0.92))


def pale(rng: np.random.Generator) -> Colour:
    """A pastel."""
    return _hsv(rng.random(), rng.uniform(0.08, 0.35), rng.uniform(0.75, 0.96))


def neutral(rng: np.random.Generator) -> Colour:
    """White, grey or near black, with a trace of hue."""
    value = rng.choice(
        [rng.uniform(0.85, 0.97), rng.uniform(0.85, 0.97), rng.uniform(0.35, 0.8), rng.uniform(0.1, 0.25)]
    )
    return _hsv(rng.random(), rng.uniform(0.0, 0.08), value)


def metal(rng: np.random.Generator) -> Colour:
    """Bare aluminium or steel."""
    return _hsv(rng.uniform(0.52, 0.66), rng.uniform(0.0, 0.08), rng.uniform(0.68, 0.86))


def any_colour(rng: np.random.Generator) -> Colour:
    """The colour of a body, a label or a cap, whatever it belongs to."""
    kind = (vivid, pale, neutral)[rng.choice(3, p=[0.5, 0.2, 0.3])]
    return kind(rng)


def shaded(colour: Colour, factor: float) -> Colour:
    """Lighter (factor > 1) or darker, within [0, 1]."""
    product: Colour = np.clip(colour * factor, 0, 1).astype(np.float32)
    return product


def painted(rgb_HW3: Floats, colour: Colour) -> Floats:
    """An image in shades of one colour, with a trace of its own."""
    grey_HW1 = rgb_HW3.mean(axis=2, keepdims=True)
    mixed: Floats = (0.2 * rgb_HW3 + 0.8 * (0.3 + 0.7 * grey_HW1) * colour).astype(np.float32)
    return mixed


def to_8bit(colour: Colour) -> tuple[int, int, int]:
    """Three integers in [0, 255], as OpenCV's drawing functions take them."""
    red, green, blue = np.round(colour * 255).astype(int).tolist()
    return red, green, blue


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)
