"""Groups of parameters for the optimizer."""

from dataclasses import dataclass

from torch import nn

__all__ = ["ParameterGroups", "parameter_groups"]


@dataclass(frozen=True, slots=True)
class ParameterGroups:
    """The trainable parameters, each once."""

    weights: list[nn.Parameter]
    """Of convolutions: the only ones with weight decay."""
    norms: list[nn.Parameter]
    """Weights of batch norms."""
    biases: list[nn.Parameter]
    """Of head and batch norms; the published recipe warms them up apart, from a high learning rate down."""


def parameter_groups(network: nn.Module) -> ParameterGroups:
    """Sort the parameters that require gradients."""
    groups = ParameterGroups([], [], [])
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                groups.biases.append(parameter)
            elif isinstance(module, nn.BatchNorm2d):
                groups.norms.append(parameter)
            else:
                groups.weights.append(parameter)
    return groups
