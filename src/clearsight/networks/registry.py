"""The map from Azure's model names to networks: one read-only table, built on torchvision.

A network takes images_NCHW (float32, normalised with the spec's `mean` and `std`) and returns logits_NK.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

import torchvision  # type: ignore[import-untyped]
from torch import nn

from clearsight.errors import UserError

__all__ = ["MODELS", "NetworkSpec", "UnknownModel", "build_network", "frozen_prefixes", "spec_for"]

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class UnknownModel(UserError):
    """No network has this name."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One row of the map. The numbers of preprocessing are those the pretrained weights were made with."""

    model_name: str
    """Azure's name, case-sensitive."""
    library: Literal["torchvision"]
    builder: str
    """Name of the builder in the library; also the prefix of its weight files."""
    weights_tag: str
    """The library's name of the pretrained weights."""
    licence: str
    """SPDX id of those weights."""
    head: str
    """Module name of the last layer; its shape follows the number of classes."""
    freeze_groups: tuple[tuple[str, ...], ...]
    """Prefixes of parameter names, from the input on: `layers_to_freeze: n` freezes the first n groups."""
    resize_size: int
    """Shorter side after resizing, pixels."""
    crop_size: int
    """Side of the centre crop, pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    fixed_size: bool = False
    """Whether a network, once built, takes pictures of one size only."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the library's builder beyond the number of classes."""


def _resnet(model_name: str, weights_tag: str, resize_size: int) -> NetworkSpec:
    """Make a row: stem, then four stages.

    The deep ones take the later weights, 80.9 against 76.1 % top-1 for resnet50 (torchvision's tables of weights); the
    shallow ones have only the first.
    """
    return NetworkSpec(
        model_name=model_name,
        library="torchvision",
        builder=model_name,
        weights_tag=weights_tag,
        licence="BSD-3-Clause",
        head="fc",
        freeze_groups=(("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)),
        resize_size=resize_size,
        crop_size=224,
    )


_ROWS: Final = (
    NetworkSpec(
        model_name="mobilenetv2",
        library="torchvision",
        builder="mobilenet_v2",
        weights_tag="IMAGENET1K_V2",
        licence="BSD-3-Clause",
        head="classifier.1",
        freeze_groups=tuple((f"features.{index}.",) for index in range(19)),
        resize_size=232,
        crop_size=224,
    ),
    _resnet("resnet18", "IMAGENET1K_V1", resize_size=256),
    _resnet("resnet34", "IMAGENET1K_V1", resize_size=256),
    _resnet("resnet50", "IMAGENET1K_V2", resize_size=232),
    _resnet("resnet101", "IMAGENET1K_V2", resize_size=232),
    _resnet("resnet152", "IMAGENET1K_V2", resize_size=232),
)

MODELS: Final[Mapping[str, NetworkSpec]] = MappingProxyType({spec.model_name: spec for spec in _ROWS})


def spec_for(model_name: str) -> NetworkSpec:
    """Look up a row; an unknown name raises `UnknownModel`, which lists the known ones."""
    try:
        return MODELS[model_name]
    except KeyError:
        near = difflib.get_close_matches(model_name, MODELS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownModel(f"model_name must be one of {sorted(MODELS)}, but got {model_name!r}{hint}") from None


def build_network(model_name: str, num_classes: int, crop_size: int | None = None) -> nn.Module:
    """Build a network with random weights (drawn from torch's global generator), in training mode.

    `crop_size` is the side, in pixels, of the pictures it is to take; by default that of its published weights. The
    convolutional networks take any size, built for it or not.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, but got {num_classes}")
    if crop_size is not None and crop_size < 1:
        raise UserError(f"crop_size must be at least 1, but got {crop_size}")
    spec = spec_for(model_name)
    network: nn.Module = torchvision.models.get_model(
        spec.builder, weights=None, num_classes=num_classes, **spec.options
    )
    return network


def frozen_prefixes(model_name: str, layers_to_freeze: int) -> tuple[str, ...]:
    """Parameter-name prefixes of the first `layers_to_freeze` groups; 0 freezes nothing."""
    groups = spec_for(model_name).freeze_groups
    if not 0 <= layers_to_freeze <= len(groups):
        raise UserError(f"layers_to_freeze must be 0 to {len(groups)} for {model_name}, but got {layers_to_freeze}")
    return tuple(prefix for group in groups[:layers_to_freeze] for prefix in group)
