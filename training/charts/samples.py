"""Validation images with ground truth and predictions side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from clearsight.files import write_atomically
from clearsight.handlers.drawing.canvas import INK, PAPER
from clearsight.handlers.drawing.object_overlay import draw_objects
from clearsight.handlers.drawing.overlay import to_jpeg
from clearsight.training.detection.metrics import GroundTruth, Predictions, Rle
from clearsight.vision.masks import CroppedMask
from clearsight.vision.polygons import mask_to_polygons
from clearsight.vision.rle import decode_rle
from clearsight.wire.answers import DetectedObject, DetectionAnswer

__all__ = ["MAX_SAMPLES", "draw_sample", "write_samples"]

MAX_SAMPLES: Final = 8

_GAP: Final = 12  # pixels between the two halves
_WIDE: Final = 2.0  # width over height from which the halves stand one above the other

Sample = tuple[npt.NDArray[np.uint8], GroundTruth, Predictions]
"""Upright image RGB (H, W, 3), and its ground truth and predictions in its pixels."""


def write_samples(folder: Path, images: Sequence[Sample], classes: Sequence[str]) -> list[Path]:
    """Write `samples/0.jpg` and so on, of the first 8 images at most, into a folder; return the files.

    All given predictions are drawn, so callers leave out those below the score threshold.
    """
    files = []
    for number, (image_HWC, truth, detections) in enumerate(images[:MAX_SAMPLES]):
        file = folder / "samples" / f"{number}.jpg"
        write_atomically(file, to_jpeg(draw_sample(image_HWC, truth, detections, classes)))
        files.append(file)
    return files


def draw_sample(
    image_HWC: npt.NDArray[np.uint8], truth: GroundTruth, detections: Predictions, classes: Sequence[str]
) -> Image.Image:
    """The truth to the left of the predictions, or above them when the image is wide; colours as in overlays."""
    height, width = image_HWC.shape[:2]
    names = [f"{classes[k]} (crowd)" if crowd else classes[k] for k, crowd in _pairs(truth)]
    true = _objects(truth, names, [1.0] * len(names), height, width)
    order = np.argsort(-detections.scores_N, kind="stable")
    scores = detections.scores_N.tolist()
    found = _objects(detections, [classes[k] for k in detections.class_ids_N.tolist()], scores, height, width)
    halves = [
        _titled(draw_objects(image_HWC, DetectionAnswer(true), classes, has_scores=False), f"truth: {len(true)}"),
        _titled(
            draw_objects(image_HWC, DetectionAnswer(tuple(found[k] for k in order)), classes), f"found: {len(found)}"
        ),
    ]
    wide, high = halves[0].size
    shift = (0, high + _GAP) if wide > _WIDE * high else (wide + _GAP, 0)
    size_wh = wide + shift[0], max(high, halves[1].height + shift[1])  # a legend may make either one higher
    sheet = Image.new("RGB", size_wh, PAPER)
    sheet.paste(halves[0], (0, 0))
    sheet.paste(halves[1], shift)
    return sheet


def _pairs(truth: GroundTruth) -> list[tuple[int, bool]]:
    return list(zip(truth.class_ids_N.tolist(), truth.is_crowd_N.tolist(), strict=True))


def _objects(
    objects: Predictions | GroundTruth, names: Sequence[str], scores: Sequence[float], height: int, width: int
) -> tuple[DetectedObject, ...]:
    units_N4 = np.clip(objects.boxes_xyxy_N4 / [width, height, width, height], 0, 1).tolist()
    polygons = [None] * len(names) if objects.masks_N is None else [_polygon(mask) for mask in objects.masks_N]
    return tuple(
        DetectedObject((left, top, right, bottom), name, score, polygon)
        for (left, top, right, bottom), name, score, polygon in zip(units_N4, names, scores, polygons, strict=True)
    )


def _polygon(mask: Rle) -> tuple[tuple[float, ...], ...]:
    height, width = mask["size"]
    bitmap = CroppedMask(0, 0, decode_rle(mask["counts"], height, width))
    return tuple(tuple(part) for part in mask_to_polygons(bitmap, height, width))


def _titled(canvas: Image.Image, title: str) -> Image.Image:
    """The canvas below a line of text."""
    size = max(15, max(canvas.size) // 60)
    titled = Image.new("RGB", (canvas.width, canvas.height + 2 * size), PAPER)
    titled.paste(canvas, (0, 2 * size))
    ImageDraw.Draw(titled).text((size // 2, size), title, INK, ImageFont.load_default(size), anchor="lm")
    return titled
