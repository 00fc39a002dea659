"""The views of an image that a detector scores: the whole image, and overlapping tiles if the settings have them.

    views = views_of(height, width, settings)
    found = [view.find(candidates_of(view.network_input(image_HWC)), settings) for view in views]
    answer = to_answer(views, found, settings, labels)

All tiles have one size, so that they can be batched without padding; the whole image may have another. Candidates
of a view are reduced to at most `settings.max_detections` before the next one: memory is that of one network call, and
of the detections of all views. Azure tiles for detection only; here masks are merged too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clearsight.documents.settings import DetectorSettings
from clearsight.handlers.scoring.detection import Detections, find_objects, to_detection_answer
from clearsight.handlers.scoring.segmentation import image_mask, to_segmentation_answer
from clearsight.vision.candidates import Candidates
from clearsight.vision.letterbox import Placement, letterbox, place, shorter_side
from clearsight.vision.tiles import Tile, is_cut_off, merge_boxes, merge_masks, tile_grid
from clearsight.wire.answers import DetectionAnswer

__all__ = ["View", "merge_views", "placement_of", "to_answer", "views_of"]

Bytes = npt.NDArray[np.uint8]


def placement_of(height: int, width: int, settings: DetectorSettings) -> Placement:
    """Placement of an image in the network's input."""
    size = settings.input_size
    if size.is_square:
        return letterbox(height, width, size.longer)
    return shorter_side(height, width, size.shorter, size.longer)


@dataclass(frozen=True, slots=True)
class View:
    """A tile of the image, or the whole image, and its placement in the network's input."""

    tile: Tile
    placement: Placement

    @classmethod
    def of(cls, tile: Tile, settings: DetectorSettings) -> "View":
        return cls(tile, placement_of(tile.height, tile.width, settings))

    def network_input(self, image_HWC: Bytes) -> Bytes:
        """Cut the view from the whole image and place it: uint8 (H, W, 3) of the canvas's size."""
        return place(self.tile.cut(image_HWC), self.placement)

    def find(self, candidates: Candidates, settings: DetectorSettings) -> Detections:
        """Detections among the network's candidates for this view, in pixels of the whole image."""
        return find_objects(candidates, self.placement, settings).shifted(self.tile.left, self.tile.top)


def views_of(height: int, width: int, settings: DetectorSettings) -> tuple[View, ...]:
    """The whole image, then its tiles row by row."""
    tiles = [Tile(0, 0, width, height)]
    if settings.tile_grid_size is not None:
        tiles += tile_grid(height, width, *settings.tile_grid_size, settings.tile_overlap_ratio)
    return tuple(View.of(tile, settings) for tile in tiles)


def merge_views(views: Sequence[View], found: Sequence[Detections], settings: DetectorSettings) -> Detections:
    """Merge the detections of all views; of an object in several views the highest score stays.

    One view is returned as it is. Masks are compared by their own IoU, not by that of their boxes.
    """
    if len(views) == 1:
        return found[0]
    whole, *tiles = (view.tile for view in views)
    masks = [part.mask_probs_NMM for part in found if part.mask_probs_NMM is not None]
    sources_N = np.repeat(np.arange(len(found)), [len(part) for part in found])
    joined = Detections(
        np.concatenate([part.boxes_xyxy_N4 for part in found]),
        np.concatenate([part.scores_N for part in found]),
        np.concatenate([part.class_ids_N for part in found]),
        np.concatenate(masks) if masks else None,
        sources_N,
    )
    if settings.tile_border_margin is not None:
        is_rest_N = is_cut_off(
            joined.boxes_xyxy_N4,
            joined.class_ids_N,
            sources_N,
            tiles,
            whole.height,
            whole.width,
            settings.tile_border_margin,
        )
        joined, sources_N = joined.take(np.flatnonzero(~is_rest_N)), sources_N[~is_rest_N]
    compared = (joined.boxes_xyxy_N4, joined.scores_N, joined.class_ids_N, sources_N)
    limits = (settings.tile_predictions_nms_thresh, settings.max_detections)
    if settings.masks is None:
        return joined.take(merge_boxes(*compared, *limits))
    threshold = settings.masks.mask_pixel_score_threshold
    kept = merge_masks(
        *compared,
        lambda index: image_mask(joined, index, whole.height, whole.width, threshold),
        whole.height,
        *limits,
    )
    return joined.take(kept)


def to_answer(
    views: Sequence[View], found: Sequence[Detections], settings: DetectorSettings, labels: tuple[str, ...]
) -> DetectionAnswer:
    """Azure's answer for the image of the views."""
    merged, whole = merge_views(views, found, settings), views[0].tile
    if settings.masks is not None:
        return to_segmentation_answer(merged, whole.height, whole.width, labels, settings.masks)
    return to_detection_answer(merged, whole.height, whole.width, labels)
