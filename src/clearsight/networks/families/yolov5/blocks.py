"""The blocks of the network. Maps are (N, channels, H, W); blocks keep H and W unless a stride says otherwise."""

import torch
from torch import nn

__all__ = ["Concat", "ConvBlock", "CrossStage", "PyramidPool", "Residual"]


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.act(self.bn(self.conv(maps)))
        return activated


class Residual(nn.Module):
    """A 1x1 and a 3x3 convolution of equal width; `add` adds the input to the result."""

    def __init__(self, channels: int, add: bool) -> None:
        super().__init__()
        self.cv1 = ConvBlock(channels, channels, 1)
        self.cv2 = ConvBlock(channels, channels, 3)
        self.add = add

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.cv2(self.cv1(maps))
        return maps + changed if self.add else changed


class CrossStage(nn.Module):
    """Cross-stage partial block (CSPNet, arXiv 1911.11929): half of the width goes through `repeats` residuals."""

    def __init__(self, inputs: int, outputs: int, repeats: int, add: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = ConvBlock(inputs, half, 1)
        self.cv2 = ConvBlock(inputs, half, 1)
        self.cv3 = ConvBlock(2 * half, outputs, 1)
        self.m = nn.Sequential(*(Residual(half, add) for _ in range(repeats)))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        merged: torch.Tensor = self.cv3(torch.cat([self.m(self.cv1(maps)), self.cv2(maps)], dim=1))
        return merged


class PyramidPool(nn.Module):
    """Spatial pyramid pooling (arXiv 1406.4729): three 5x5 max-pools in a row cover 5, 9 and 13 cells."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = inputs // 2
        self.cv1 = ConvBlock(inputs, half, 1)
        self.cv2 = ConvBlock(4 * half, outputs, 1)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        pooled = [self.cv1(maps)]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        merged: torch.Tensor = self.cv2(torch.cat(pooled, dim=1))
        return merged


class Concat(nn.Module):
    """Two maps of equal H and W, one after the other in channels."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.cat([first, second], dim=1)
