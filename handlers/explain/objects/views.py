"""The views of an image as input of the eager copy, and the small copy of the image that maps are drawn over.

Shapes in names: H height, W width, C colour channel or candidates, 4 sides of a box.
"""

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.documents.settings import DetectorSettings
from clearsight.handlers.explain.objects.heat import frame_size
from clearsight.handlers.explain.objects.network import DetectorForward
from clearsight.handlers.explain.objects.selection import Match, find_match
from clearsight.handlers.scoring.views import View, views_of
from clearsight.vision.boxes import shift_boxes, to_pixel_boxes
from clearsight.vision.preprocess import normalise
from clearsight.wire.answers import DetectedObject

__all__ = ["ImageViews"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class ImageViews:
    """A decoded image, and the views in which the serving backend detected its objects."""

    def __init__(self, image_HWC: Bytes, settings: DetectorSettings) -> None:
        self._image_HWC = image_HWC
        self._settings = settings
        self.mean = settings.mean
        self.views: tuple[View, ...] = views_of(image_HWC.shape[0], image_HWC.shape[1], settings)
        self.whole = self.views[0]
        self.size = frame_size(self.whole.placement)
        height, width = self.size
        kind = cv2.INTER_AREA if height < image_HWC.shape[0] else cv2.INTER_LINEAR
        small_HWC = image_HWC
        if image_HWC.shape[:2] != self.size:
            small_HWC = np.asarray(cv2.resize(image_HWC, (width, height), interpolation=kind), np.uint8)
        self.small_HWC: Bytes = small_HWC

    def canvas(self, view: int) -> Bytes:
        return self.views[view].network_input(self._image_HWC)

    def network_input(self, view: int) -> Floats:
        return normalise(self.canvas(view), self._settings.mean, self._settings.std)

    def box_in_view(self, target_object: DetectedObject) -> npt.NDArray[np.floating]:
        """The corners of an object in pixels of the view in which it was detected, (1, 4)."""
        tile = self.views[target_object.view].tile
        corners_14 = np.array(target_object.box_xyxy_unit, np.float64)[None]
        box_xyxy_14 = to_pixel_boxes(corners_14, self.whole.tile.height, self.whole.tile.width)
        return shift_boxes(box_xyxy_14, -tile.left, -tile.top)

    def match(self, target_object: DetectedObject, class_id: int, forward: DetectorForward) -> Match | None:
        """The candidate that corresponds to an object; boxes are compared in pixels of its view."""
        view = self.views[target_object.view]
        boxes_xyxy_C4, scores_C = forward.candidates(class_id)
        candidates_xyxy_C4 = view.placement.to_image(boxes_xyxy_C4.astype(np.float64))
        return find_match(self.box_in_view(target_object)[0], target_object.score, candidates_xyxy_C4, scores_C)
