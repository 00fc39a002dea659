"""The placement of an image in a detector's input, and the mapping of boxes between the two.

Two rules: yolov5's letterbox (a square canvas, the image in its middle, grey around it) and the R-CNN family's
resize (shorter side to `min_size`, unless the longer one would exceed `max_size`; no canvas around it).

Shapes in names: N boxes, 4 their sides (left, top, right, bottom in pixels), H height, W width, C colour channel.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.vision.boxes import clip_boxes

__all__ = ["GREY", "Placement", "letterbox", "place", "shorter_side"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

GREY: Final = 114
"""Level of the canvas around a letterboxed image, all three channels, as in Azure's ONNX sample client."""


@dataclass(frozen=True, slots=True)
class Placement:
    """An image of `height` x `width`, resized to the `inner` size, lies at (`left`, `top`) of a canvas. Pixels."""

    height: int
    width: int
    inner_height: int
    inner_width: int
    left: int
    top: int
    canvas_height: int
    canvas_width: int

    def to_canvas(self, boxes_xyxy_N4: Floats) -> Floats:
        """Boxes of the image as boxes of the network's input."""
        scaled: Floats = boxes_xyxy_N4 * self._scales(boxes_xyxy_N4) + self._offsets(boxes_xyxy_N4)
        return scaled

    def to_image(self, boxes_xyxy_N4: Floats) -> Floats:
        """Boxes of the network's input as boxes of the image, clipped to it."""
        inner = clip_boxes(boxes_xyxy_N4 - self._offsets(boxes_xyxy_N4), self.inner_height, self.inner_width)
        # By rounding, the right or bottom border may lie slightly outside the image.
        return clip_boxes(inner / self._scales(boxes_xyxy_N4), self.height, self.width)

    def _scales(self, like: Floats) -> Floats:
        x, y = self.inner_width / self.width, self.inner_height / self.height
        return np.array([x, y, x, y], like.dtype)

    def _offsets(self, like: Floats) -> Floats:
        return np.array([self.left, self.top, self.left, self.top], like.dtype)


def letterbox(height: int, width: int, size: int) -> Placement:
    """Place an image in the middle of a `size` x `size` canvas; it is never enlarged.

    Sides are rounded half to even (Python's `round`); of an odd number of grey rows or columns the right and the
    bottom get one more, as in Azure's ONNX sample client.
    """
    ratio = min(size / height, size / width, 1.0)
    inner_height, inner_width = max(round(height * ratio), 1), max(round(width * ratio), 1)
    top, left = round((size - inner_height) / 2 - 0.1), round((size - inner_width) / 2 - 0.1)
    return Placement(height, width, inner_height, inner_width, left, top, size, size)


def shorter_side(height: int, width: int, min_size: int, max_size: int) -> Placement:
    """Resize the shorter side to `min_size`, or the longer one to `max_size` where that gives the smaller image.

    Both sides are rounded half to even (Python's `round`); torchvision's own transform cuts the fraction off, so that
    a side may be one pixel longer here. Small images are enlarged.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    inner_height, inner_width = max(round(height * scale), 1), max(round(width * scale), 1)
    return Placement(height, width, inner_height, inner_width, 0, 0, inner_height, inner_width)


def place(image_HWC: Bytes, placement: Placement) -> Bytes:
    """Resize an image (bilinear, not antialiased, as in training of published detectors) onto its canvas.

    uint8 in and out. An image that needs neither resize nor canvas is returned as it is.
    """
    if image_HWC.shape[:2] != (placement.height, placement.width):
        came = f"{image_HWC.shape[0]} x {image_HWC.shape[1]}"
        raise ValueError(f"the picture must be {placement.height} x {placement.width}, but is {came}")
    inner_wh = (placement.inner_width, placement.inner_height)
    inner_HWC = image_HWC
    if inner_wh != (placement.width, placement.height):
        inner_HWC = np.asarray(cv2.resize(image_HWC, inner_wh, interpolation=cv2.INTER_LINEAR), np.uint8)
    if (placement.canvas_width, placement.canvas_height) == inner_wh:
        return inner_HWC
    canvas_HWC = np.full((placement.canvas_height, placement.canvas_width, image_HWC.shape[2]), GREY, np.uint8)
    rows = slice(placement.top, placement.top + placement.inner_height)
    columns = slice(placement.left, placement.left + placement.inner_width)
    canvas_HWC[rows, columns] = inner_HWC
    return canvas_HWC
