"""The family of classifiers, built by torchvision and timm: images_NCHW -> logits_NK.

Images are float32, normalised with the row's `mean` and `std`. timm takes seconds to import, so it is imported when one
of its networks is built.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn

from clearsight.catalogue.models import ModelRow
from clearsight.errors import UserError
from clearsight.networks.serving import GraphSignature
from clearsight.networks.weights import PretrainedRecord, load_classifier

__all__ = ["ClassifierFamily"]

_FREE_SIDES: Final = {2: "height", 3: "width"}


class ClassifierFamily:
    """`Family` of every classifier. Convolutional networks take images of any size."""

    default_architecture: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def build(
        self, row: ModelRow, num_classes: int, architecture: Mapping[str, Any], crop_size: int | None = None
    ) -> nn.Module:
        if num_classes < 1:
            raise UserError(f"num_classes must be at least 1, but got {num_classes}")
        size = row.crop_size if crop_size is None else crop_size
        if size < 1:
            raise UserError(f"crop_size must be at least 1, but got {size}")
        if row.fixed_size and size % row.size_multiple:
            raise UserError(f"crop_size must be a multiple of {row.size_multiple} for {row.model_name}, but got {size}")
        network: nn.Module
        if row.library == "timm":
            network = _build_with_timm(row, num_classes, size)
        else:
            network = torchvision.models.get_model(row.builder, weights=None, num_classes=num_classes, **row.options)
        return network

    def architecture(self, network: nn.Module) -> dict[str, Any]:
        return {}

    def load_pretrained(
        self, network: nn.Module, row: ModelRow, weights_dir: Path | None, pretrained: bool
    ) -> PretrainedRecord:
        return load_classifier(network, row, weights_dir, pretrained)

    def prepare_pretrained(self, network: nn.Module) -> None:
        """Change nothing."""

    def serving_module(self, network: nn.Module) -> nn.Module:
        return network.eval()

    def signature(self, row: ModelRow) -> GraphSignature:
        size = {} if row.fixed_size else _FREE_SIDES
        return GraphSignature(("images",), ("logits",), {"images": {0: "batch", **size}, "logits": {0: "batch"}})

    def example_inputs(self, crop_size: int | None) -> tuple[torch.Tensor, ...]:
        size = crop_size or 224
        return (torch.zeros(2, 3, size, size),)


def _build_with_timm(row: ModelRow, num_classes: int, size: int) -> Any:
    try:
        timm = import_module("timm")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{row.model_name} needs timm, which is not installed: pip install 'clearsight[score]'"
        ) from error
    options = {**row.options, "img_size": size} if row.fixed_size else row.options
    return timm.create_model(f"{row.builder}.{row.weights_tag}", num_classes=num_classes, **options)
