"""A batch of images of different sizes, and the objects in them.

Shapes in names: N images, C colour channels, H height, W width, M objects of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

__all__ = ["SIDE_MULTIPLE", "Size", "TrainingTarget", "pad_to_multiple", "pad_together", "padded_side"]

SIDE_MULTIPLE: Final = 32
"""Stride of the backbone: levels of the pyramid then cover the image exactly."""

Size = tuple[int, int]
"""Height and width of an image inside its padding, pixels."""


@dataclass(frozen=True, slots=True)
class TrainingTarget:
    """The objects of one image; there may be none."""

    boxes_xyxy_M4: torch.Tensor
    """float32, pixels of the network's input, each with an area."""
    class_ids_M: torch.Tensor
    """int64, from 0; there is no background class."""
    masks_MHW: torch.Tensor | None = None
    """uint8, 1 on the object, of the image's size; Mask R-CNN needs it."""


def pad_together(images_CHW: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[Size]]:
    """images_NCHW of normalised images and their own sizes: zeros, the mean colour, to the right and below."""
    sizes = [(image.shape[-2], image.shape[-1]) for image in images_CHW]
    height, width = (padded_side(max(sides)) for sides in zip(*sizes, strict=True))
    padded = [
        functional.pad(image, (0, width - own_width, 0, height - own_height))
        for image, (own_height, own_width) in zip(images_CHW, sizes, strict=True)
    ]
    return torch.stack(padded), sizes


def pad_to_multiple(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Images of one size with zeros to the right and below, up to `padded_side`; of any size inside a trace too."""
    height, width = images_NCHW.shape[2], images_NCHW.shape[3]
    return functional.pad(images_NCHW, (0, padded_side(width) - width, 0, padded_side(height) - height))


def padded_side(side: int) -> int:
    """The next multiple of `SIDE_MULTIPLE`."""
    return (side + SIDE_MULTIPLE - 1) // SIDE_MULTIPLE * SIDE_MULTIPLE
