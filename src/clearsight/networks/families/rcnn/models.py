"""The map from Azure's model names to detectors: one read-only table."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet  # type: ignore[import-untyped]
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # type: ignore[import-untyped]
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # type: ignore[import-untyped]

from clearsight.errors import UserError
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.options import DEFAULT, RcnnOptions
from clearsight.networks.families.rcnn.retina import RetinaDetector
from clearsight.networks.families.rcnn.two_stage import TwoStageDetector

__all__ = ["FREEZE_GROUPS", "RCNN_MODELS", "RcnnModel", "build_rcnn"]

FREEZE_GROUPS: Final = (
    ("backbone.body.conv1.", "backbone.body.bn1."),
    *((f"backbone.body.layer{stage}.",) for stage in range(1, 5)),
)
"""Prefixes of parameter names, from the input on: `layers_to_freeze: n` freezes the first n groups."""

_PYRAMID_CHANNELS: Final = 256
_ALL_STAGES: Final = 5


@dataclass(frozen=True, slots=True)
class RcnnModel:
    """One row of the map."""

    model_name: str
    """Azure's name, case-sensitive; where torchvision has a network of this kind, also its name there."""
    family: Literal["fasterrcnn", "maskrcnn", "retinanet"]
    backbone: str
    """A classification model, in `registry.MODELS` too."""
    has_coco_weights: bool
    """Whether torchvision publishes weights of the whole network; else only the backbone has some."""

    @property
    def has_masks(self) -> bool:
        return self.family == "maskrcnn"

    @property
    def head(self) -> tuple[str, ...]:
        """Prefixes of the tensors whose shape follows the number of classes."""
        if self.family == "retinanet":
            return ("head.classification_head.cls_logits.",)
        box = ("roi_heads.box_predictor.",)
        return (*box, "roi_heads.mask_predictor.mask_fcn_logits.") if self.has_masks else box


def _rows() -> tuple[RcnnModel, ...]:
    depths = (18, 34, 50, 101, 152)
    return (
        *(RcnnModel(f"fasterrcnn_resnet{depth}_fpn", "fasterrcnn", f"resnet{depth}", depth == 50) for depth in depths),
        RcnnModel("retinanet_resnet50_fpn", "retinanet", "resnet50", has_coco_weights=True),
        *(RcnnModel(f"maskrcnn_resnet{depth}_fpn", "maskrcnn", f"resnet{depth}", depth == 50) for depth in depths),
    )


RCNN_MODELS: Final[Mapping[str, RcnnModel]] = MappingProxyType({row.model_name: row for row in _rows()})


def build_rcnn(model_name: str, num_classes: int, options: RcnnOptions = DEFAULT) -> Detector:
    """Build a detector with random weights (drawn from torch's global generator), in training mode.

    `num_classes` counts no background. Networks from published weights and those from scratch have the same modules;
    the former ask for `Detector.freeze_norms`. Raises `UserError`.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, but got {num_classes}")
    if model_name not in RCNN_MODELS:
        raise UserError(f"model_name must be one of {sorted(RCNN_MODELS)}, but got {model_name!r}")
    row = RCNN_MODELS[model_name]
    if row.family == "retinanet":
        # From the third stage on, with two coarser levels on top (section 4 of the paper).
        pyramid = resnet_fpn_backbone(
            backbone_name=row.backbone,
            weights=None,
            norm_layer=nn.BatchNorm2d,
            trainable_layers=_ALL_STAGES,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(_PYRAMID_CHANNELS, _PYRAMID_CHANNELS),
        )
        return RetinaDetector(num_classes, RetinaNet(pyramid, num_classes))
    pyramid = resnet_fpn_backbone(
        backbone_name=row.backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=_ALL_STAGES
    )
    build = MaskRCNN if row.has_masks else FasterRCNN
    built = build(
        pyramid,
        num_classes + 1,
        rpn_batch_size_per_image=options.anchors_per_loss,
        rpn_pre_nms_top_n_train=options.proposals_before_nms_training,
        rpn_post_nms_top_n_train=options.proposals_training,
        rpn_pre_nms_top_n_test=options.proposals_before_nms,
        rpn_post_nms_top_n_test=options.proposals,
        box_batch_size_per_image=options.proposals_per_loss,
    )
    return TwoStageDetector(num_classes, built)
