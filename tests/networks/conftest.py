"""Networks of every architecture, small enough for a test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from clearsight.catalogue import models
from clearsight.catalogue.models import MODELS, ModelRow

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
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModelRow]:
    """Makes the product build a narrow network under a model name; returns its row."""

    def make(model_name: str) -> ModelRow:
        spec = replace(MODELS[model_name], options=_NARROW.get(model_name, {}))
        monkeypatch.setitem(models._ROWS, model_name, spec)
        return spec

    return make


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and a download that fails as it does without a network; returns the addresses asked for."""
    asked: list[str] = []

    def fail(url: str, *args: Any, **kwargs: Any) -> None:
        asked.append(url)
        raise URLError("[Errno -2] Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("CLEARSIGHT_WEIGHTS", raising=False)
    monkeypatch.delenv("CLEARSIGHT_OFFLINE", raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return asked
