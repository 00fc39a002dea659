"""The map from Azure's model names to networks: one read-only table, built on torchvision and timm.

timm takes seconds to import, so it is imported when one of its networks is built. A network takes images_NCHW (float32,
normalised with the spec's `mean` and `std`) and returns logits_NK.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, Literal

import torchvision  # type: ignore[import-untyped]
from torch import nn

from clearsight.errors import UserError

__all__ = ["MODELS", "PATCH_SIZE", "NetworkSpec", "UnknownModel", "build_network", "frozen_prefixes", "spec_for"]

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_HALF: Final = (0.5, 0.5, 0.5)

PATCH_SIZE: Final = 16
"""Side of the squares that a ViT cuts its image into, pixels."""


class UnknownModel(UserError):
    """No network has this name."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One row of the map. The numbers of preprocessing are those the pretrained weights were made with."""

    model_name: str
    """Azure's name, case-sensitive."""
    library: Literal["torchvision", "timm"]
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
    """Whether a network, once built, takes images of one size only."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the library's builder beyond the number of classes."""


_STAGES: Final = (("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",))


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
        freeze_groups=_STAGES,
        resize_size=resize_size,
        crop_size=224,
    )


def _timm_resnet(
    model_name: str,
    builder: str,
    weights_tag: str,
    resize_size: int,
    crop_size: int,
    interpolation: Literal["bilinear", "bicubic"],
) -> NetworkSpec:
    """Azure calls the stem of SE-ResNeXt `layer0`; in timm it is conv1 and bn1, as in every ResNet."""
    return NetworkSpec(
        model_name=model_name,
        library="timm",
        builder=builder,
        weights_tag=weights_tag,
        licence="Apache-2.0",
        head="fc",
        freeze_groups=_STAGES,
        resize_size=resize_size,
        crop_size=crop_size,
        interpolation=interpolation,
    )


def _vit(model_name: str, builder: str) -> NetworkSpec:
    """Make a row. Azure names 13 groups to freeze, for ViT-L too: the patch embedding and the first twelve blocks.

    Class token and position embeddings are in none, so that positions made for another image size go on learning.
    """
    return NetworkSpec(
        model_name=model_name,
        library="timm",
        builder=builder,
        weights_tag="augreg_in21k_ft_in1k",
        licence="Apache-2.0",
        head="head",
        freeze_groups=(("patch_embed.",), *((f"blocks.{index}.",) for index in range(12))),
        resize_size=248,
        crop_size=224,
        interpolation="bicubic",
        mean=_HALF,
        std=_HALF,
        fixed_size=True,
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
    _timm_resnet("resnest50", "resnest50d", "in1k", 256, 224, "bilinear"),
    _timm_resnet("resnest101", "resnest101e", "in1k", 292, 256, "bilinear"),
    _timm_resnet("seresnext", "seresnext50_32x4d", "racm_in1k", 256, 224, "bicubic"),
    _vit("vits16r224", "vit_small_patch16_224"),
    _vit("vitb16r224", "vit_base_patch16_224"),
    _vit("vitl16r224", "vit_large_patch16_224"),
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

    `crop_size` is the side, in pixels, of the images it is to take; by default that of its published weights. The
    convolutional networks take any size, built for it or not; a ViT takes the size that it was built for, a multiple
    of `PATCH_SIZE`.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, but got {num_classes}")
    spec = spec_for(model_name)
    size = spec.crop_size if crop_size is None else crop_size
    if size < 1:
        raise UserError(f"crop_size must be at least 1, but got {size}")
    if spec.fixed_size and size % PATCH_SIZE:
        raise UserError(f"crop_size must be a multiple of {PATCH_SIZE} for {model_name}, but got {size}")
    network: nn.Module
    if spec.library == "timm":
        network = _build_with_timm(spec, num_classes, size)
    else:
        network = torchvision.models.get_model(spec.builder, weights=None, num_classes=num_classes, **spec.options)
    return network


def _build_with_timm(spec: NetworkSpec, num_classes: int, size: int) -> Any:
    try:
        timm = import_module("timm")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{spec.model_name} needs timm, which is not installed: pip install 'clearsight[score]'"
        ) from error
    options = {**spec.options, "img_size": size} if spec.fixed_size else spec.options
    return timm.create_model(f"{spec.builder}.{spec.weights_tag}", num_classes=num_classes, **options)


def frozen_prefixes(model_name: str, layers_to_freeze: int) -> tuple[str, ...]:
    """Parameter-name prefixes of the first `layers_to_freeze` groups; 0 freezes nothing."""
    groups = spec_for(model_name).freeze_groups
    if not 0 <= layers_to_freeze <= len(groups):
        raise UserError(f"layers_to_freeze must be 0 to {len(groups)} for {model_name}, but got {layers_to_freeze}")
    return tuple(prefix for group in groups[:layers_to_freeze] for prefix in group)
