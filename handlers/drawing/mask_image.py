"""Masks of an answer as one image of instance numbers: Azure's `export_as_image`, used by `clearsight predict`."""

import io
import logging
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from clearsight.documents.settings import ImageType, SegmentationSettings
from clearsight.vision.polygons import polygons_to_mask
from clearsight.vision.rle import decode_rle
from clearsight.wire.answers import DetectionAnswer

__all__ = ["MAX_INSTANCES", "encode_numbers", "file_type", "instance_numbers"]

MAX_INSTANCES: Final = 254

log = logging.getLogger(__name__)


def instance_numbers(answer: DetectionAnswer, height: int, width: int) -> npt.NDArray[np.uint8]:
    """(height, width): for each pixel the 1-based index in `boxes` of the object whose mask covers it; 0 for none.

    Where masks overlap the higher score wins. A mask comes from `rle` where the answer has it (setting `mask_rle`),
    else from the polygons: without holes, and as accurate as their number of points allows. Objects after the 254th
    are left out, and a warning is logged.
    """
    numbers_HW = np.zeros((height, width), np.uint8)
    if len(answer.boxes) > MAX_INSTANCES:
        log.warning("an answer has %d objects: masks after the first %d are left out", len(answer.boxes), MAX_INSTANCES)
    for number, detected in enumerate(answer.boxes[:MAX_INSTANCES], start=1):
        if detected.rle is not None:
            numbers_HW[decode_rle(detected.rle["counts"], height, width) & (numbers_HW == 0)] = number
        elif detected.polygon is not None:
            mask = polygons_to_mask(detected.polygon, height, width)
            rows, columns = mask.bitmap_HW.shape
            window_HW = numbers_HW[mask.top : mask.top + rows, mask.left : mask.left + columns]
            window_HW[mask.bitmap_HW & (window_HW == 0)] = number
    return numbers_HW


def file_type(settings: SegmentationSettings) -> ImageType:
    """The type in the settings; PNG instead of JPG, whose compression changes numbers, unless that is allowed."""
    return "PNG" if settings.image_type == "JPG" and not settings.mask_image_allow_lossy else settings.image_type


def encode_numbers(numbers_HW: npt.NDArray[np.uint8], kind: ImageType) -> bytes:
    """The file: 8 bits, one channel."""
    stream = io.BytesIO()
    Image.fromarray(numbers_HW).save(stream, "JPEG" if kind == "JPG" else kind)
    return stream.getvalue()
