"""Selects boxes among candidates before masks are computed: the user's thresholds as tensors, also inside a graph.

A mask costs more than its box, so masks are computed for the boxes that thresholds and non-maximum suppression leave.
Both belong to the user's settings; therefore they enter the graph as inputs, and no graph holds their values.

Shapes in names: C candidates, D chosen ones, K classes, M side of a raw mask; `_1` is a tensor of one number.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
import torchvision  # type: ignore[import-untyped]

from clearsight.vision.candidates import Candidates

__all__ = ["MAX_CANDIDATES", "Found", "LimitTensors", "SelectionLimits", "choose", "to_candidates"]

MAX_CANDIDATES: Final = 5000
"""Most boxes of an image that enter suppression, the best by score.

Suppression goes by descending score, so that this changes an answer only where fewer than the wanted number of boxes
survive among them. It is what RetinaNet's five levels give, 1000 each.
"""

_NO_CLASS: Final = -1.0


@dataclass(frozen=True, slots=True)
class SelectionLimits:
    """The user's thresholds and limit of boxes."""

    score_threshold: float
    """In [0, 1]; only boxes above it are chosen."""
    nms_iou_threshold: float
    """In [0, 1]; a box is removed when its IoU with a better one of its class is greater."""
    max_detections: int
    """Number of boxes of all classes together."""

    def to_tensors(self, device: torch.device) -> "LimitTensors":
        return LimitTensors(
            torch.tensor([self.score_threshold], dtype=torch.float32, device=device),
            torch.tensor([self.nms_iou_threshold], dtype=torch.float32, device=device),
            torch.tensor([self.max_detections], dtype=torch.int64, device=device),
        )


class LimitTensors(NamedTuple):
    """`SelectionLimits` as inputs of a graph."""

    score_threshold_1: torch.Tensor
    nms_iou_threshold_1: torch.Tensor
    max_detections_1: torch.Tensor


class Found(NamedTuple):
    """Boxes of one image, sorted by descending score, as tensors for traces; elsewhere see `Candidates`."""

    boxes_xyxy_C4: torch.Tensor
    """Pixels of the network's input, inside the image."""
    scores_C: torch.Tensor
    class_ids_C: torch.Tensor
    """From 0."""
    mask_probs_CMM: torch.Tensor | None = None


def to_candidates(found: Found) -> Candidates:
    """Convert to arrays."""
    masks = found.mask_probs_CMM
    return Candidates(
        found.boxes_xyxy_C4.float().numpy(force=True),
        found.scores_C.float().numpy(force=True),
        found.class_ids_C.numpy(force=True),
        None if masks is None else masks.float().numpy(force=True),
    )


def choose(found: Found, num_classes: int, limits: LimitTensors) -> Found:
    """The candidates within the limits, by descending score; class by class, as `vision.nms.batched_nms` does it."""
    boxes_C4, scores_C, class_ids_C, _ = found
    stay = _stay_in_onnx if torch.onnx.is_in_onnx_export() else _stay_in_torch
    stays_C = stay(boxes_C4, scores_C, class_ids_C, num_classes, limits)
    is_chosen_C = stays_C & (stays_C.long().cumsum(0) <= limits.max_detections_1)
    chosen_D = torch.where(is_chosen_C)[0]
    return Found(boxes_C4[chosen_D], scores_C[chosen_D], class_ids_C[chosen_D])


def _stay_in_torch(
    boxes_C4: torch.Tensor, scores_C: torch.Tensor, class_ids_C: torch.Tensor, _: int, limits: LimitTensors
) -> torch.Tensor:
    stays_C: torch.Tensor = _suppress_also_in_traces(
        boxes_C4, scores_C, class_ids_C, limits.score_threshold_1, limits.nms_iou_threshold_1
    )
    return stays_C


def _suppress(
    boxes_C4: torch.Tensor,
    scores_C: torch.Tensor,
    class_ids_C: torch.Tensor,
    score_threshold_1: torch.Tensor,
    nms_iou_threshold_1: torch.Tensor,
) -> torch.Tensor:
    """Whether each candidate stays, (C,)."""
    nms_iou_threshold = float(nms_iou_threshold_1)
    is_above_C = scores_C > score_threshold_1
    stays_C = torch.zeros_like(is_above_C)
    for class_id in torch.unique(class_ids_C[is_above_C]):
        members = torch.where(is_above_C & (class_ids_C == class_id))[0]
        kept = torch.ops.torchvision.nms(boxes_C4[members], scores_C[members], nms_iou_threshold)
        stays_C[members[kept]] = True
    return stays_C


# A trace would fix the classes that are present and the threshold; in one, this function is compiled instead. Not a
# decorator: the compiler would take the comment for mypy on its line for a type.
_suppress_also_in_traces = torch.jit._script_if_tracing(_suppress)  # type: ignore[attr-defined]


def _stay_in_onnx(
    boxes_C4: torch.Tensor, scores_C: torch.Tensor, class_ids_C: torch.Tensor, num_classes: int, limits: LimitTensors
) -> torch.Tensor:
    """ONNX's operator suppresses class by class and takes thresholds as inputs; torchvision's has them as constants."""
    classes_K1 = torch.arange(num_classes, device=class_ids_C.device)[:, None]
    scores_KC = torch.where(classes_K1 == class_ids_C, scores_C, torch.full_like(scores_C, _NO_CLASS))
    selected = _NonMaxSuppression.apply(  # type: ignore[no-untyped-call]
        boxes_C4[None], scores_KC[None], limits.nms_iou_threshold_1, limits.score_threshold_1
    )
    kept = selected[:, 2]
    return torch.zeros_like(scores_C).scatter(0, kept, torch.ones_like(kept, dtype=scores_C.dtype)) > 0


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator of this name: (S, 3) of image, class, box."""

    @staticmethod
    def forward(ctx: Any, boxes_1C4: torch.Tensor, scores_1KC: torch.Tensor, *thresholds_1: torch.Tensor) -> Any:
        nms_iou_threshold, score_threshold = (float(threshold) for threshold in thresholds_1)
        rows = []
        for class_id, scores_C in enumerate(scores_1KC[0]):
            above = torch.where(scores_C > score_threshold)[0]
            kept = above[torchvision.ops.nms(boxes_1C4[0, above], scores_C[above], nms_iou_threshold)]
            rows.append(torch.stack([torch.zeros_like(kept), torch.full_like(kept, class_id), kept], dim=1))
        return torch.cat(rows)

    @staticmethod
    def symbolic(g: Any, boxes_1C4: Any, scores_1KC: Any, nms_iou_threshold_1: Any, score_threshold_1: Any) -> Any:
        most = g.op("Constant", value_t=torch.tensor([MAX_CANDIDATES]))
        return g.op("NonMaxSuppression", boxes_1C4, scores_1KC, most, nms_iou_threshold_1, score_threshold_1)
