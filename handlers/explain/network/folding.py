"""A convolutional network seen at work once: which batch norm follows which convolution, where its features end."""

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["Structure", "fold_batch_norms", "observe"]

_SIDE: Final = 64
"""Pixels of the image to look at: twice the stride of our networks, so that pooled features, 1 x 1, stand out."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Names of modules."""

    folds: tuple[tuple[str, str], ...]
    """Convolution and the batch norm that alone takes its output."""
    last_features: str | None
    """The module that puts out the last image of features, (N, C, u, v), before pooling."""
    behind_features: frozenset[str]
    """What runs after that module."""


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    module: nn.Module
    given: torch.Tensor | None
    output: Any


def observe(network: nn.Module) -> Structure:
    """Run a network in evaluation mode on a grey image of 64 pixels."""
    calls: list[_Call] = []  # in the order in which they end; it keeps every tensor, so that none takes another's place

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            given = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
            calls.append(_Call(name, module, given, output))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        parameter = next(network.parameters())
        with torch.no_grad():
            network(torch.zeros(1, 3, _SIDE, _SIDE, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    last, behind = _last_features(network, calls)
    return Structure(_folds(calls), last, behind)


def fold_batch_norms(network: nn.Module, structure: Structure) -> None:
    """Multiply batch norms into the convolutions before them, in place; outputs change by rounding only."""
    for convolution_name, norm_name in structure.folds:
        convolution = cast(nn.Conv2d, network.get_submodule(convolution_name))
        norm = cast(nn.BatchNorm2d, network.get_submodule(norm_name))
        network.set_submodule(convolution_name, fuse_conv_bn_eval(convolution, norm))
        network.set_submodule(norm_name, nn.Identity())


def _folds(calls: list[_Call]) -> tuple[tuple[str, str], ...]:
    leaves = [call for call in calls if not any(True for _ in call.module.children())]
    counts: dict[int, int] = {}
    for call in leaves:
        counts[id(call.module)] = counts.get(id(call.module), 0) + 1
    made_by = {id(call.output): call for call in leaves if type(call.module) is nn.Conv2d}
    takers: dict[int, list[_Call]] = {}
    for call in leaves:
        if id(call.given) in made_by:
            takers.setdefault(id(call.given), []).append(call)
    return tuple(
        (made_by[tensor].name, taken[0].name)
        for tensor, taken in takers.items()
        if len(taken) == 1
        and type(taken[0].module) is nn.BatchNorm2d
        and counts[id(taken[0].module)] == counts[id(made_by[tensor].module)] == 1
    )


def _last_features(network: nn.Module, calls: list[_Call]) -> tuple[str | None, frozenset[str]]:
    """Find the last output with more than one pixel; of the modules that put it out, name the whole last block."""
    images = [
        index
        for index, call in enumerate(calls)
        if isinstance(call.output, torch.Tensor) and call.output.ndim == 4 and max(call.output.shape[2:]) > 1
    ]
    if not images:
        return None, frozenset()
    last = calls[images[-1]].output
    same = sorted((call.name for call in calls if call.output is last), key=lambda name: name.count("."))
    names_in_stage = [name for name in same if name.count(".") > same[0].count(".")]
    is_stage = isinstance(network.get_submodule(same[0]), nn.Sequential)
    name = names_in_stage[0] if is_stage and names_in_stage else same[0]
    return name, frozenset(call.name for call in calls[images[-1] + 1 :])
