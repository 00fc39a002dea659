"""The base class of these detectors: calls in training and in evaluation, and frozen norms.

Shapes in names: N images, C colour channels, H height, W width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]

from clearsight.networks.families.rcnn.batch import SIDE_MULTIPLE, Size, TrainingTarget
from clearsight.networks.families.rcnn.options import DEFAULT, RcnnOptions
from clearsight.networks.families.rcnn.selection import Found, LimitTensors, SelectionLimits

__all__ = ["Detector", "Features", "keep_float32"]

Features = dict[str, torch.Tensor]
"""Levels of the pyramid, from fine to coarse."""


class Detector(nn.Module, ABC):
    """A network with a feature pyramid. Module and parameter names are torchvision's.

    Takes images_NCHW as `batch.pad_together` makes them: placed by `vision.letterbox.shorter_side`, float32, normalised
    with ImageNet's mean and std, then padded with zeros to multiples of 32; and each image's own size.

    In training mode it needs targets and returns the losses by name: their sum is what to differentiate. In evaluation
    mode it returns the detections of each image: without `limits` all candidates, at most `MAX_CANDIDATES` sorted by
    descending score, without masks; with `limits` the boxes within them, and the masks of those.

    Boxes and losses are computed in float32, also where autocast runs the layers in less.
    """

    num_classes: int
    """Number of classes without a background class."""
    has_masks: bool
    backbone: nn.Module
    options: RcnnOptions = DEFAULT
    """Options that the network was built with."""
    has_background: ClassVar[bool]
    """Whether class 0 of the network's own head is the background, so that Azure's clients count labels from 1."""
    output_order: ClassVar[tuple[str, ...]]
    """Order of torchvision's outputs for an image, in which Azure's clients read them; masks come last."""

    def __init__(self, num_classes: int, backbone: nn.Module, has_masks: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.has_masks = has_masks
        self.backbone = backbone
        self._are_norms_frozen = False
        keep_float32(backbone)

    @abstractmethod
    def losses(self, features: Features, images: Any, targets: Sequence[TrainingTarget]) -> dict[str, torch.Tensor]:
        """The losses by name; `images` is torchvision's list of padded images with their sizes."""

    @abstractmethod
    def find(self, features: Features, images: Any, limits: LimitTensors | None) -> list[Found]:
        """Detections of each image."""

    def forward(
        self,
        images_NCHW: torch.Tensor,
        sizes: Sequence[Size],
        targets: Sequence[TrainingTarget] | None = None,
        limits: SelectionLimits | None = None,
    ) -> dict[str, torch.Tensor] | list[Found]:
        if any(side % SIDE_MULTIPLE for side in images_NCHW.shape[2:]):
            height, width = images_NCHW.shape[2:]
            raise ValueError(f"height and width must be multiples of {SIDE_MULTIPLE}, but got {height} x {width}")
        images = ImageList(images_NCHW, list(sizes))
        if not self.training:
            tensors = None if limits is None else limits.to_tensors(images_NCHW.device)
            return self.find(self.backbone(images_NCHW), images, tensors)
        if targets is None:
            raise ValueError("training needs targets, but got none")
        for target in targets:
            left_top, right_bottom = target.boxes_xyxy_M4[:, :2], target.boxes_xyxy_M4[:, 2:]
            if not (left_top < right_bottom).all():  # its logarithm would turn the whole network into NaN
                raise ValueError(f"each box must have an area, but got {target.boxes_xyxy_M4.tolist()}")
        return self.losses(self.backbone(images_NCHW), images, targets)

    def freeze_norms(self) -> None:
        """Keep statistics, scales and shifts of the backbone's batch norms as they are from now on.

        For networks that start from published weights: statistics of the two images of a usual batch would undo them.
        Not part of the state dict; a resumed training must call this again.
        """
        self._are_norms_frozen = True
        for norm in self._norms():
            for parameter in norm.parameters():
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Detector":
        super().train(mode)
        if self._are_norms_frozen:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]


def keep_float32(module: nn.Module) -> None:
    """Let a module compute in float32 under autocast too: bfloat16 does not distinguish coordinates beyond 256."""
    module.register_forward_hook(_to_float32)


def _to_float32(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return type(outputs)((name, _to_float32(_module, _inputs, value)) for name, value in outputs.items())
    return type(outputs)(_to_float32(_module, _inputs, value) for value in outputs)
