"""Instance masks, stored as the small rectangle of the image that contains them, never at full size.

Mask R-CNN gives each instance 28 x 28 probabilities in its box. At 1920x1080 with 100 instances, full-size masks are
829 MB of floats and seconds of work; the rectangles are a few MB and milliseconds.

Shapes in names: M side of the raw mask, 4 sides of a box (left, top, right, bottom in pixels), H height, W width.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["CroppedMask", "mask_iou", "paste_mask", "paste_probs"]

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_PADDING: Final = 1
"""Zeros around the raw mask, torchvision's `paste_masks_in_image`: without them outlines stop at the box."""

_LARGEST_FLOATS: Final = 1 << 22
"""Pixels of probabilities that exist at once when a mask is thresholded: 16 MiB."""


@dataclass(frozen=True, slots=True)
class CroppedMask:
    """The pixels of a mask inside a rectangle of the image; pixels outside it are not set."""

    left: int
    top: int
    bitmap_HW: Booleans

    @property
    def area(self) -> int:
        """Number of set pixels."""
        return int(np.count_nonzero(self.bitmap_HW))

    def shifted(self, left: int, top: int) -> "CroppedMask":
        """The same mask in a larger image, in which the image of this mask begins at (`left`, `top`)."""
        return CroppedMask(self.left + left, self.top + top, self.bitmap_HW)

    def to_full_size(self, height: int, width: int) -> Booleans:
        """(height, width): for drawing and writing files, never on the way to an answer."""
        full_HW = np.zeros((height, width), np.bool_)
        rows, columns = self.bitmap_HW.shape
        full_HW[self.top : self.top + rows, self.left : self.left + columns] = self.bitmap_HW
        return full_HW


def paste_mask(probs_MM: Floats, box_xyxy_4: Floats, height: int, width: int, threshold: float) -> CroppedMask:
    """The pixels whose probability is strictly greater than `threshold`, in an image of `height` x `width`.

    The geometry of `paste_probs`. Memory is that of the bitmap (one byte a pixel, at most the image's size) and
    16 MiB, so that a box as large as a 100-megapixel image can be pasted.
    """
    target = _Target.of(probs_MM.shape[0], box_xyxy_4, height, width)
    padded = _pad(probs_MM)
    if target.full_height * target.full_width <= _LARGEST_FLOATS:
        return CroppedMask(target.left, target.top, target.resize(padded) > threshold)
    rows, columns = target.row_weights(padded.shape[0]), target.column_weights(padded.shape[1])
    stripes = padded @ columns.T
    bitmap_HW = np.empty((len(rows), len(columns)), np.bool_)
    step = max(_LARGEST_FLOATS // max(len(columns), 1), 1)
    for start in range(0, len(rows), step):
        np.greater(rows[start : start + step] @ stripes, threshold, out=bitmap_HW[start : start + step])
    return CroppedMask(target.left, target.top, bitmap_HW)


def paste_probs(probs_MM: Floats, box_xyxy_4: Floats, height: int, width: int) -> tuple[tuple[int, int], Floats]:
    """((left, top), probabilities (H, W)) of the pixels that the mask can set, inside a `height` x `width` image.

    torchvision's geometry (`torchvision.models.detection.roi_heads.paste_masks_in_image`): a border of zeros, the box
    grown by (M + 2) / M around its middle, whole pixels towards zero, one pixel more to the right and the bottom,
    bilinear with pixel centres at halves. Values agree with torchvision's within 1e-5 (float32, other order of
    additions). The rectangle is empty when the box lies outside the image. The box must be finite (`ValueError`).
    """
    target = _Target.of(probs_MM.shape[0], box_xyxy_4, height, width)
    return (target.left, target.top), target.resize(_pad(probs_MM))


def mask_iou(mask: CroppedMask, other: CroppedMask) -> float:
    """Pixels that both masks set over pixels that either sets, in [0, 1]; 0 for two empty masks."""
    left, top = max(mask.left, other.left), max(mask.top, other.top)
    right = min(mask.left + mask.bitmap_HW.shape[1], other.left + other.bitmap_HW.shape[1])
    bottom = min(mask.top + mask.bitmap_HW.shape[0], other.top + other.bitmap_HW.shape[0])
    if left >= right or top >= bottom:
        return 0.0
    parts = (
        part.bitmap_HW[top - part.top : bottom - part.top, left - part.left : right - part.left]
        for part in (mask, other)
    )
    shared = int(np.count_nonzero(np.logical_and(*parts)))
    covered = mask.area + other.area - shared
    return shared / covered if covered else 0.0


@dataclass(frozen=True, slots=True)
class _Target:
    """The whole-pixel rectangle that a padded mask is stretched over, and the part of it inside the image."""

    full_left: int
    full_top: int
    full_height: int
    full_width: int
    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, side: int, box_xyxy_4: Floats, height: int, width: int) -> "_Target":
        # In float32 and in torchvision's order of operations: the integers below depend on the last bit.
        corners = np.asarray(box_xyxy_4, np.float32)
        middle, half = (corners[2:] + corners[:2]) * 0.5, (corners[2:] - corners[:2]) * 0.5
        half = half * ((side + 2 * _PADDING) / side)
        x0, y0 = (int(value) for value in middle - half)
        x1, y1 = (int(value) for value in middle + half)
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = max(min(x1 + 1, width), left), max(min(y1 + 1, height), top)
        return cls(x0, y0, max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1), left, top, right, bottom)

    def resize(self, padded: Floats) -> Floats:
        size_wh = (self.full_width, self.full_height)
        stretched = np.asarray(cv2.resize(padded, size_wh, interpolation=cv2.INTER_LINEAR), np.float32)
        rows = slice(self.top - self.full_top, self.bottom - self.full_top)
        return stretched[rows, self.left - self.full_left : self.right - self.full_left]

    def row_weights(self, side: int) -> Floats:
        return _weights(side, self.full_height, self.top - self.full_top, self.bottom - self.full_top)

    def column_weights(self, side: int) -> Floats:
        return _weights(side, self.full_width, self.left - self.full_left, self.right - self.full_left)


def _pad(probs_MM: Floats) -> Floats:
    # Ten times as fast as `numpy.pad`, which took a quarter of the time of a small mask.
    padded = np.zeros((probs_MM.shape[0] + 2 * _PADDING, probs_MM.shape[1] + 2 * _PADDING), np.float32)
    padded[_PADDING:-_PADDING, _PADDING:-_PADDING] = probs_MM
    return padded


def _weights(side: int, stretched: int, start: int, stop: int) -> Floats:
    """(stop - start, side): the share of each source pixel in the outputs from `start` to `stop` of `stretched`."""
    outputs = np.arange(start, stop)
    source = np.clip((outputs + 0.5) * (side / stretched) - 0.5, 0, side - 1)
    before = source.astype(np.int64)
    weights = np.zeros((len(outputs), side), np.float32)
    weights[outputs - start, before] = 1 - (source - before)
    weights[outputs - start, np.minimum(before + 1, side - 1)] += source - before
    return weights
