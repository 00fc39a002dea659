"""Networks of every architecture, small enough for a test."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from clearsight.networks import registry
from clearsight.networks.registry import MODELS, NetworkSpec

# Narrower or fewer layers through arguments that the libraries' builders have.
_NARROW: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"width_mult": 0.25},
    "resnet50": {"width_per_group": 8},
    "resnet101": {"width_per_group": 8},
    "resnet152": {"width_per_group": 8},
    "resnest50": {"layers": (1, 1, 1, 1), "base_width": 16},
    "resnest101": {"layers": (1, 1, 1, 1), "base_width": 16},
    "seresnext": {"layers": (1, 1, 1, 1)},
    "vits16r224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "vitb16r224": {"depth": 2, "embed_dim": 64, "num_heads": 4},
    "vitl16r224": {"depth": 3, "embed_dim": 64, "num_heads": 4},
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], NetworkSpec]:
    """Makes the product build a narrow network under a model name; returns its row."""

    def make(model_name: str) -> NetworkSpec:
        spec = replace(MODELS[model_name], options=_NARROW.get(model_name, {}))
        monkeypatch.setattr(registry, "MODELS", MappingProxyType({**MODELS, model_name: spec}))
        return spec

    return make
