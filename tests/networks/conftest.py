"""Networks of every architecture, small enough for a test."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from clearsight.networks import registry
from clearsight.networks.registry import MODELS, NetworkSpec

# Narrower layers through arguments that the library's builders have; the depth, and with it every name, stays.
_NARROW: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"width_mult": 0.25},
    "resnet50": {"width_per_group": 8},
    "resnet101": {"width_per_group": 8},
    "resnet152": {"width_per_group": 8},
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], NetworkSpec]:
    """Makes the product build a narrow network under a model name; returns its row."""

    def make(model_name: str) -> NetworkSpec:
        spec = replace(MODELS[model_name], options=_NARROW.get(model_name, {}))
        monkeypatch.setattr(registry, "MODELS", MappingProxyType({**MODELS, model_name: spec}))
        return spec

    return make
