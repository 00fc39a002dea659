"""RetinaNet (https://arxiv.org/abs/1708.02002).

Shapes in names: A anchors, C candidates, K classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from torchvision.models.detection._utils import _topk_min  # type: ignore[import-untyped]
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]
from torchvision.ops import box_iou, clip_boxes_to_image  # type: ignore[import-untyped]

from clearsight.networks.families.rcnn.batch import Size, TrainingTarget
from clearsight.networks.families.rcnn.detector import Detector, Features, keep_float32
from clearsight.networks.families.rcnn.selection import Found, LimitTensors, choose

__all__ = ["RetinaDetector"]

_CANDIDATES_PER_LEVEL: Final = 1000
"""As in the paper and in torchvision; five levels give `MAX_CANDIDATES`."""
_NO_OBJECT: Final = -1


class RetinaDetector(Detector):
    """Class and box of each anchor. Losses: `classification` (focal), `bbox_regression`."""

    has_background: ClassVar[bool] = False
    output_order: ClassVar[tuple[str, ...]] = ("boxes", "scores", "labels")
    level_strides: ClassVar[tuple[int, ...]] = (8, 16, 32, 64, 128)

    def __init__(self, num_classes: int, built: Any) -> None:
        """`built` is torchvision's `RetinaNet` for `num_classes`; it has no background class."""
        super().__init__(num_classes, built.backbone, has_masks=False)
        self.head: Any = built.head
        self.anchor_generator: Any = built.anchor_generator
        self.box_coder = built.box_coder
        self.proposal_matcher = built.proposal_matcher
        keep_float32(self.head.classification_head)
        keep_float32(self.head.regression_head)

    def losses(self, features: Features, images: Any, targets: Sequence[TrainingTarget]) -> dict[str, torch.Tensor]:
        levels = list(features.values())
        documents = [{"boxes": target.boxes_xyxy_M4, "labels": target.class_ids_M} for target in targets]
        anchors = self.anchor_generator(images, levels)
        matches = [
            self._match(anchors_A4, target.boxes_xyxy_M4) for anchors_A4, target in zip(anchors, targets, strict=True)
        ]
        losses: dict[str, torch.Tensor] = self.head.compute_loss(documents, self.head(levels), anchors, matches)
        return losses

    def _match(self, anchors_A4: torch.Tensor, boxes_xyxy_M4: torch.Tensor) -> torch.Tensor:
        """Index of each anchor's object; negative without one."""
        if not len(boxes_xyxy_M4):
            return torch.full((len(anchors_A4),), _NO_OBJECT, device=anchors_A4.device)
        matched: torch.Tensor = self.proposal_matcher(box_iou(boxes_xyxy_M4, anchors_A4))
        return matched

    def find(self, features: Features, images: Any, limits: LimitTensors | None) -> list[Found]:
        levels = list(features.values())
        per_place = self.anchor_generator.num_anchors_per_location()[0]
        counts = [level.shape[2] * level.shape[3] * per_place for level in levels]
        outputs = self.head(levels)
        found = [
            self._candidates(logits.split(counts), regression.split(counts), anchors_A4.split(counts), size)
            for logits, regression, anchors_A4, size in zip(
                outputs["cls_logits"],
                outputs["bbox_regression"],
                self.anchor_generator(images, levels),
                images.image_sizes,
                strict=True,
            )
        ]
        return found if limits is None else [choose(candidates, self.num_classes, limits) for candidates in found]

    def features(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """Levels of the pyramid, from fine to coarse."""
        return list(self.backbone(images_NCHW).values())

    def dense(self, levels: list[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """boxes_xyxy (N, A, 4) in pixels and scores (N, A, K) of the anchors of all levels."""
        outputs = self.head(levels)
        count = len(outputs["cls_logits"])
        images = ImageList(levels[0].new_empty(count, 0, height, width), [(height, width)] * count)
        boxes = [
            self.box_coder.decode_single(regression_A4, anchors_A4)
            for regression_A4, anchors_A4 in zip(
                outputs["bbox_regression"], self.anchor_generator(images, levels), strict=True
            )
        ]
        return torch.stack(boxes), outputs["cls_logits"].sigmoid()

    def _candidates(
        self,
        logits: Sequence[torch.Tensor],
        regression: Sequence[torch.Tensor],
        anchors: Sequence[torch.Tensor],
        size: Size,
    ) -> Found:
        """The best of each level, together; arguments per level (A, K), (A, 4), (A, 4)."""
        boxes, scores, class_ids = [], [], []
        for logits_AK, regression_A4, anchors_A4 in zip(logits, regression, anchors, strict=True):
            flat = logits_AK.sigmoid().flatten()
            level_scores, best = flat.topk(_topk_min(flat, _CANDIDATES_PER_LEVEL, 0))
            rows = torch.div(best, self.num_classes, rounding_mode="floor")
            boxes.append(self.box_coder.decode_single(regression_A4[rows], anchors_A4[rows]))
            scores.append(level_scores)
            class_ids.append(best % self.num_classes)
        scores_C, order_C = torch.cat(scores).sort(descending=True)
        boxes_C4 = clip_boxes_to_image(torch.cat(boxes)[order_C], size)
        return Found(boxes_C4, scores_C, torch.cat(class_ids)[order_C])
