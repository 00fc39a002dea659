"""Weights that timm publishes, and position embeddings at other image sizes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.errors
import pytest
import torch
from safetensors.torch import save_file

from clearsight.catalogue.models import ModelRow
from clearsight.errors import UserError, WeightsMissing
from clearsight.networks.families.table import build_network, load_pretrained

VIT = "vits16r224"
REPOSITORY = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """An empty cache of the hub, and a download that fails as it does without a network; returns what was asked."""
    asked: list[tuple[Any, ...]] = []

    def fail(*args: Any, **kwargs: Any) -> str:
        asked.append(args)
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand no file")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.delenv("CLEARSIGHT_WEIGHTS", raising=False)
    monkeypatch.delenv("CLEARSIGHT_OFFLINE", raising=False)
    return asked


@pytest.fixture
def vit_state(narrow: Callable[[str], ModelRow]) -> dict[str, torch.Tensor]:
    """A narrow ViT for images of 32 with 3 classes; its position embeddings are numbered row by row."""
    narrow(VIT)
    state = build_network(VIT, 3, crop_size=32).state_dict()
    numbers = torch.tensor([9.0, 0.0, 1.0, 2.0, 3.0])  # the class token's, then a grid of 2 x 2
    return {**state, "pos_embed": numbers[None, :, None].expand_as(state["pos_embed"]).contiguous()}


def test_nothing_cached_and_no_network_give_one_line_with_both_ways_out(
    vit_state: dict[str, torch.Tensor], no_network: list[tuple[Any, ...]]
) -> None:
    with pytest.raises(WeightsMissing) as caught:
        load_pretrained(build_network(VIT, 2), VIT)
    message = str(caught.value)
    assert "\n" not in message
    for part in (REPOSITORY, "no connection and no file", "x_weights_dir", "x_pretrained: false"):
        assert part in message
    assert no_network == [(REPOSITORY, "model.safetensors")]
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY


def test_offline_asks_for_no_download(
    vit_state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, no_network: list[tuple[Any, ...]]
) -> None:
    monkeypatch.setenv("CLEARSIGHT_OFFLINE", "1")
    with pytest.raises(WeightsMissing, match="CLEARSIGHT_OFFLINE forbids the download"):
        load_pretrained(build_network(VIT, 2), VIT)
    assert no_network == []


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_224.augreg_in21k_ft_in1k.safetensors",
        "vit_small_patch16_224.augreg_in21k_ft_in1k/model.safetensors",
        "vits16r224_mine.safetensors",
        "vit_small_patch16_224.safetensors",
    ],
)
def test_a_file_of_the_folder_loads_whole_but_for_the_head(
    name: str, vit_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "weights" / name
    file.parent.mkdir(parents=True)
    save_file(vit_state, file)
    network = build_network(VIT, 5, crop_size=32)
    record = load_pretrained(network, VIT, tmp_path / "weights")
    assert (record.source, record.file, record.tag, record.new_head) == ("folder", file.name, None, True)
    assert not record.resized_positions
    for key, tensor in network.state_dict().items():
        assert key.startswith("head.") or torch.equal(tensor, vit_state[key]), key


def test_the_hubs_cache_is_recorded_with_tag_and_licence(vit_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    root = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    for folder in ("blobs", "refs", "snapshots/c0ffee"):
        (root / folder).mkdir(parents=True)
    save_file(vit_state, root / "blobs" / "new")
    sha256 = hashlib.sha256((root / "blobs" / "new").read_bytes()).hexdigest()
    (root / "blobs" / "new").rename(root / "blobs" / sha256)
    (root / "refs" / "main").write_text("c0ffee")
    (root / "snapshots" / "c0ffee" / "model.safetensors").symlink_to(f"../../blobs/{sha256}")
    record = load_pretrained(build_network(VIT, 2, crop_size=32), VIT)
    assert (record.source, record.sha256) == ("cache", sha256)
    assert (record.tag, record.licence) == ("augreg_in21k_ft_in1k", "Apache-2.0")


def test_positions_are_interpolated_to_the_image_size(vit_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(vit_state, tmp_path / "vits16r224.safetensors")
    network = build_network(VIT, 3, crop_size=64)
    record = load_pretrained(network, VIT, tmp_path)
    assert record.resized_positions
    positions = network.state_dict()["pos_embed"]
    assert positions.shape[:2] == (1, 1 + 4 * 4)
    assert (positions[0, 0] == 9).all()  # the class token is not interpolated
    grid = positions[0, 1:, 0].reshape(4, 4)
    # A symmetric filter keeps the mean, (0 + 1 + 2 + 3) / 4, and the order along both axes.
    assert grid.mean().item() == pytest.approx(1.5)
    assert (grid.diff(dim=0) > 0).all()
    assert (grid.diff(dim=1) > 0).all()
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_positions_of_another_width_are_refused(vit_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({**vit_state, "pos_embed": torch.zeros(1, 5, 32)}, tmp_path / "vits16r224.safetensors")
    with pytest.raises(UserError, match="'pos_embed'"):
        load_pretrained(build_network(VIT, 3, crop_size=64), VIT, tmp_path)
