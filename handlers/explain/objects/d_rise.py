"""D-RISE (arXiv 2006.03204): mask random parts of the image and compare the detections. No derivative is needed.

Shapes in names: J masks, K explained objects, N detections in a masked image, H height, W width, 4 sides of a box.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clearsight.handlers.explain.algorithms.rise import random_masks
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import DEFAULT_CHUNK, in_chunks
from clearsight.handlers.scoring.detection import Detections
from clearsight.vision.boxes import iou_matrix

__all__ = ["DRiseResult", "Detect", "d_rise", "similarity"]

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]

Detect = Callable[[Sequence[Floats]], Iterable[Detections]]
"""Detections in the image under each of the masks (H, W), in order; 1 leaves a pixel as it is, 0 masks it."""


@dataclass(frozen=True, slots=True)
class DRiseResult:
    """A map per object, float32, not negative: the mean similarity of detections over the masks that keep a pixel."""

    maps_KHW: npt.NDArray[np.float32]
    masks_used: int
    deadline_hit: bool


def d_rise(
    detect: Detect,
    boxes_xyxy_K4: Floats,
    class_ids_K: Indices,
    size: tuple[int, int],
    num_masks: int,
    grid_size: int,
    seed: int,
    deadline: Deadline,
    chunk: int = DEFAULT_CHUNK,
) -> DRiseResult:
    """Explain objects of one image, whose masks have `size` (height, width); the same masks serve all of them.

    map = (sum over j of w_j M_j) / (sum over j of M_j), where w_j is the similarity of the detections under mask j.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    sums_KHW = np.zeros((len(boxes_xyxy_K4), height, width))
    shown_HW = np.zeros((height, width))
    drawn: dict[int, npt.NDArray[np.float32]] = {}

    def work(start: int, stop: int) -> None:
        for index in range(start, stop):  # one by one, so that masks do not depend on the chunk size
            if index not in drawn:
                drawn[index] = random_masks(1, grid_size, height, width, generator)[0].numpy()
        masks = [drawn[index] for index in range(start, stop)]
        weights_JK = [similarity(found, boxes_xyxy_K4, class_ids_K) for found in detect(masks)]
        for weights_K, mask_HW in zip(weights_JK, masks, strict=True):
            for k in np.flatnonzero(weights_K):
                sums_KHW[k] += weights_K[k] * mask_HW
            shown_HW[...] += mask_HW
        for index in range(start, stop):
            del drawn[index]

    done = in_chunks(work, num_masks, deadline, chunk)
    maps_KHW = (sums_KHW / np.maximum(shown_HW, 1e-9)).astype(np.float32)
    return DRiseResult(maps_KHW, done, done < num_masks)


def similarity(found: Detections, boxes_xyxy_K4: Floats, class_ids_K: Indices) -> npt.NDArray[np.float64]:
    """The largest similarity of a detection to each object, (K,) in [0, 1]: IoU times score, if the class is the same.

    The paper multiplies the IoU by the cosine between the probabilities of all classes and, of detectors that have
    one, by the objectness. Served detections have only a class and a score. So the cosine here is that of
    one-hot vectors, 1 for the same class and 0 for another, and the score takes the place of the objectness: it is the
    objectness times the probability of the class (yolov5), or the probability of the class (the others). A falling
    score lowers the similarity continuously, a changed class sets it to 0.
    """
    if not len(found):
        return np.zeros(len(boxes_xyxy_K4))
    ious_KN = iou_matrix(boxes_xyxy_K4.astype(np.float64), found.boxes_xyxy_N4.astype(np.float64))
    is_same_KN = class_ids_K[:, None] == found.class_ids_N[None, :]
    weights_K: npt.NDArray[np.float64] = (ious_KN * is_same_KN * found.scores_N.astype(np.float64)).max(axis=1)
    return weights_K
