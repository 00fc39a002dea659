"""The training loss: boxes by complete IoU, objectness against that IoU, classes by binary cross-entropy.

Shapes in names: N images, L levels, A anchors of a level, H and W cells, K classes, V = 5 + K values, M boxes of the
batch, R assignments.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from clearsight.networks.families.yolov5.assignment import assign
from clearsight.networks.families.yolov5.head import BOX_VALUES, STRIDES

__all__ = ["LOSS_OPTIONS", "LossOptions", "Losses", "Yolov5Loss", "complete_iou"]

_LEVEL_BALANCE: Final = (4.0, 1.0, 0.4)
"""Weights of the levels' objectness: fine levels have more cells, so each of their objects counts less in the mean."""
_NOMINAL_SIZE: Final = 640
_NOMINAL_CLASSES: Final = 80
_EPSILON: Final = 1e-7


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Gains of the three terms and what modifies them."""

    box_gain: float = 0.05
    objectness_gain: float = 0.7
    """At 640 pixels; scaled by the area of the input."""
    class_gain: float = 0.3
    """At 80 classes; scaled by the number of classes."""
    label_smoothing: float = 0.0
    """In [0, 1): a class's target is 1 - half of it, the others' half of it."""
    smallest_objectness_factor: float = 0.25
    """Lower limit of the factor by which the input's area scales objectness; 0 lets it shrink all the way, 1 never.

    The area alone makes objectness vanish at small inputs: 1/16 at 160 pixels, where a nano trained from scratch for 20
    epochs reached mAP50 0.39 with it and 0.69 with the factor held at 1 (one run each).
    """


LOSS_OPTIONS: Final[Mapping[str, LossOptions]] = MappingProxyType(
    {
        "nano": LossOptions(objectness_gain=1.0, class_gain=0.5),
        "small": LossOptions(objectness_gain=1.0, class_gain=0.5),
        "medium": LossOptions(),
        "large": LossOptions(),
        "xlarge": LossOptions(),
    }
)
"""Options of the published recipes by size."""


@dataclass(frozen=True, slots=True)
class Losses:
    """One batch's loss. The parts are detached, include their gains, and are means per image."""

    total: torch.Tensor
    """The value to differentiate: the sum of the parts times the number of images."""
    box: torch.Tensor
    objectness: torch.Tensor
    classification: torch.Tensor


