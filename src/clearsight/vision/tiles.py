"""Tiling: an image is scored whole and once more in overlapping tiles, for objects that are small in it.

Azure documents the grid, the overlap and the merging rule (`how-to-use-automl-small-object-detect`); the method is
Unel, Ozkalayci, Cigla, "The Power of Tiling for Small Object Detection", CVPR Workshops 2019.

Sources are numbered: 0 is the whole image, i the tile i - 1. Shapes in names: N candidates of all sources, K kept
ones, 4 sides of a box (left, top, right, bottom in pixels of the whole image), H height, W width, C colour channel.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.vision.boxes import box_areas, clip_boxes, has_area, iou_matrix, shift_boxes
from clearsight.vision.masks import CroppedMask
from clearsight.vision.nms import batched_nms
from clearsight.vision.rle import Runs, runs_iou, to_runs

__all__ = ["Tile", "boxes_in_tile", "is_cut_off", "merge_boxes", "merge_masks", "tile_grid"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]

_SMALLEST_TILE_PX: Final = 8
_SHARE_INSIDE: Final = 0.5
_SHARE_COVERED: Final = 0.6

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the image, pixels."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, image_HWC: Bytes) -> Bytes:
        """The image's pixels in this tile, as a view."""
        return image_HWC[self.top : self.top + self.height, self.left : self.left + self.width]


def tile_grid(height: int, width: int, columns: int, rows: int, overlap_ratio: float = 0.25) -> tuple[Tile, ...]:
    """Equal tiles that cover the image, row by row; neighbours overlap by `overlap_ratio` of a tile.

    Azure's `tile_grid_size: 'AxB'` has A columns and B rows. A 1 x 1 grid gives no tiles, since the whole image is
    scored anyway. Neither does a grid too fine for the image (tiles under 8 pixels, or two at one position); a warning
    is logged then. Overlap in [0, 1).
    """
    if columns < 1 or rows < 1 or not 0 <= overlap_ratio < 1:
        came = f"{columns} x {rows} and {overlap_ratio}"
        raise ValueError(f"a grid must have columns and rows and an overlap in [0, 1), but got {came}")
    if columns == rows == 1:
        return ()
    tile_width, lefts = _along(width, columns, overlap_ratio)
    tile_height, tops = _along(height, rows, overlap_ratio)
    if min(tile_width, tile_height) < _SMALLEST_TILE_PX or len({*lefts}) < columns or len({*tops}) < rows:
        log.warning("an image of %dx%d is too small for %dx%d tiles: scored whole only", width, height, columns, rows)
        return ()
    return tuple(Tile(left, top, tile_width, tile_height) for top in tops for left in lefts)


