"""An image with its answer, legible at any size."""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from clearsight.handlers.drawing.canvas import INK, PAPER, fit_image, shorten
from clearsight.handlers.drawing.object_overlay import draw_objects
from clearsight.wire.answers import Answer, ClassificationAnswer

__all__ = ["draw_overlay", "to_jpeg"]

_MIN_WIDTH: Final = 360  # of the canvas, pixels: for a label, a bar and a number
_MIN_LONGER_SIDE: Final = 256
_MAX_ROWS: Final = 5
_BAR, _TRACK = (0, 102, 170), (225, 230, 235)


def draw_overlay(
    image_HWC: npt.NDArray[np.uint8],
    answer: Answer,
    labels: tuple[str, ...] = (),
    score_threshold: float | None = None,
) -> Image.Image:
    """Draw an answer: bars of the five best classes below the image, or boxes, masks and scores on it.

    With the model's `labels` a class has the same colour in every image. The text grows with the image.
    `score_threshold` is that of the boxes, for the legend of many.
    """
    if isinstance(answer, ClassificationAnswer):
        return _draw_bars(image_HWC, answer)
    return draw_objects(image_HWC, answer, labels, score_threshold=score_threshold)


def _draw_bars(image_HWC: npt.NDArray[np.uint8], answer: ClassificationAnswer) -> Image.Image:
    image = fit_image(Image.fromarray(image_HWC), _MIN_LONGER_SIDE)
    width = max(image.width, _MIN_WIDTH)
    text_size = max(16, width // 32)
    line, margin = round(text_size * 1.7), text_size // 2
    order = sorted(range(len(answer.probs)), key=lambda index: -answer.probs[index])[:_MAX_ROWS]
    canvas = Image.new("RGB", (width, image.height + line * len(order) + 2 * margin), PAPER)
    canvas.paste(image, ((width - image.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(text_size)
    label_stop, bar_stop = width // 2, width - margin - round(pen.textlength("0.0000", font))
    for row, index in enumerate(order):
        top = image.height + margin + row * line
        middle = top + line // 2
        label = shorten(pen, answer.labels[index], font, label_stop - 2 * margin)
        pen.text((margin, middle), label, INK, font, anchor="lm")
        bar_top, bar_bottom = middle - text_size // 3, middle + text_size // 3
        pen.rectangle((label_stop, bar_top, bar_stop - margin, bar_bottom), _TRACK)
        filled = round((bar_stop - margin - label_stop) * answer.probs[index])
        if filled:
            pen.rectangle((label_stop, bar_top, label_stop + filled, bar_bottom), _BAR)
        pen.text((width - margin, middle), f"{answer.probs[index]:.3f}", INK, font, anchor="rm")
    return canvas


def to_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()
