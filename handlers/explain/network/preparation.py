"""Changes made to a copy of a network before it is explained: folded batch norms, recorded outputs, equal bits.

* `observe` runs a convolutional network once to find out which batch norm follows which convolution and where its
  feature maps end; `fold_batch_norms` folds the former.
* `Tap` replaces a module and records its output, without hooks.
* `steady_pointwise` makes 1 x 1 convolutions of a single pixel deterministic.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["Structure", "Tap", "fold_batch_norms", "observe", "recorded", "steady_pointwise"]

_SIDE: Final = 64
"""Side of the probe image in pixels: twice the stride of our networks, so that only pooled features are 1 x 1."""

_RECORDS: ContextVar[dict[str, torch.Tensor] | None] = ContextVar("records", default=None)


@dataclass(frozen=True, slots=True)
class Structure:
    """Structure of a network found by `observe`, as names of modules."""

    folds: tuple[tuple[str, str], ...]
    """Pairs of a convolution and the batch norm that is the only consumer of its output."""
    last_features: str | None
    """Module whose output is the last feature map, (N, C, u, v), before pooling; None: there is no feature map."""
    behind_features: frozenset[str]
    """Modules that run after `last_features`."""


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    module: nn.Module
    given: torch.Tensor | None
    output: Any


def observe(network: nn.Module) -> Structure:
    """Run a network in evaluation mode on a grey image of 64 x 64 pixels and record its calls."""
    calls: list[_Call] = []  # in the order in which they end; holds every tensor, so that no id is reused

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
    """Find the last output with more than one pixel; of the modules that return it, name the whole last block."""
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


def steady_pointwise(network: nn.Module) -> None:
    """Make 1 x 1 convolutions compute a single pixel as a linear layer, in place, so that results are deterministic.

    Squeeze-and-excitation applies them to one pixel at any image size, the last stages do at 32 pixels. oneDNN sums the
    derivative of a wide one (1024 to 64 channels, say) in the order in which its threads finish, so that it
    differs in the last bits from call to call (torch 2.13, two threads). A matrix product does not, nor do
    convolutions of two pixels or two images.
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
    """Replaces `convolution`; a single pixel goes through a matrix product."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x_NCuv: torch.Tensor) -> torch.Tensor:
        if x_NCuv.shape[0] * x_NCuv.shape[2] * x_NCuv.shape[3] != 1:
            found: torch.Tensor = self.convolution(x_NCuv)
            return found
        weight_OC = self.convolution.weight.flatten(1)
        return functional.linear(x_NCuv.flatten(1), weight_OC, self.convolution.bias)[..., None, None]


class Tap(nn.Module):
    """Replaces `inner` in a network permanently; its output goes to the `recorded()` block of the current thread."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.inner = inner
        self.name = name

    def forward(self, *args: torch.Tensor, **options: object) -> torch.Tensor:
        output: torch.Tensor = self.inner(*args, **options)
        records = _RECORDS.get()
        if records is not None:
            if torch.is_grad_enabled() and not output.requires_grad:
                # Nothing before this module is differentiated: the graph starts with this tensor.
                output.requires_grad_()
            records[self.name] = output
        return output


@contextmanager
def recorded() -> Iterator[dict[str, torch.Tensor]]:
    """Collect the outputs of all taps that run inside the block in this thread: by name, in execution order."""
    records: dict[str, torch.Tensor] = {}
    token = _RECORDS.set(records)
    try:
        yield records
    finally:
        _RECORDS.reset(token)
