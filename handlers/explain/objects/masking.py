"""Explains objects of an image by masking parts of it, with the serving backend: no eager copy is needed.

Detection runs on the view in which the object was detected, the whole image or a tile; objects of one view share the
masked images.

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
"""Score threshold in masked images, unless the package's own is lower: a box with a fading score still counts."""

Detect = Callable[[Iterable[Bytes], Placement, float], Iterator[Detections]]
"""Detections of the serving backend in canvases of one placement, above a score: `Scorer.detect`."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskedView:
    """The maps of the objects that were detected in one view."""

    indices: tuple[int, ...]
    heats: tuple[npt.NDArray[np.float32], ...]
    """Maps of the whole image, one per index."""
    masks_used: int


def explain_by_masking(
    detect: Detect,
    image_views: ImageViews,
    objects: Sequence[DetectedObject],
    chosen: Sequence[int],
    labels: Sequence[str],
    parameters: XaiParameters,
    deadline: Deadline,
    chunk: int,
) -> Iterator[MaskedView]:
    """Yield the maps of the chosen objects, one view after the other; each view gets an equal share of the time left.

    The view of the object with the highest score comes first; no view is begun after the deadline. There is a
    checkpoint before every masked image: a network that takes one image at a time may take seconds for each.
    """
    groups = by_view(objects, chosen)
    for done, (number, indices) in enumerate(groups):
        if done and deadline.is_over():
            return
        view = image_views.views[number]
        canvas_HWC, placement = image_views.canvas(number), view.placement

        def run_detector(
            masks: Sequence[Floats], canvas_HWC: Bytes = canvas_HWC, placement: Placement = placement
        ) -> Iterator[Detections]:
            def masked_images() -> Iterator[Bytes]:
                for mask_HW in masks:
                    checkpoint()
                    yield mask_image(canvas_HWC, placement, mask_HW, image_views.mean)

            return detect(masked_images(), placement, SCORE_THRESH)

        found = d_rise(
            run_detector,
            np.concatenate([image_views.box_in_view(objects[index]) for index in indices]),
            np.array([labels.index(objects[index].label) for index in indices]),
            frame_size(placement),
            parameters.masks,
            parameters.grid_size,
            parameters.seed,
            deadline.share(len(groups) - done),
            chunk,
        )
        heats = tuple(paste(heat_HW, view.tile, image_views.whole.placement) for heat_HW in found.maps_KHW)
        yield MaskedView(indices, heats, found.masks_used)


def mask_image(canvas_HWC: Bytes, placement: Placement, mask_HW: Floats, mean: Sequence[float]) -> Bytes:
    """Mask the image on a canvas where a mask of any size is below 1; the canvas around the image stays.

    Masked parts take the mean colour of the package's settings, 0 after normalisation as in `rise`: black for
    yolov5. Values are rounded to integers.
    """
    rows = slice(placement.top, placement.top + placement.inner_height)
    columns = slice(placement.left, placement.left + placement.inner_width)
    inner_wh = (placement.inner_width, placement.inner_height)
    if mask_HW.shape != inner_wh[::-1]:
        mask_HW = np.asarray(cv2.resize(mask_HW, inner_wh, interpolation=cv2.INTER_LINEAR), np.float32)
    fill_C = np.float32(255) * np.array(mean, np.float32)
    masked_HWC = canvas_HWC.copy()
    inner_HWC = canvas_HWC[rows, columns].astype(np.float32) - fill_C
    inner_HWC *= mask_HW[:, :, None]
    inner_HWC += fill_C
    masked_HWC[rows, columns] = np.rint(inner_HWC, out=inner_HWC).astype(np.uint8)
    return masked_HWC
