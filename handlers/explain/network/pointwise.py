"""Equal bits from equal images: 1 x 1 convolutions of a single pixel."""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["steady_pointwise"]


def steady_pointwise(network: nn.Module) -> None:
    """Let 1 x 1 convolutions take a lone pixel as the linear layers that they are there, in place.

    Squeeze-and-excitation asks that of them at any image size, the last stages at 32 pixels. oneDNN sums the
    derivative of a wide one (1024 to 64 channels, say) in the order in which its threads come along, so that it
    differs in the last bits from call to call (torch 2.13, two threads); a matrix product does not, and two pixels or
    two images do not either.
    """
    pointwise = [
        (name, module)
        for name, module in network.named_modules()
        if type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.groups == 1
        and module.padding == (0, 0)
    ]
    for name, module in pointwise:
        network.set_submodule(name, _Pointwise(module))


class _Pointwise(nn.Module):
    """Stands in place of `convolution`."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x_NCuv: torch.Tensor) -> torch.Tensor:
        if x_NCuv.shape[0] * x_NCuv.shape[2] * x_NCuv.shape[3] != 1:
            found: torch.Tensor = self.convolution(x_NCuv)
            return found
        weight_OC = self.convolution.weight.flatten(1)
        return functional.linear(x_NCuv.flatten(1), weight_OC, self.convolution.bias)[..., None, None]
