"""From 100 raw instance masks to the polygons of an answer at 1920x1080: inside the boxes, and by full-size masks.

The second way is the usual one with torchvision: `paste_masks_in_image`, a threshold, OpenCV's contours, and their
simplification to the same number of points. Raw masks are filtered noise with the outline of a rough disc, boxes have
the sizes of objects in photographs (square root of the area from 20 to 400 pixels, log-uniform). Both ways take turns
on one thread.
"""

import statistics
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from clearsight.vision.masks import CroppedMask, mask_iou, paste_mask
from clearsight.vision.polygons import mask_to_polygons, polygons_to_mask
from loadtests.benchmarks.timing import interleaved_medians_ms, one_thread

__all__ = ["InstanceMasksRow", "measure_instance_masks"]

HEIGHT, WIDTH = 1080, 1920
NUM_INSTANCES = 100
MAX_POINTS = 100
THRESHOLD = 0.5

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class InstanceMasksRow:
    """Medians in ms for all instances; the lowest and mean intersection over union of 100 instances."""

    image: str
    instances: int
    in_boxes_ms: float
    full_size_ms: float
    ratio: float
    mask_iou_min: float
    """IoU of the bitmaps in boxes with the pasted and thresholded full-size masks."""
    polygon_iou_mean: float
    """IoU of their filled polygons with those masks."""
    full_size_polygon_iou_mean: float
    """The same for the polygons of the full-size way."""


def measure_instance_masks(passes: int) -> list[InstanceMasksRow]:
    """Time both ways `passes` times; the first pass of each warms up and does not count."""
    probs_NMM, boxes_xyxy_N4 = draw_instances(np.random.default_rng(0))
    with one_thread():
        in_boxes_ms, full_size_ms = interleaved_medians_ms(
            [lambda: _in_boxes(probs_NMM, boxes_xyxy_N4), lambda: _full_size(probs_NMM, boxes_xyxy_N4)], passes
        )
        return [_compare(probs_NMM, boxes_xyxy_N4, in_boxes_ms, full_size_ms)]


def draw_instances(random: np.random.Generator) -> tuple[Floats, Floats]:
    """Probabilities (N, 28, 28) and boxes (N, 4) in pixels."""
    rows, columns = np.mgrid[-1:1:28j, -1:1:28j]
    probs, boxes = [], []
    for _ in range(NUM_INSTANCES):
        noise = cv2.GaussianBlur(random.normal(0, 1, (28, 28)), (0, 0), 2)
        probs.append(1 / (1 + np.exp(-8 * (0.85 - np.hypot(rows, columns) + 0.25 * noise / noise.std()))))
        side = np.exp(random.uniform(np.log(20), np.log(400)))
        aspect = np.exp(random.uniform(-0.5, 0.5))
        width, height = side * aspect, side / aspect
        left, top = random.uniform(0, WIDTH - width), random.uniform(0, HEIGHT - height)
        boxes.append((left, top, left + width, top + height))
    return np.array(probs, np.float32), np.array(boxes, np.float32)


def _in_boxes(probs_NMM: Floats, boxes_xyxy_N4: Floats) -> list[list[list[float]]]:
    return [
        mask_to_polygons(paste_mask(probs_MM, box, HEIGHT, WIDTH, THRESHOLD), HEIGHT, WIDTH, MAX_POINTS)
        for probs_MM, box in zip(probs_NMM, boxes_xyxy_N4, strict=True)
    ]


def _paste(probs_NMM: Floats, boxes_xyxy_N4: Floats) -> npt.NDArray[np.bool_]:
    pasted = paste_masks_in_image(
        torch.from_numpy(probs_NMM)[:, None], torch.from_numpy(boxes_xyxy_N4), (HEIGHT, WIDTH)
    )
    masks_NHW: npt.NDArray[np.bool_] = (pasted[:, 0] > THRESHOLD).numpy()
    return masks_NHW


def _full_size(probs_NMM: Floats, boxes_xyxy_N4: Floats) -> list[list[list[float]]]:
    return [_contours(mask_HW) for mask_HW in _paste(probs_NMM, boxes_xyxy_N4)]


def _contours(mask_HW: npt.NDArray[np.bool_]) -> list[list[float]]:
    """Polygons through the centres of the outermost pixels, as OpenCV gives them."""
    contours, _ = cv2.findContours(mask_HW.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        tolerance = 0.5
        while len(contour) > MAX_POINTS:
            contour = cv2.approxPolyDP(contour, tolerance, closed=True)
            tolerance *= 1.3
        if len(contour) >= 3:
            polygons.append((contour[:, 0] / (WIDTH, HEIGHT)).ravel().tolist())
    return polygons


def _compare(probs_NMM: Floats, boxes_xyxy_N4: Floats, in_boxes_ms: float, full_size_ms: float) -> InstanceMasksRow:
    masks, polygons, others = [], [], []
    for index, full_HW in enumerate(_paste(probs_NMM, boxes_xyxy_N4)):
        full = CroppedMask(0, 0, full_HW)
        mask = paste_mask(probs_NMM[index], boxes_xyxy_N4[index], HEIGHT, WIDTH, THRESHOLD)
        masks.append(mask_iou(mask, full))
        ours = mask_to_polygons(mask, HEIGHT, WIDTH, MAX_POINTS)
        polygons.append(mask_iou(polygons_to_mask(ours, HEIGHT, WIDTH), full))
        others.append(mask_iou(polygons_to_mask(_contours(full_HW), HEIGHT, WIDTH), full))
    return InstanceMasksRow(
        image=f"{WIDTH}x{HEIGHT}",
        instances=NUM_INSTANCES,
        in_boxes_ms=in_boxes_ms,
        full_size_ms=full_size_ms,
        ratio=full_size_ms / in_boxes_ms,
        mask_iou_min=min(masks),
        polygon_iou_mean=statistics.mean(polygons),
        full_size_polygon_iou_mean=statistics.mean(others),
    )