class Yolov5Loss(nn.Module):
    """Loss of raw levels against boxes.

    The total grows with the batch: its gradient is the sum over images, so the learning rate of the published recipes
    belongs to 64 images per optimizer step. Gradients averaged over processes ask for a factor of their number.
    """

    anchors: torch.Tensor

    def __init__(
        self, anchors_cells_LA2: torch.Tensor, num_classes: int, image_size: int, options: LossOptions | None = None
    ) -> None:
        """`anchors_cells_LA2` is the head's buffer, fitted to the data; `image_size` is the nominal side."""
        super().__init__()
        self.register_buffer("anchors", anchors_cells_LA2.detach().clone(), persistent=False)
        options = options or LossOptions()
        self.num_classes = num_classes
        self.box_gain = options.box_gain
        self.class_gain = options.class_gain * num_classes / _NOMINAL_CLASSES
        area_factor = max((image_size / _NOMINAL_SIZE) ** 2, options.smallest_objectness_factor)
        self.objectness_gain = options.objectness_gain * area_factor
        self.label_smoothing = options.label_smoothing

    def forward(
        self,
        levels: Sequence[torch.Tensor],
        boxes_xyxy: Sequence[torch.Tensor],
        class_ids: Sequence[torch.Tensor],
    ) -> Losses:
        """`levels` are (N, A, H, W, V); per image boxes (n, 4) in input pixels and ids (n,) in [0, K); n may be 0.

        Computed in float32. A batch without boxes has the objectness term only; a network of one class has no class
        term. When two boxes claim one prediction, both count for box and class, and its objectness follows the last.
        """
        image_index_M = torch.repeat_interleave(
            torch.arange(len(boxes_xyxy), device=self.anchors.device),
            torch.tensor([len(boxes) for boxes in boxes_xyxy], device=self.anchors.device),
        )
        boxes_cxcywh_M4 = _to_cxcywh(torch.cat(list(boxes_xyxy)).float().reshape(-1, 4))
        class_ids_M = torch.cat(list(class_ids)).long()

        box = objectness = classification = self.anchors.new_zeros(())
        for level, anchors_A2, stride, balance in zip(levels, self.anchors, STRIDES, _LEVEL_BALANCE, strict=True):
            level_NAHWV = level.float()
            height, width = level_NAHWV.shape[2:4]
            pairs = assign(boxes_cxcywh_M4 / stride, anchors_A2, height, width)
            overlap_target_NAHW = torch.zeros_like(level_NAHWV[..., 0])
            if len(pairs.box_index_R):
                place = (image_index_M[pairs.box_index_R], pairs.anchor_index_R, pairs.rows_R, pairs.columns_R)
                values_RV = level_NAHWV[place]
                probs_R4 = values_RV[:, :4].sigmoid()
                sides_R2 = (probs_R4[:, 2:] * 2) ** 2 * anchors_A2[pairs.anchor_index_R]
                overlap_R = complete_iou(
                    torch.cat([probs_R4[:, :2] * 2 - 0.5, sides_R2], dim=1), pairs.targets_cells_R4
                )
                box = box + (1 - overlap_R).mean()
                overlap_target_NAHW[place] = overlap_R.detach().clamp(min=0)
                if self.num_classes > 1:
                    classification = classification + self._class_term(
                        values_RV[:, BOX_VALUES:], class_ids_M[pairs.box_index_R]
                    )
            objectness = objectness + balance * functional.binary_cross_entropy_with_logits(
                level_NAHWV[..., BOX_VALUES - 1], overlap_target_NAHW
            )

        box, objectness = box * self.box_gain, objectness * self.objectness_gain
        classification = classification * self.class_gain
        total = (box + objectness + classification) * len(boxes_xyxy)
        return Losses(total, box.detach(), objectness.detach(), classification.detach())

    def _class_term(self, logits_RK: torch.Tensor, class_ids_R: torch.Tensor) -> torch.Tensor:
        targets_RK = torch.full_like(logits_RK, self.label_smoothing / 2)
        targets_RK.scatter_(1, class_ids_R[:, None], 1 - self.label_smoothing / 2)
        return functional.binary_cross_entropy_with_logits(logits_RK, targets_RK)


def complete_iou(first_cxcywh_R4: torch.Tensor, second_cxcywh_R4: torch.Tensor) -> torch.Tensor:
    """CIoU of paired boxes, at most 1: IoU less centre distance and difference of shape (arXiv 1911.08287).

    Differentiable, also for sides of 0. torchvision's form on corners gives NaN there, and gets there early: a side far
    below the rounding error of its centre is lost when corners are subtracted.
    """
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first_cxcywh_R4.unbind(1), second_cxcywh_R4.unbind(1)
    shared_w = torch.minimum(x1 + w1 / 2, x2 + w2 / 2) - torch.maximum(x1 - w1 / 2, x2 - w2 / 2)
    shared_h = torch.minimum(y1 + h1 / 2, y2 + h2 / 2) - torch.maximum(y1 - h1 / 2, y2 - h2 / 2)
    shared = shared_w.clamp(min=0) * shared_h.clamp(min=0)
    iou = shared / (w1 * h1 + w2 * h2 - shared + _EPSILON)
    hull_w = torch.maximum(x1 + w1 / 2, x2 + w2 / 2) - torch.minimum(x1 - w1 / 2, x2 - w2 / 2)
    hull_h = torch.maximum(y1 + h1 / 2, y2 + h2 / 2) - torch.minimum(y1 - h1 / 2, y2 - h2 / 2)
    distance = ((x1 - x2) ** 2 + (y1 - y2) ** 2) / (hull_w**2 + hull_h**2 + _EPSILON)
    angles = torch.atan(w1 / (h1 + _EPSILON)) - torch.atan(w2 / (h2 + _EPSILON))
    shape = 4 / math.pi**2 * angles**2
    with torch.no_grad():  # the paper's trade-off weight is a constant of the step
        weight = shape / (1 - iou + shape + _EPSILON)
    return iou - distance - weight * shape


def _to_cxcywh(boxes_xyxy_M4: torch.Tensor) -> torch.Tensor:
    corners, opposite = boxes_xyxy_M4[:, :2], boxes_xyxy_M4[:, 2:]
    return torch.cat([(corners + opposite) / 2, opposite - corners], dim=1)
