"""Builds networks by model name and loads their weights, through their families."""

from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import nn

from clearsight.catalogue.models import FAMILIES, find_row
from clearsight.networks.families.family import Family
from clearsight.networks.weights import PretrainedRecord

__all__ = ["build_network", "family_of", "load_pretrained"]


def family_of(model_name: str) -> Family[Any]:
    """The family of a model. Raises `UnknownModel`."""
    family: Family[Any] = resolve_name(FAMILIES[find_row(model_name).family].network)()
    return family


def build_network(
    model_name: str, num_classes: int, crop_size: int | None = None, architecture: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a network with random weights as `Family.build` does; without `architecture`, the family's default one."""
    family = family_of(model_name)
    chosen = family.default_architecture if architecture is None else architecture
    network: nn.Module = family.build(find_row(model_name), num_classes, chosen, crop_size)
    return network


def load_pretrained(
    network: nn.Module, model_name: str, weights_dir: Path | None = None, pretrained: bool = True
) -> PretrainedRecord:
    """Load pretrained weights into a network made by `build_network`, as `Family.load_pretrained` does."""
    return family_of(model_name).load_pretrained(network, find_row(model_name), weights_dir, pretrained)