def _along(length: int, count: int, overlap_ratio: float) -> tuple[int, list[int]]:
    """Side of the tiles along one axis, and where they start."""
    if count == 1:
        return length, [0]
    # Exact: in floating point the ceiling of a whole number may be the next one.
    ratio = Fraction(str(float(overlap_ratio)))
    side = math.ceil(length / (count - (count - 1) * ratio))
    return side, [index * (length - side) // (count - 1) for index in range(count)]


def boxes_in_tile(boxes_xyxy_N4: Floats, tile: Tile) -> tuple[Indices, Floats]:
    """Training: indices of the boxes with at least half their area in the tile, and (K, 4) their part in its pixels."""
    inside_N4 = clip_boxes(shift_boxes(boxes_xyxy_N4, -tile.left, -tile.top), tile.height, tile.width)
    belongs_N = has_area(inside_N4) & (box_areas(inside_N4) >= _SHARE_INSIDE * box_areas(boxes_xyxy_N4))
    return np.flatnonzero(belongs_N), inside_N4[belongs_N]


def merge_boxes(
    boxes_xyxy_N4: Floats,
    scores_N: Floats,
    class_ids_N: Integers,
    sources_N: Integers,
    iou_threshold: float,
    max_detections: int,
) -> Indices:
    """Indices of the candidates that stay, by descending score, at most `max_detections`.

    In each class a box is removed when its IoU with a better one that stays is greater than `iou_threshold` (Azure's
    `tile_predictions_nms_thresh`). Better: higher score, then larger area, then the earlier source.
    """
    order = _best_first(boxes_xyxy_N4, scores_N, sources_N)
    kept = batched_nms(boxes_xyxy_N4[order], scores_N[order], class_ids_N[order], iou_threshold, max_detections)
    return order[kept]


def merge_masks(
    boxes_xyxy_N4: Floats,
    scores_N: Floats,
    class_ids_N: Integers,
    sources_N: Integers,
    mask_of: Callable[[int], CroppedMask],
    image_height: int,
    iou_threshold: float,
    max_detections: int,
) -> Indices:
    """`merge_boxes` by the IoU of masks: two objects whose boxes overlap but whose masks do not both stay.

    `mask_of(index)` gives a candidate's mask in the whole image; it is called once for each candidate whose box
    overlaps a better one that stays, and for that one. One bitmap exists at a time; only a few numbers per column are
    kept for comparing, so that 100 instances across a 10 000 x 10 000 image take 16 MB.
    """
    runs: dict[int, Runs] = {}

    def runs_of(index: int) -> Runs:
        if index not in runs:
            runs[index] = to_runs(mask_of(index), image_height)
        return runs[index]

    kept_of_class: dict[int, list[int]] = {}
    kept: list[int] = []
    for index in _best_first(boxes_xyxy_N4, scores_N, sources_N).tolist():
        rivals = kept_of_class.setdefault(int(class_ids_N[index]), [])
        overlaps_K = iou_matrix(boxes_xyxy_N4[index][None], boxes_xyxy_N4[rivals])[0] > 0
        near = [rival for rival, overlaps in zip(rivals, overlaps_K, strict=True) if overlaps]
        if any(runs_iou(runs_of(index), runs_of(rival)) > iou_threshold for rival in near):
            del runs[index]
            continue
        rivals.append(index)
        kept.append(index)
        if len(kept) == max_detections:
            break
    return np.array(kept, np.int64)


def is_cut_off(
    boxes_xyxy_N4: Floats,
    class_ids_N: Integers,
    sources_N: Integers,
    tiles: Sequence[Tile],
    height: int,
    width: int,
    margin: float,
) -> npt.NDArray[np.bool_]:
    """(N,): whether a tile's box is a fragment of an object that another source shows better. Not in Azure.

    True when the box comes within `margin` pixels of a side of its tile that is not a side of the `height` x `width`
    image, and a box of the same class from another source, larger or not cut itself, covers at least 60 % of it.
    Azure's merging keeps strips narrower than `tile_predictions_nms_thresh` of the object; dropping these boxes before
    it removes them.
    """
    left, top, right, bottom = boxes_xyxy_N4.T
    at_border_N = np.zeros(len(boxes_xyxy_N4), np.bool_)
    for source, tile in enumerate(tiles, start=1):
        tile_right, tile_bottom = tile.left + tile.width, tile.top + tile.height
        at_border_N |= (sources_N == source) & (
            ((left - tile.left <= margin) & (tile.left > 0))
            | ((top - tile.top <= margin) & (tile.top > 0))
            | ((tile_right - right <= margin) & (tile_right < width))
            | ((tile_bottom - bottom <= margin) & (tile_bottom < height))
        )
    areas_N = box_areas(boxes_xyxy_N4)
    is_cut_N = np.zeros_like(at_border_N)
    for index in np.flatnonzero(at_border_N):
        others_N = (class_ids_N == class_ids_N[index]) & (sources_N != sources_N[index])
        others_N &= ~at_border_N | (areas_N > areas_N[index])
        shared = _inside(boxes_xyxy_N4[others_N], boxes_xyxy_N4[index])
        is_cut_N[index] = (box_areas(shared) >= _SHARE_COVERED * areas_N[index]).any()
    return is_cut_N


def _inside(boxes_xyxy_N4: Floats, box_xyxy_4: Floats) -> Floats:
    """The part of each box inside another one; right < left or bottom < top where there is none."""
    corners = np.maximum(boxes_xyxy_N4[:, :2], box_xyxy_4[:2]), np.minimum(boxes_xyxy_N4[:, 2:], box_xyxy_4[2:])
    return np.concatenate(corners, axis=1)


def _best_first(boxes_xyxy_N4: Floats, scores_N: Floats, sources_N: Integers) -> Indices:
    return np.lexsort((sources_N, -box_areas(boxes_xyxy_N4), -scores_N))
