"""Faster R-CNN (https://arxiv.org/abs/1506.01497) and Mask R-CNN (https://arxiv.org/abs/1703.06870).

Shapes in names: P proposals of an image, C candidates, D chosen boxes, K classes, M = 28 side of a raw mask, H height,
W width.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from torchvision.models.detection._utils import _topk_min  # type: ignore[import-untyped]
from torchvision.ops import clip_boxes_to_image  # type: ignore[import-untyped]
from torchvision.ops.poolers import LevelMapper  # type: ignore[import-untyped]

from clearsight.networks.families.rcnn.batch import Size, TrainingTarget
from clearsight.networks.families.rcnn.detector import Detector, Features, keep_float32
from clearsight.networks.families.rcnn.selection import MAX_CANDIDATES, Found, LimitTensors, choose

__all__ = ["TwoStageDetector"]

_LEVELS: Final = (2, 3, 4, 5)
"""Powers of two of the pooled levels' strides."""
_SMALLEST_SIDE: Final = 1e-2
"""Pixels; thinner boxes are no candidates, as in torchvision."""


class TwoStageDetector(Detector):
    """Proposals from anchors, then class, box and, where the network has masks, mask of each.

    Losses: `loss_objectness`, `loss_rpn_box_reg`, `loss_classifier`, `loss_box_reg` and, with masks, `loss_mask`.
    """

    has_background: ClassVar[bool] = True
    output_order: ClassVar[tuple[str, ...]] = ("boxes", "labels", "scores")

    def __init__(self, num_classes: int, built: Any) -> None:
        """`built` is torchvision's `FasterRCNN` or `MaskRCNN` for `num_classes` and a background class, number 0."""
        super().__init__(num_classes, built.backbone, has_masks=built.roi_heads.has_mask())
        self.rpn: Any = built.rpn
        self.roi_heads: Any = built.roi_heads
        heads = (self.rpn.head, self.roi_heads.box_predictor)
        for module in (*heads, self.roi_heads.mask_predictor) if self.has_masks else heads:
            keep_float32(module)
        for pool in (self.roi_heads.box_roi_pool, self.roi_heads.mask_roi_pool):
            if pool is not None:
                # Else torchvision takes them from the size of the first image it sees, and small ones mislead it.
                pool.scales = [2.0**-level for level in _LEVELS]
                pool.map_levels = LevelMapper(_LEVELS[0], _LEVELS[-1], pool.canonical_scale, pool.canonical_level)

    def losses(self, features: Features, images: Any, targets: Sequence[TrainingTarget]) -> dict[str, torch.Tensor]:
        documents = [self._to_torchvision(target) for target in targets]
        proposals, first_stage = self.rpn(images, features, documents)
        _, second_stage = self.roi_heads(features, proposals, images.image_sizes, documents)
        return {**first_stage, **second_stage}

    def find(self, features: Features, images: Any, limits: LimitTensors | None) -> list[Found]:
        proposals, _ = self.rpn(images, features)
        heads = self.roi_heads
        pooled = heads.box_head(heads.box_roi_pool(features, proposals, images.image_sizes))
        logits, regression = heads.box_predictor(pooled)
        counts = [boxes_P4.shape[0] for boxes_P4 in proposals]
        found = [
            self._candidates(*parts)
            for parts in zip(proposals, logits.split(counts), regression.split(counts), images.image_sizes, strict=True)
        ]
        if limits is None:
            return found
        chosen = [choose(candidates, self.num_classes, limits) for candidates in found]
        return self._with_masks(features, chosen, images.image_sizes) if self.has_masks else chosen

    def _candidates(
        self, proposals_P4: torch.Tensor, logits: torch.Tensor, regression: torch.Tensor, size: Size
    ) -> Found:
        """Every proposal as a box of every class; `logits` and `regression` have the background first."""
        boxes = self.roi_heads.box_coder.decode_single(regression, proposals_P4).reshape(-1, self.num_classes + 1, 4)
        boxes_PK4 = clip_boxes_to_image(boxes[:, 1:], size)
        scores = logits.softmax(dim=1)[:, 1:].flatten()
        scores_C, best_C = scores.topk(_topk_min(scores, MAX_CANDIDATES, 0))
        boxes_C4 = boxes_PK4.reshape(-1, 4)[best_C]
        sides_C2 = boxes_C4[:, 2:] - boxes_C4[:, :2]
        wide = torch.where((sides_C2 >= _SMALLEST_SIDE).all(dim=1))[0]
        return Found(boxes_C4[wide], scores_C[wide], (best_C % self.num_classes)[wide])

    def _with_masks(self, features: Features, chosen: list[Found], sizes: Sequence[Size]) -> list[Found]:
        heads = self.roi_heads
        pooled = heads.mask_roi_pool(features, [found.boxes_xyxy_C4 for found in chosen], sizes)
        probs = heads.mask_predictor(heads.mask_head(pooled)).sigmoid()
        class_ids_D = torch.cat([found.class_ids_C for found in chosen])
        probs_DMM = probs[torch.arange(class_ids_D.shape[0], device=probs.device), class_ids_D + 1]
        masks = probs_DMM.split([found.class_ids_C.shape[0] for found in chosen])
        return [found._replace(mask_probs_CMM=own) for found, own in zip(chosen, masks, strict=True)]

    def _to_torchvision(self, target: TrainingTarget) -> dict[str, torch.Tensor]:
        document = {"boxes": target.boxes_xyxy_M4, "labels": target.class_ids_M + 1}
        if self.has_masks:
            if target.masks_MHW is None:
                raise ValueError("training Mask R-CNN needs a mask of each object, but a picture has none")
            document["masks"] = target.masks_MHW
        return document
