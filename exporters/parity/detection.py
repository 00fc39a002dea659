"""Check that an exported graph of a detector finds the same objects as the network.

A graph of the R-CNN families is run with a score threshold of 0, so that every image has boxes to compare even with a
network that has learned little, and once with other limits, which shows that limits are inputs and not constants. A
graph of yolov5 gives all candidates in a fixed order, so that they are compared one by one.

Shapes in names: N images, C candidates, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]
from torchvision.models.detection.roi_heads import paste_masks_in_image  # type: ignore[import-untyped]

from clearsight.errors import ExportError
from clearsight.exporters.parity.answers import BOX_TOLERANCE_PX, Differences, GraphAnswer, compare_answers
from clearsight.networks.families.rcnn.batch import pad_together
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.selection import Found, SelectionLimits
from clearsight.networks.families.yolov5.decode import boxes_and_scores
from clearsight.networks.families.yolov5.network import Yolov5

__all__ = [
    "MASK_TOLERANCE",
    "SCORE_TOLERANCE",
    "WANTED_IMAGES",
    "RcnnGraph",
    "Round",
    "YoloGraph",
    "all_boxes",
    "check_rcnn",
    "check_yolov5",
    "other_limits",
]

Floats = npt.NDArray[np.float32]

SCORE_TOLERANCE: Final = 1e-3
"""Largest difference of a score relative to the largest score: also finds a broken graph whose scores are all low."""

MASK_TOLERANCE: Final = 1e-2
"""Largest difference of probability, averaged over the cells of each mask and over all masks."""

WANTED_IMAGES: Final = 4
"""Images to compare, where that many are given: each has a hundred boxes, or thousands of candidates."""

_LARGEST_SHARE_OF_TIES: Final = 0.1
_LARGEST_SHARE_OF_WRONG: Final = 0.01
"""A first-stage proposal that is suppressed by rounding changes a few boxes of the second stage: seen with full-size
networks, which have a thousand proposals."""

_MAX_BOXES: Final = 100
_MAX_MASKS: Final = 30
"""A mask takes 1 GFLOP, as much as fifty boxes."""


@dataclass(frozen=True, slots=True)
class RcnnGraph:
    """A graph to compare; `ask` runs it on a normalised image, (1, 3, H, W), within limits."""

    name: str
    runtime: str
    ask: Callable[[Floats, SelectionLimits], GraphAnswer]


@dataclass(frozen=True, slots=True)
class Round:
    """A normalised image, (1, 3, H, W), and the graphs and limits that it is run with."""

    image_1CHW: Floats
    limits: Sequence[SelectionLimits]
    graphs: Sequence[RcnnGraph]
    are_masks_pasted: bool = False
    """Whether these graphs give masks of the whole image instead of cells inside the box."""


def all_boxes(network: Detector, nms_iou_threshold: float) -> SelectionLimits:
    """Limits that keep boxes on every image: a score threshold of 0."""
    return SelectionLimits(0.0, nms_iou_threshold, _MAX_MASKS if network.has_masks else _MAX_BOXES)


def other_limits(network: Detector, image_1CHW: Floats, limits: SelectionLimits) -> SelectionLimits:
    """Limits that differ from the given ones in every value and keep a few boxes of the image."""
    scores_N = _Reference(network, image_1CHW).answer(limits, are_masks_pasted=False).scores_N
    middle = float(scores_N[len(scores_N) // 2]) if len(scores_N) else 0.0
    return SelectionLimits(middle, 0.3 if limits.nms_iou_threshold > 0.4 else 0.6, max(len(scores_N) // 3, 1))


def check_rcnn(network: Detector, rounds: Sequence[Round]) -> dict[str, Any]:
    """Compare graphs with the eager network. Returns the form of `manifest["parity"]`.

    Raises `ExportError` naming the first graph that disagrees.
    """
    _require_some(rounds)
    graphs = {graph.name: graph for asked in rounds for graph in asked.graphs}
    totals = {name: Differences() for name in graphs}
    largest = 0.0
    for asked in rounds:
        reference = _Reference(network, asked.image_1CHW)
        scale = float(reference.proposed.scores_N.max())
        largest = max(largest, scale)
        for limits in asked.limits:
            expected = reference.answer(limits, asked.are_masks_pasted)
            for graph in asked.graphs:
                found = graph.ask(asked.image_1CHW, limits)
                difference = compare_answers(expected, found, reference.proposed, limits, SCORE_TOLERANCE * scale)
                totals[graph.name].add(difference)
    for name, total in totals.items():
        _require_equal(name, total)
    return {
        "num_images": max(sum(name in {graph.name for graph in asked.graphs} for asked in rounds) for name in graphs),
        "wanted_images": WANTED_IMAGES,
        "score_tolerance": SCORE_TOLERANCE * largest,
        "box_tolerance_px": BOX_TOLERANCE_PX,
        **({"mask_tolerance": MASK_TOLERANCE} if network.has_masks else {}),
        "largest_score": largest,
        "backends": {name: {**totals[name].to_document(), "runtime": graphs[name].runtime} for name in graphs},
    }


class _Reference:
    """The eager network's answers about one image; its features are computed once."""

    def __init__(self, network: Detector, image_1CHW: Floats) -> None:
        self._network = network
        self._sizes = [(image_1CHW.shape[2], image_1CHW.shape[3])]
        with torch.inference_mode():
            images_NCHW, _ = pad_together(list(torch.from_numpy(image_1CHW)))
            self._images: Any = ImageList(images_NCHW, list(self._sizes))
            self._features: Any = network.backbone(images_NCHW)
            self.proposed = _to_answer(network.find(self._features, self._images, None)[0])
        answer = self.proposed
        if not (np.isfinite(answer.boxes_xyxy_N4).all() and np.isfinite(answer.scores_N).all()):
            raise ExportError("the network answers boxes or scores that are not finite; it cannot be exported")
        if not len(answer) or not answer.scores_N.max() > 0:
            raise ExportError("the network proposes no box on a picture of the validation set; it cannot be exported")

    def answer(self, limits: SelectionLimits, are_masks_pasted: bool) -> GraphAnswer:
        with torch.inference_mode():
            tensors = limits.to_tensors(torch.device("cpu"))
            [found] = self._network.find(self._features, self._images, tensors)
            if are_masks_pasted and found.mask_probs_CMM is not None:
                pasted = paste_masks_in_image(found.mask_probs_CMM[:, None], found.boxes_xyxy_C4, self._sizes[0])
                found = found._replace(mask_probs_CMM=pasted[:, 0])
        return _to_answer(found)


