"""The heat map of one detection (ODAM, arXiv 2304.06354): features weighted by their gradients.

Shapes in names: C features, u x v cells of a level, H height and W width of the map.
"""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from clearsight.handlers.explain.objects.network import Level
from clearsight.vision.letterbox import Placement
from clearsight.vision.tiles import Tile

__all__ = ["LONGEST_SIDE", "frame_size", "heat_of", "into_frame", "paste"]

Floats = npt.NDArray[np.float32]

LONGEST_SIDE: Final = 640
"""Longest side of a map in cells; larger inputs of the network get maps of this size."""

_SIGMA: Final = 1.1
"""Standard deviation in cells of the 5 x 5 Gaussian: OpenCV's choice for five taps, 0.3 * (2 - 1) + 0.8."""


def heat_of(levels: Sequence[Level], gradients: Sequence[torch.Tensor | None], height: int, width: int) -> Floats:
    """(height, width), the size of the network's input: the sum over levels of ReLU(sum over features of G * F).

    G are the gradients, smoothed by a 5 x 5 Gaussian; each level is enlarged bilinearly. Levels without a gradient are
    left out.
    """
    heat_HW = torch.zeros(height, width)
    for level, gradient_1Cuv in zip(levels, gradients, strict=True):
        if gradient_1Cuv is None or not gradient_1Cuv.any():
            continue
        cells_uv = _cells(level.features_1Cuv.detach()[0], gradient_1Cuv[0]).float().cpu()
        enlarged = functional.interpolate(cells_uv[None, None], scale_factor=level.stride, mode="bilinear")
        heat_HW += enlarged[0, 0, :height, :width]
    return heat_HW.numpy()


def _cells(features_Cuv: torch.Tensor, gradients_Cuv: torch.Tensor) -> torch.Tensor:
    """ReLU(sum over C of smoothed gradients times features), (u, v).

    Computed only where gradients are not 0, and two cells around: for a small object they are 0 nearly everywhere.
    """
    taps = torch.arange(-2.0, 3.0, device=gradients_Cuv.device)
    kernel = torch.exp(-(taps**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    is_any_uv = gradients_Cuv.any(dim=0)
    rows, columns = (torch.where(is_any_uv.any(dim=axis))[0] for axis in (1, 0))
    top, left = (max(int(indices[0]) - 2, 0) for indices in (rows, columns))
    part = slice(top, int(rows[-1]) + 3), slice(left, int(columns[-1]) + 3)
    weights = gradients_Cuv[:, *part][:, None]
    weights = functional.conv2d(weights, kernel.view(1, 1, 5, 1), padding=(2, 0))
    weights = functional.conv2d(weights, kernel.view(1, 1, 1, 5), padding=(0, 2))[:, 0]
    cells_uv = torch.zeros_like(gradients_Cuv[0])
    cells_uv[part] = (weights * features_Cuv[:, *part]).sum(dim=0).clamp(min=0)
    return cells_uv


def frame_size(whole: Placement) -> tuple[int, int]:
    """(height, width) of the maps of an image: its size in the network's input without padding, or smaller."""
    scale = min(LONGEST_SIDE / max(whole.inner_height, whole.inner_width), 1.0)
    return max(round(whole.inner_height * scale), 1), max(round(whole.inner_width * scale), 1)


def into_frame(heat_HW: Floats, placement: Placement, tile: Tile, whole: Placement) -> Floats:
    """The map of the image, of `frame_size(whole)`, from the map of a view, without the padding of the view."""
    rows = slice(placement.top, placement.top + placement.inner_height)
    columns = slice(placement.left, placement.left + placement.inner_width)
    return paste(np.ascontiguousarray(heat_HW[rows, columns]), tile, whole)


def paste(inner_HW: Floats, tile: Tile, whole: Placement) -> Floats:
    """The map of the image, of `frame_size(whole)`, from a map of a tile in any size: 0 around the tile."""
    height, width = frame_size(whole)
    top, bottom = (round(side * height / whole.height) for side in (tile.top, tile.top + tile.height))
    left, right = (round(side * width / whole.width) for side in (tile.left, tile.left + tile.width))
    top, left = min(top, height - 1), min(left, width - 1)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    frame_HW = np.zeros((height, width), np.float32)
    frame_HW[top:bottom, left:right] = _resize(inner_HW, bottom - top, right - left)
    return frame_HW


def _resize(heat_HW: Floats, height: int, width: int) -> Floats:
    if heat_HW.shape == (height, width):
        return heat_HW
    is_smaller = height < heat_HW.shape[0]
    kind = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(heat_HW, (width, height), interpolation=kind), np.float32)
