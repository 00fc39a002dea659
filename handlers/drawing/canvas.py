"""Common to all overlays: an image of a legible size, and text that fits."""

import unicodedata
from typing import Final

from PIL import Image, ImageDraw, ImageFont

__all__ = ["INK", "MAX_SIDE", "PAPER", "Font", "fit_image", "shorten"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MAX_SIDE: Final = 2048
"""Larger images are shrunk to this longer side, pixels."""

PAPER: Final = (255, 255, 255)
INK: Final = (20, 20, 20)


def fit_image(image: Image.Image, min_longer_side: int) -> Image.Image:
    """Shrink an image to `MAX_SIDE`, or enlarge it by whole pixels to at least `min_longer_side`."""
    longer = max(image.size)
    if longer > MAX_SIDE:
        scale = MAX_SIDE / longer
        size_wh = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if longer < min_longer_side:
        factor = -(-min_longer_side // longer)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image


def shorten(pen: ImageDraw.ImageDraw, label: str, font: Font, max_width: float) -> str:
    """Cut a label to `max_width` pixels; an ellipsis shows that it was cut. Line breaks become spaces.

    Pillow's built-in font has ASCII only: accents are left off, other characters become question marks.
    """
    label = " ".join(label.split())[:200]
    if not label.isascii():
        bare = "".join(char for char in unicodedata.normalize("NFKD", label) if not unicodedata.combining(char))
        label = bare.encode("ascii", "replace").decode()
    if pen.textlength(label, font) <= max_width:
        return label
    while label and pen.textlength(f"{label}…", font) > max_width:
        label = label[:-1]
    return f"{label}…"
