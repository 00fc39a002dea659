"""The last layer: one 1x1 convolution per level.

Shapes in names: N images, L levels, A anchors of a level, H and W cells of a level, V values of a prediction
(4 of the box, objectness, one per class).
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from clearsight.catalogue.models import YOLO_STRIDE

__all__ = ["ANCHORS_PER_LEVEL", "BOX_VALUES", "STRIDES", "Head"]

STRIDES: Final = (8, 16, YOLO_STRIDE)
"""Input pixels per cell of the three levels."""
ANCHORS_PER_LEVEL: Final = 3
BOX_VALUES: Final = 5
"""Values of a prediction before those of the classes: x, y, width, height, objectness."""

_OBJECTS_PER_IMAGE: Final = 8
_NOMINAL_SIZE: Final = 640
_CLASS_PRIOR: Final = 0.6


class Head(nn.Module):
    """Raw predictions of three levels.

    `anchors` (L, A, 2) holds widths and heights in cells of each level; it is part of the state dict, so weights carry
    the anchors they were trained with.
    """

    anchors: torch.Tensor

    def __init__(self, inputs: Sequence[int], num_classes: int, anchors_wh_LA2: torch.Tensor) -> None:
        """`anchors_wh_LA2` is in pixels."""
        super().__init__()
        self.num_values = BOX_VALUES + num_classes
        self.m = nn.ModuleList(nn.Conv2d(channels, ANCHORS_PER_LEVEL * self.num_values, 1) for channels in inputs)
        self.register_buffer("anchors", torch.empty(len(STRIDES), ANCHORS_PER_LEVEL, 2))
        self.set_anchors(anchors_wh_LA2)
        self._start_biases(num_classes)

    @torch.no_grad()
    def set_anchors(self, anchors_wh_LA2: torch.Tensor) -> None:
        """Replace the anchors in place; pixels, small levels first."""
        strides_L11 = self.anchors.new_tensor(STRIDES).view(-1, 1, 1)
        self.anchors.copy_(anchors_wh_LA2.to(self.anchors.device) / strides_L11)

    @torch.no_grad()
    def _start_biases(self, num_classes: int) -> None:
        """Set biases to typical rates of objects, so that early steps are not spent on learning the background.

        After focal loss (arXiv 1708.02002, section 3.3): about 8 objects in an image of 640 pixels, and the classes
        together at 0.6.
        """
        for stride, conv in zip(STRIDES, self.m, strict=True):
            bias_AV = conv.get_parameter("bias").view(ANCHORS_PER_LEVEL, -1)
            bias_AV[:, BOX_VALUES - 1] += math.log(_OBJECTS_PER_IMAGE / (_NOMINAL_SIZE / stride) ** 2)
            # Slightly above `num_classes - 1`, which stays finite for a single class.
            bias_AV[:, BOX_VALUES:] += math.log(_CLASS_PRIOR / (num_classes - 0.99999))

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Take one (N, channels, H, W) per level, give one (N, A, H, W, V) of logits per level."""
        levels = []
        for conv, maps in zip(self.m, features, strict=True):
            batch, _, height, width = maps.shape
            values_NAVHW = conv(maps).view(batch, ANCHORS_PER_LEVEL, self.num_values, height, width)
            levels.append(values_NAVHW.permute(0, 1, 3, 4, 2))
        return levels
