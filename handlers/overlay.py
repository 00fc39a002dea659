"""A picture with its answer underneath, legible at any size."""

import io
import unicodedata
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from clearsight.wire import ClassificationAnswer

__all__ = ["draw_overlay", "to_jpeg"]

_MIN_WIDTH: Final = 360  # of the canvas, pixels: room for a label, a bar and a number
_MIN_LONGER_SIDE: Final = 256  # smaller pictures are enlarged to this, by whole pixels
_MAX_SIDE: Final = 2048  # larger pictures are shrunk to this
_MAX_ROWS: Final = 5
_PAPER, _INK, _BAR, _TRACK = (255, 255, 255), (20, 20, 20), (0, 102, 170), (225, 230, 235)


def draw_overlay(image_HWC: npt.NDArray[np.uint8], answer: ClassificationAnswer) -> Image.Image:
    """Draw the classes with the highest scores (five at most) as bars below the picture.

    The picture is enlarged or shrunk so that its longer side lies in [256, 2048] pixels; the text grows with it.
    """
    picture = _fit(Image.fromarray(image_HWC))
    width = max(picture.width, _MIN_WIDTH)
    text_size = max(16, width // 32)
    line, margin = round(text_size * 1.7), text_size // 2
    order = sorted(range(len(answer.probs)), key=lambda index: -answer.probs[index])[:_MAX_ROWS]
    canvas = Image.new("RGB", (width, picture.height + line * len(order) + 2 * margin), _PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(text_size)
    label_stop, bar_stop = width // 2, width - margin - round(pen.textlength("0.0000", font))
    for row, index in enumerate(order):
        top = picture.height + margin + row * line
        middle = top + line // 2
        label = _shorten(pen, answer.labels[index], font, label_stop - 2 * margin)
        pen.text((margin, middle), label, _INK, font, anchor="lm")
        bar_top, bar_bottom = middle - text_size // 3, middle + text_size // 3
        pen.rectangle((label_stop, bar_top, bar_stop - margin, bar_bottom), _TRACK)
        filled = round((bar_stop - margin - label_stop) * answer.probs[index])
        if filled:
            pen.rectangle((label_stop, bar_top, label_stop + filled, bar_bottom), _BAR)
        pen.text((width - margin, middle), f"{answer.probs[index]:.3f}", _INK, font, anchor="rm")
    return canvas


def to_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _fit(picture: Image.Image) -> Image.Image:
    longer = max(picture.size)
    if longer > _MAX_SIDE:
        scale = _MAX_SIDE / longer
        size_wh = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if longer < _MIN_LONGER_SIDE:
        factor = -(-_MIN_LONGER_SIDE // longer)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture


def _shorten(
    pen: ImageDraw.ImageDraw, label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float
) -> str:
    """Cut a label to the room it has; an ellipsis shows that it was cut. Line breaks become spaces.

    Pillow's built-in font has ASCII only: accents are left off, other characters become question marks.
    """
    label = " ".join(label.split())[:200]
    if not label.isascii():
        bare = "".join(char for char in unicodedata.normalize("NFKD", label) if not unicodedata.combining(char))
        label = bare.encode("ascii", "replace").decode()
    if pen.textlength(label, font) <= room:
        return label
    while label and pen.textlength(f"{label}…", font) > room:
        label = label[:-1]
    return f"{label}…"
