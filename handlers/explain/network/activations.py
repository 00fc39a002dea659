"""Guided backpropagation (arXiv 1412.6806): rectifiers that pass gradients only where input and gradient are positive.

For the gradient g at input z of an activation `act`: g · act'(z) · [z > 0] · [g > 0]. For ReLU that is the rule of the
paper, for ReLU6 it also stops above the cap, since act' is 0 there; GELU, SiLU and the like keep their slope. Sigmoids,
tanh and softmax are gates, not rectifiers, and stay as they are.
"""

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

__all__ = ["GuidedActivation", "guided_copy", "is_rectifier"]

_RECTIFIERS: Final = frozenset(
    (
        "CELU",
        "ELU",
        "GELU",
        "GELUTanh",
        "HardMish",
        "HardSwish",
        "Hardswish",
        "LeakyReLU",
        "Mish",
        "PReLU",
        "QuickGELU",
        "ReLU",
        "ReLU6",
        "SELU",
        "SiLU",
        "Softplus",
        "Swish",
        # transformers has classes of its own for some
        "AccurateGELUActivation",
        "ClippedGELUActivation",
        "FastGELUActivation",
        "GELUActivation",
        "MishActivation",
        "NewGELUActivation",
        "QuickGELUActivation",
    )
)
"""Class names, since every library writes its own classes."""


def is_rectifier(module: nn.Module) -> bool:
    """Tell whether guided backpropagation has a rule for a module."""
    return any(base.__name__ in _RECTIFIERS for base in type(module).__mro__)


class GuidedActivation(nn.Module):
    """An activation with the guided rule in its backward pass; forward it is the activation itself."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return _positive_gradient(self.activation(_gradient_where_positive(z)))


def guided_copy(network: nn.Module) -> tuple[nn.Module, str]:
    """Copy a network's structure with guided rectifiers; the copy shares all parameters and buffers.

    Gives the copy and the names of the activations that got the rule (`relu`, `gelu`, `relu+silu`), or `none` when the
    network has no rectifier module: its guided gradient is then the plain one.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    guided = copy.deepcopy(network, shared)
    names = _replace(guided)
    return guided, "+".join(sorted(names)) or "none"


def _replace(module: nn.Module) -> set[str]:
    names: set[str] = set()
    for name, child in module.named_children():
        if is_rectifier(child):
            setattr(module, name, GuidedActivation(child))
            names.add(type(child).__name__.lower())
        else:
            names |= _replace(child)
    return names


class _OnlyWherePositive(torch.autograd.Function):
    """The identity; its gradient is that of the output where the input is positive, else 0."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(z > 0)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        is_positive: torch.Tensor
        (is_positive,) = ctx.saved_tensors
        return gradients[0] * is_positive


class _OnlyPositiveGradient(torch.autograd.Function):
    """The identity; its gradient is the positive part of that of the output."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor) -> torch.Tensor:
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0].clamp(min=0)


_gradient_where_positive: Final[Callable[[torch.Tensor], torch.Tensor]] = _OnlyWherePositive.apply
_positive_gradient: Final[Callable[[torch.Tensor], torch.Tensor]] = _OnlyPositiveGradient.apply
