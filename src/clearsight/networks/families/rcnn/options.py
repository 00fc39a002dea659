"""Numbers of boxes in both stages, which decide the cost of training more than the size of images does."""

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT", "LIGHT", "RcnnOptions"]


@dataclass(frozen=True, slots=True)
class RcnnOptions:
    """Numbers per image; the defaults are torchvision's. RetinaNet has one stage and uses none of them."""

    anchors_per_loss: int = 256
    """Anchors that the loss of the first stage is taken over."""
    proposals_per_loss: int = 512
    """Proposals that the loss of the second stage is taken over; at most a quarter of them on objects."""
    proposals_before_nms_training: int = 2000
    """Per level, before non-maximum suppression."""
    proposals_training: int = 2000
    proposals_before_nms: int = 1000
    proposals: int = 1000
    """In evaluation; a network answers at most this many boxes per class."""


DEFAULT: Final = RcnnOptions()

LIGHT: Final = RcnnOptions(
    anchors_per_loss=64,
    proposals_per_loss=32,
    proposals_before_nms_training=256,
    proposals_training=128,
    proposals_before_nms=256,
    proposals=128,
)
"""For images with few objects, on a CPU: Faster R-CNN on ResNet-18 at 320 pixels trains at 2.2 times the rate."""
