"""Boxes, masks, labels and scores drawn on an image.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any kind of colour blindness
can tell apart; black is left out, since it is the edge of every line: a coloured line between dark ones is visible on
any background.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from clearsight.handlers.drawing.canvas import INK, PAPER, Font, fit_image, shorten
from clearsight.wire.answers import DetectedObject, DetectionAnswer

__all__ = ["draw_objects"]

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the canvas; the last two are outside."""

_COLOURS: Final[tuple[Colour, ...]] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
_TINTS: Final = ((0, 0.0), (0, 0.35), (255, 0.5))
"""For each cycle through the colours: the grey level mixed in, and its share."""

_MIN_LONGER_SIDE: Final = 640  # smaller images are enlarged: a label needs 100 pixels or more
_MIN_SHORTER_SIDE: Final = 64  # of the canvas: a strip of an image gets paper around it
_MANY: Final = 20  # objects, from which on long labels are cut to leave space for others
_CROWD: Final = 30  # objects, from which on lines are thin, and numbers stand for labels, which a legend explains
_MASK_OPACITY: Final = 110  # of 255: the object stays visible
_DARK: Final = 110  # luma below which a colour carries light text


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A detected object in pixels of the canvas."""

    box: Rectangle
    polygons: list[list[tuple[float, float]]]
    colour: Colour
    label: str
    score: str


def draw_objects(
    image_HWC: npt.NDArray[np.uint8],
    answer: DetectionAnswer,
    labels: Sequence[str] = (),
    has_scores: bool = True,
    score_threshold: float | None = None,
) -> Image.Image:
    """Draw an answer's boxes, and its masks where it has some, each with label and, unless it has none, score.

    The longer side of the image ends up in [640, 2048] pixels. Labels stay inside, and do not overlap as long as there
    is space; those of higher scores are placed first and lie on top. With the model's `labels`, a class has the same
    colour in every image. Of 30 objects and more each has a number, by descending score, and a legend below the image
    names the classes, with their numbers of objects, the score of every object and `score_threshold`.
    """
    image = fit_image(Image.fromarray(image_HWC), _MIN_LONGER_SIDE)
    size_wh = max(image.width, _MIN_SHORTER_SIDE), max(image.height, _MIN_SHORTER_SIDE)
    corner = (size_wh[0] - image.width) // 2, (size_wh[1] - image.height) // 2
    canvas = Image.new("RGB", size_wh, PAPER)
    canvas.paste(image, corner)
    colours = _colours_of([*labels, *(detected.label for detected in answer.boxes)])
    drawn = [_on_canvas(detected, corner, image.size, colours[detected.label], has_scores) for detected in answer.boxes]
    is_crowd = len(drawn) >= _CROWD
    line = max(1, max(size_wh) // 640) if is_crowd else max(2, max(size_wh) // 400)
    canvas = _with_masks(canvas, drawn)
    pen = ImageDraw.Draw(canvas)
    for item in reversed(drawn):
        for polygon in item.polygons:
            for colour, width in ((INK, line + 1), (item.colour, max(1, line // 2))):
                pen.line([*polygon, polygon[0]], colour, width)
        _draw_box(pen, item, line, has_inner_edge=not is_crowd)
    text_size = max(15, max(size_wh) // 60)
    if not is_crowd:
        _draw_labels(pen, drawn, ImageFont.load_default(text_size), size_wh)
        return canvas
    _draw_numbers(pen, drawn, ImageFont.load_default(max(10, max(size_wh) // 100)), size_wh)
    return _with_legend(canvas, drawn, score_threshold, text_size)


def _colours_of(labels: Sequence[str]) -> dict[str, Colour]:
    """A colour per class: from the eighth class on darker, then paler ones; from the 22nd on they repeat."""
    colours: dict[str, Colour] = {}
    for label in dict.fromkeys(labels):
        cycle, index = divmod(len(colours), len(_COLOURS))
        level, share = _TINTS[cycle % len(_TINTS)]
        red, green, blue = (round((1 - share) * own + share * level) for own in _COLOURS[index])
        colours[label] = red, green, blue
    return colours


def _on_canvas(
    detected: DetectedObject, corner: tuple[int, int], size_wh: tuple[int, int], colour: Colour, has_score: bool
) -> _Drawn:
    def pixels(fractions: Sequence[float]) -> list[tuple[float, float]]:
        pairs = zip(fractions[::2], fractions[1::2], strict=True)
        return [(corner[0] + x * size_wh[0], corner[1] + y * size_wh[1]) for x, y in pairs]

    (left, top), (right, bottom) = pixels(detected.box_xyxy_unit)
    box = round(left), round(top), round(right), round(bottom)
    score = f"{detected.score:.2f}" if has_score else ""
    return _Drawn(box, [pixels(polygon) for polygon in detected.polygon or ()], colour, detected.label, score)


def _with_masks(canvas: Image.Image, drawn: Sequence[_Drawn]) -> Image.Image:
    if not any(item.polygons for item in drawn):
        return canvas
    layer = Image.new("RGBA", canvas.size)
    pen = ImageDraw.Draw(layer)
    for item in reversed(drawn):
        for polygon in item.polygons:
            pen.polygon(polygon, (*item.colour, _MASK_OPACITY))
    return Image.alpha_composite(canvas.convert("RGBA"), layer).convert("RGB")


def _draw_box(pen: ImageDraw.ImageDraw, item: _Drawn, line: int, has_inner_edge: bool) -> None:
    """A coloured frame inside a dark one, or between two, inside the box; of a tiny box only the outer ones fit."""
    left, top, right, bottom = item.box
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    edge = max(1, line // 2)
    inner = [(edge + line, edge, INK)] if has_inner_edge else []
    for inset, width, colour in ((0, edge, INK), *inner, (edge, line, item.colour)):
        if right - left > 2 * inset and bottom - top > 2 * inset:
            pen.rectangle((left + inset, top + inset, right - 1 - inset, bottom - 1 - inset), None, colour, width)


def _draw_labels(pen: ImageDraw.ImageDraw, drawn: Sequence[_Drawn], font: Font, size_wh: tuple[int, int]) -> None:
    placed: list[tuple[_Drawn, str, Rectangle]] = []
    padding = max(2, round(pen.textlength("0", font) / 3))
    ascent_to_descent = pen.textbbox((0, 0), "Ágjy|", font)
    height = min(round(ascent_to_descent[3] - ascent_to_descent[1]) + 2 * padding, size_wh[1])
    widest = size_wh[0] if len(drawn) <= _MANY else size_wh[0] // 6
    for item in drawn:
        max_width = widest - 2 * padding - pen.textlength(f" {item.score}", font)
        text = f"{shorten(pen, item.label, font, max_width)} {item.score}".strip()
        width = min(round(pen.textlength(text, font)) + 2 * padding, size_wh[0])
        position = _free_position(item.box, width, height, size_wh, [position for _, _, position in placed])
        placed.append((item, text, position))
    for item, text, (left, top, right, bottom) in reversed(placed):
        pen.rectangle((left, top, right - 1, bottom - 1), item.colour, INK)
        pen.text((left + padding, (top + bottom) / 2), text, _ink_on(item.colour), font, anchor="lm")


def _draw_numbers(pen: ImageDraw.ImageDraw, drawn: Sequence[_Drawn], font: Font, size_wh: tuple[int, int]) -> None:
    """The number of each object, from 1, in a tag as small as the number, where it covers other tags the least."""
    placed: list[Rectangle] = []
    for number, item in enumerate(drawn, start=1):
        _, top, right, bottom = pen.textbbox((0, 0), str(number), font)
        width, height = min(round(right) + 3, size_wh[0]), min(round(bottom - top) + 4, size_wh[1])
        placed.append(_free_position(item.box, width, height, size_wh, placed))
    for number, (item, (left, top, right, bottom)) in reversed([*enumerate(zip(drawn, placed, strict=True), start=1)]):
        pen.rectangle((left, top, right - 1, bottom - 1), item.colour)
        ink = _ink_on(item.colour)
        pen.text(((left + right) / 2, (top + bottom) / 2), str(number), ink, font, anchor="mm")


def _with_legend(
    canvas: Image.Image, drawn: Sequence[_Drawn], score_threshold: float | None, text_size: int
) -> Image.Image:
    """The canvas above a list of classes, and of the score of every number."""
    font, small = ImageFont.load_default(text_size), ImageFont.load_default(max(12, text_size * 4 // 5))
    line, margin = round(text_size * 1.5), text_size // 2
    title = f"{len(drawn)} objects, by descending score"
    if score_threshold is not None:
        title = f"{len(drawn)} objects with scores above {score_threshold:g}"
    counts = Counter((item.label, item.colour) for item in drawn)
    pen = ImageDraw.Draw(canvas)
    entries = [f"{number}: {item.score}" for number, item in enumerate(drawn, start=1)]
    has_scores = any(item.score for item in drawn)
    column = round(max(pen.textlength(entry, small) for entry in entries)) + 3 * margin
    num_columns = max(1, (canvas.width - margin) // column)
    num_rows = -(-len(entries) // num_columns) if has_scores else 0
    height = line * (1 + len(counts) + num_rows) + 2 * margin
    sheet = Image.new("RGB", (canvas.width, canvas.height + height), PAPER)
    sheet.paste(canvas, (0, 0))
    pen = ImageDraw.Draw(sheet)
    top = canvas.height + margin
    pen.text((margin, top + line / 2), shorten(pen, title, font, canvas.width - 2 * margin), INK, font, anchor="lm")
    for row, ((label, colour), count) in enumerate(counts.most_common(), start=1):
        middle = top + row * line + line // 2
        pen.rectangle((margin, middle - text_size // 2, margin + text_size, middle + text_size // 2), colour, INK)
        text = shorten(pen, label, font, canvas.width - 4 * margin - text_size - pen.textlength(f": {count}", font))
        pen.text((2 * margin + text_size, middle), f"{text}: {count}", INK, font, anchor="lm")
    top += line * (1 + len(counts))
    for index, (item, entry) in enumerate(zip(drawn, entries, strict=True) if has_scores else ()):
        left, middle = margin + index // num_rows * column, top + index % num_rows * line + line // 2
        pen.rectangle((left, middle - line // 3, left + margin // 2, middle + line // 3), item.colour)
        pen.text((left + margin, middle), entry, INK, small, anchor="lm")
    return sheet


def _ink_on(colour: Colour) -> Colour:
    """The colour of text that is legible on a colour."""
    return INK if np.dot(colour, (0.299, 0.587, 0.114)) > _DARK else PAPER


def _free_position(
    box: Rectangle, width: int, height: int, size_wh: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where a label covers others the least: above the box, below it, or inside; of equal positions the first."""
    left, top, right, bottom = box
    wanted = [
        (x, y)
        for y in (top - height, bottom, top, bottom - height)
        for x in (left, right - width, (left + right - width) // 2)
    ]
    # What would leave the canvas moves inside, which may cover another label after all.
    corners = [(min(max(x, 0), size_wh[0] - width), min(max(y, 0), size_wh[1] - height)) for x, y in wanted]
    positions = [(x, y, x + width, y + height) for x, y in corners]
    return min(positions, key=lambda position: sum(_shared(position, other) for other in taken))


def _shared(one: Rectangle, other: Rectangle) -> int:
    """Pixels that two rectangles both cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
