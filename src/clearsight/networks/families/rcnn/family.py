"""The families of Faster and Mask R-CNN, which have two stages, and of RetinaNet, which has one."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet  # type: ignore[import-untyped]
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # type: ignore[import-untyped]
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # type: ignore[import-untyped]

from clearsight.catalogue.models import ModelRow
from clearsight.errors import UserError
from clearsight.networks.families.rcnn import serving
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.options import DEFAULT, RcnnOptions
from clearsight.networks.families.rcnn.retina import RetinaDetector
from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.networks.families.rcnn.two_stage import TwoStageDetector
from clearsight.networks.families.rcnn.weights import load_pretrained_rcnn
from clearsight.networks.serving import GraphSignature
from clearsight.networks.weights import PretrainedRecord

__all__ = ["RcnnFamily", "RetinaFamily", "coarse_pyramid"]

_PYRAMID_CHANNELS: Final = 256
_ALL_STAGES: Final = 5

# Other sizes and limits than those of any request, so that the parity check finds what a trace has fixed.
_TRACED_HEIGHT: Final = 160
_TRACED_WIDTH: Final = 224
_TRACED_LIMITS: Final = SelectionLimits(0.0, 0.6, 20)


class RcnnFamily:
    """`Family` of Faster and Mask R-CNN. The architecture record holds `options`, the numbers of `RcnnOptions`.

    Networks from published weights and those from scratch have the same modules; in the former the batch norms of the
    backbone are frozen.
    """

    default_architecture: ClassVar[Mapping[str, Any]] = MappingProxyType({"options": asdict(DEFAULT)})

    def build(
        self, row: ModelRow, num_classes: int, architecture: Mapping[str, Any], crop_size: int | None = None
    ) -> Detector:
        numbers: Any = architecture.get("options")
        known = asdict(DEFAULT)
        is_whole = isinstance(numbers, Mapping) and numbers.keys() == known.keys()
        if not is_whole or not all(type(number) is int and number > 0 for number in numbers.values()):
            raise UserError(
                f"the architecture of {row.model_name} must have options {list(known)}, numbers above 0, but got "
                f"{numbers}"
            )
        if num_classes < 1:
            raise UserError(f"num_classes must be at least 1, but got {num_classes}")
        options = RcnnOptions(**numbers)
        network = self._build(row, num_classes, options)
        network.options = options
        return network

    def _build(self, row: ModelRow, num_classes: int, options: RcnnOptions) -> Detector:
        build = MaskRCNN if row.has_masks else FasterRCNN
        built = build(
            _pyramid(row),
            num_classes + 1,
            rpn_batch_size_per_image=options.anchors_per_loss,
            rpn_pre_nms_top_n_train=options.proposals_before_nms_training,
            rpn_post_nms_top_n_train=options.proposals_training,
            rpn_pre_nms_top_n_test=options.proposals_before_nms,
            rpn_post_nms_top_n_test=options.proposals,
            box_batch_size_per_image=options.proposals_per_loss,
        )
        return TwoStageDetector(num_classes, built)

    def architecture(self, network: Detector) -> dict[str, Any]:
        return {"options": asdict(network.options)}

    def load_pretrained(
        self, network: Detector, row: ModelRow, weights_dir: Path | None, pretrained: bool
    ) -> PretrainedRecord:
        return load_pretrained_rcnn(network, row, weights_dir, pretrained)

    def prepare_pretrained(self, network: Detector) -> None:
        network.freeze_norms()

    def serving_module(self, network: Detector) -> serving.ServingGraph:
        return serving.ServingGraph(network)

    def signature(self, row: ModelRow) -> GraphSignature:
        outputs = serving.output_names(row.has_masks)
        names = (*serving.INPUT_NAMES, *outputs)
        axes = {name: serving.DYNAMIC_AXES[name] for name in names if name in serving.DYNAMIC_AXES}
        return GraphSignature(serving.INPUT_NAMES, outputs, axes)

    def example_inputs(self, crop_size: int | None) -> tuple[torch.Tensor, ...]:
        return serving.example_inputs(_TRACED_HEIGHT, _TRACED_WIDTH, _TRACED_LIMITS)


class RetinaFamily(RcnnFamily):
    """`Family` of RetinaNet: as `RcnnFamily`, with one stage. It records options too and uses none of them."""

    def _build(self, row: ModelRow, num_classes: int, options: RcnnOptions) -> Detector:
        return RetinaDetector(num_classes, RetinaNet(coarse_pyramid(row), num_classes))


def coarse_pyramid(row: ModelRow) -> Any:
    """The pyramid of detectors with one stage: from the backbone's second stage on, with two coarser levels on top.

    https://arxiv.org/abs/1708.02002, section 4.
    """
    coarser = LastLevelP6P7(_PYRAMID_CHANNELS, _PYRAMID_CHANNELS)
    return _pyramid(row, returned_layers=[2, 3, 4], extra_blocks=coarser)


def _pyramid(row: ModelRow, **levels: Any) -> Any:
    return resnet_fpn_backbone(
        backbone_name=row.backbone,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=_ALL_STAGES,
        **levels,
    )