def _to_answer(found: Found) -> GraphAnswer:
    masks = found.mask_probs_CMM
    return GraphAnswer(
        found.boxes_xyxy_C4.numpy(),
        found.scores_C.numpy(),
        found.class_ids_C.numpy(),
        None if masks is None else masks.numpy(),
    )


def _require_equal(name: str, total: Differences) -> None:
    masks = total.masks / total.num_masks if total.num_masks else 0.0
    if (
        total.num_boxes
        and total.num_wrong <= _LARGEST_SHARE_OF_WRONG * total.num_boxes
        and total.num_ties <= _LARGEST_SHARE_OF_TIES * total.num_boxes
        and masks <= MASK_TOLERANCE
    ):
        return
    raise ExportError(
        f"{name} must find what the network finds, within {SCORE_TOLERANCE:g} of the largest score, "
        f"{BOX_TOLERANCE_PX:g} pixel and {MASK_TOLERANCE:g} of a mask's probabilities, but of {total.num_boxes} boxes "
        f"{total.num_wrong} differ, {total.num_ties} may be ties, and masks differ by {masks:g}"
    )


@dataclass(frozen=True, slots=True)
class YoloGraph:
    """A graph to compare; `ask` maps images of one size to boxes (N, C, 4), scores (N, C), class_ids (N, C)."""

    name: str
    runtime: str
    ask: Callable[[Floats], tuple[npt.NDArray[Any], ...]]


def check_yolov5(network: Yolov5, images_NCHW: Floats, graphs: Sequence[YoloGraph]) -> dict[str, Any]:
    """Compare every graph with the eager network, candidate by candidate; a class may be another of equal score.

    Returns the form of `manifest["parity"]`. Raises `ExportError` naming the graph that disagrees.
    """
    _require_some(images_NCHW)
    with torch.inference_mode():
        boxes, scores = boxes_and_scores(torch.cat([network(image[None]) for image in torch.from_numpy(images_NCHW)]))
    boxes_NC4, scores_NCK = boxes.numpy(), scores.numpy()
    if not (np.isfinite(boxes_NC4).all() and np.isfinite(scores_NCK).all()):
        raise ExportError("the network answers boxes or scores that are not finite; it cannot be exported")
    largest = float(scores_NCK.max())
    backends = {}
    for graph in graphs:
        found = graph.ask(images_NCHW)
        backends[graph.name] = {
            **_compare_candidates(graph.name, boxes_NC4, scores_NCK, found, SCORE_TOLERANCE * largest),
            "runtime": graph.runtime,
        }
    return {
        "num_images": len(images_NCHW),
        "wanted_images": WANTED_IMAGES,
        "score_tolerance": SCORE_TOLERANCE * largest,
        "box_tolerance_px": BOX_TOLERANCE_PX,
        "largest_score": largest,
        "backends": backends,
    }


def _compare_candidates(
    name: str, boxes_NC4: Floats, scores_NCK: Floats, found: Sequence[npt.NDArray[Any]], score_tolerance: float
) -> dict[str, float]:
    count, num_candidates, num_classes = scores_NCK.shape
    shapes = [array.shape for array in found]
    wanted = [(count, num_candidates, 4), (count, num_candidates), (count, num_candidates)]
    if shapes != wanted:
        raise ExportError(f"{name} must answer boxes, scores and class ids of shapes {wanted}, but got {shapes}")
    found_boxes_NC4, found_scores_NC, class_ids_NC = found
    is_class_NC = (class_ids_NC >= 0) & (class_ids_NC < num_classes)
    of_class_NC = np.take_along_axis(scores_NCK, np.where(is_class_NC, class_ids_NC, 0)[..., None], axis=2)[..., 0]
    best_NC = scores_NCK.max(axis=2)
    box_px = float(np.abs(found_boxes_NC4 - boxes_NC4).max())
    score = float(max(np.abs(found_scores_NC - best_NC).max(), (best_NC - of_class_NC).max()))
    if not (is_class_NC.all() and box_px <= BOX_TOLERANCE_PX and score <= score_tolerance):  # in this form, NaN fails
        raise ExportError(
            f"{name} must agree with the network within {score_tolerance:g} on scores and {BOX_TOLERANCE_PX:g} pixel "
            f"on boxes, but the largest differences are {score:g} and {box_px:g}"
        )
    return {"num_boxes": best_NC.size, "max_abs_diff_scores": score, "max_abs_diff_boxes_px": box_px}


def _require_some(images: Sequence[Any] | Floats) -> None:
    if not len(images):
        raise ExportError("the parity check needs at least 1 picture, but got none; pass some of the validation set")
