"""The YOLOv5 graph in its five sizes: backbone (layers 0 to 9), neck (10 to 23), head (24).

Layers are numbered, and named `model.<number>.`, as in every published table of this network: `layers_to_freeze`
counts them, and state dicts of others have these names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

import torch
from torch import nn

from clearsight.errors import UserError
from clearsight.networks.families.yolov5.anchors import DEFAULT_ANCHORS
from clearsight.networks.families.yolov5.blocks import Concat, ConvBlock, CrossStage, PyramidPool
from clearsight.networks.families.yolov5.decode import boxes_and_scores, decode
from clearsight.networks.families.yolov5.head import STRIDES, Head

__all__ = ["SIZES", "Size", "Yolov5", "build_yolov5", "name_of_size"]


@dataclass(frozen=True, slots=True)
class Size:
    """How a size scales the graph."""

    depth: float
    """Factor of the number of repeated blocks."""
    width: float
    """Factor of the number of channels."""

    def repeats(self, base: int) -> int:
        return max(round(base * self.depth), 1)

    def channels(self, base: int) -> int:
        """Multiples of 8."""
        return math.ceil(base * self.width / 8) * 8


SIZES: Final[Mapping[str, Size]] = MappingProxyType(
    {
        "nano": Size(0.33, 0.25),
        "small": Size(0.33, 0.50),
        "medium": Size(0.67, 0.75),
        "large": Size(1.0, 1.0),
        "xlarge": Size(1.33, 1.25),
    }
)
"""Azure's sizes as `settings.json` spells them, and a smaller one."""


class Yolov5(nn.Module):
    """A detector. Takes images_NCHW, float32 RGB in [0, 1]; H and W are multiples of 32, at least 32.

    In training mode it returns the raw levels of `Head`, for `Yolov5Loss`; in evaluation mode predictions_NCV, those
    levels after `decode`.
    """

    def __init__(self, size: Size, num_classes: int) -> None:
        super().__init__()
        c64, c128, c256, c512, c1024 = (size.channels(base) for base in (64, 128, 256, 512, 1024))
        n3, n6, n9 = (size.repeats(base) for base in (3, 6, 9))
        self.size = size
        self.num_classes = num_classes
        self.model = nn.ModuleList(
            [
                ConvBlock(3, c64, kernel=6, stride=2, padding=2),
                ConvBlock(c64, c128, kernel=3, stride=2),
                CrossStage(c128, c128, n3, add=True),
                ConvBlock(c128, c256, kernel=3, stride=2),
                CrossStage(c256, c256, n6, add=True),
                ConvBlock(c256, c512, kernel=3, stride=2),
                CrossStage(c512, c512, n9, add=True),
                ConvBlock(c512, c1024, kernel=3, stride=2),
                CrossStage(c1024, c1024, n3, add=True),
                PyramidPool(c1024, c1024),
                ConvBlock(c1024, c512, kernel=1),
                nn.Upsample(scale_factor=2, mode="nearest"),
                Concat(),
                CrossStage(2 * c512, c512, n3, add=False),
                ConvBlock(c512, c256, kernel=1),
                nn.Upsample(scale_factor=2, mode="nearest"),
                Concat(),
                CrossStage(2 * c256, c256, n3, add=False),
                ConvBlock(c256, c256, kernel=3, stride=2),
                Concat(),
                CrossStage(2 * c256, c512, n3, add=False),
                ConvBlock(c512, c512, kernel=3, stride=2),
                Concat(),
                CrossStage(2 * c512, c1024, n3, add=False),
                Head((c256, c512, c1024), num_classes, torch.from_numpy(DEFAULT_ANCHORS)),
            ]
        )

    level_strides = STRIDES

    @property
    def head(self) -> Head:
        return cast(Head, self.model[24])

    def levels(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """Raw predictions (N, A, H / stride, W / stride, V) at strides 8, 16 and 32, in either mode."""
        levels: list[torch.Tensor] = self.head(self.features(images_NCHW))
        return levels

    def features(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """What the head predicts from, at strides 8, 16 and 32."""
        height, width = images_NCHW.shape[2:]
        # In a traced graph the check would hold for the example's size only.
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and (height % STRIDES[-1] or width % STRIDES[-1]):
            raise ValueError(f"height and width must be multiples of {STRIDES[-1]}, but got {height} x {width}")
        layer = self.model
        p3 = self._run(images_NCHW, 0, 4)
        p4 = self._run(p3, 5, 6)
        p5 = self._run(p4, 7, 9)
        # From coarse to fine, then back (PANet, arXiv 1803.01534).
        n5 = layer[10](p5)
        n4 = layer[14](layer[13](layer[12](layer[11](n5), p4)))
        o3 = layer[17](layer[16](layer[15](n4), p3))
        o4 = layer[20](layer[19](layer[18](o3), n4))
        o5 = layer[23](layer[22](layer[21](o4), n5))
        return [o3, o4, o5]

    def _run(self, maps: torch.Tensor, first: int, last: int) -> torch.Tensor:
        for index in range(first, last + 1):
            maps = self.model[index](maps)
        return maps

    def dense(self, levels: list[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """boxes_xyxy (N, C, 4) in pixels and scores (N, C, K), in the order of `decode`; `levels` are `features`."""
        return boxes_and_scores(decode(self.head(levels), self.head.anchors))

    def forward(self, images_NCHW: torch.Tensor) -> list[torch.Tensor] | torch.Tensor:
        levels = self.levels(images_NCHW)
        return levels if self.training else decode(levels, self.head.anchors)


def build_yolov5(size: str, num_classes: int) -> Yolov5:
    """Build a detector with random weights (drawn from torch's global generator), in training mode.

    `size` is a key of `SIZES`; `extra_large`, the word of job files, is `xlarge`. Raises `UserError`.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, but got {num_classes}")
    name = "xlarge" if size == "extra_large" else size
    if name not in SIZES:
        raise UserError(f"model_size of yolov5 must be one of {sorted(SIZES)}, but got {size!r}")
    return Yolov5(SIZES[name], num_classes)


def name_of_size(size: Size) -> str:
    """The key of `SIZES` under which a size stands."""
    return next(name for name, other in SIZES.items() if other == size)
