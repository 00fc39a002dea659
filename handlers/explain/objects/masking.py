"""Objects of an image explained by covering parts of it, with the backend that serves: no eager copy is needed.

An object is looked for in the view that it was found in, the whole image or a tile; objects of one view share the
covered images.

Shapes in names: H height, W width, C colour channel, K explained objects.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.objects.d_rise import d_rise
from clearsight.handlers.explain.objects.heat import frame_size, paste
from clearsight.handlers.explain.objects.selection import by_view
from clearsight.handlers.explain.objects.views import ImageViews
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.handlers.explain.telemetry import checkpoint
from clearsight.handlers.scoring.detection import Detections
from clearsight.vision.letterbox import Placement
from clearsight.wire.answers import DetectedObject

__all__ = ["SCORE_THRESH", "Detect", "MaskedView", "explain_by_masking", "mask_image"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

SCORE_THRESH: Final = 0.01
"""Of boxes in covered images, where the package's own threshold is not lower: one that fades still counts."""

Detect = Callable[[Iterable[Bytes], Placement, float], Iterator[Detections]]
"""What the serving backend finds in canvases of one placement, from a score on: `Scorer.detect`."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskedView:
    """The maps of objects that were found in one view."""

    indices: tuple[int, ...]
    heats: tuple[npt.NDArray[np.float32], ...]
    """Of the whole image, one for each index."""
    masks_used: int


def explain_by_masking(
    detect: Detect,
    pictured: ImageViews,
    objects: Sequence[DetectedObject],
    chosen: Sequence[int],
    labels: Sequence[str],
    parameters: XaiParameters,
    deadline: Deadline,
    chunk: int,
) -> Iterator[MaskedView]:
    """Give the maps of the chosen objects, one view after the other; each gets an equal share of the time left.

    The view of the best object comes first; when the time is over after one, no other is given. Between two covered
    images is a checkpoint: a network that takes one at a time may take seconds for each.
    """
    groups = by_view(objects, chosen)
    for done, (number, indices) in enumerate(groups):
        if done and deadline.is_over():
            return
        view = pictured.views[number]
        canvas_HWC, placement = pictured.canvas(number), view.placement

        def run_detector(
            masks: Sequence[Floats], canvas_HWC: Bytes = canvas_HWC, placement: Placement = placement
        ) -> Iterator[Detections]:
            def covered() -> Iterator[Bytes]:
                for mask_HW in masks:
                    checkpoint()
                    yield mask_image(canvas_HWC, placement, mask_HW, pictured.mean)

            return detect(covered(), placement, SCORE_THRESH)

        found = d_rise(
            run_detector,
            np.concatenate([pictured.box_in_view(objects[index]) for index in indices]),
            np.array([labels.index(objects[index].label) for index in indices]),
            frame_size(placement),
            parameters.masks,
            parameters.grid_size,
            parameters.seed,
            deadline.share(len(groups) - done),
            chunk,
        )
        heats = tuple(paste(heat_HW, view.tile, pictured.whole.placement) for heat_HW in found.maps_KHW)
        yield MaskedView(indices, heats, found.masks_used)


def mask_image(canvas_HWC: Bytes, placement: Placement, mask_HW: Floats, mean: Sequence[float]) -> Bytes:
    """Cover the image on a canvas where a mask of any size is below 1; what is around the image stays.

    Covered parts take the mean colour of the package's settings, 0 after normalisation as in `rise`: black for
    yolov5. Levels are rounded to whole ones.
    """
    rows = slice(placement.top, placement.top + placement.inner_height)
    columns = slice(placement.left, placement.left + placement.inner_width)
    inner_wh = (placement.inner_width, placement.inner_height)
    if mask_HW.shape != inner_wh[::-1]:
        mask_HW = np.asarray(cv2.resize(mask_HW, inner_wh, interpolation=cv2.INTER_LINEAR), np.float32)
    fill_C = np.float32(255) * np.array(mean, np.float32)
    covered_HWC = canvas_HWC.copy()
    seen_HWC = canvas_HWC[rows, columns].astype(np.float32) - fill_C
    seen_HWC *= mask_HW[:, :, None]
    seen_HWC += fill_C
    covered_HWC[rows, columns] = np.rint(seen_HWC, out=seen_HWC).astype(np.uint8)
    return covered_HWC
