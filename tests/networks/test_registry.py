"""The map from model names to networks."""

import math
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from clearsight.catalogue.models import find_row, models_of
from clearsight.errors import UserError
from clearsight.networks.families.table import build_network
from clearsight.tasks import Task

MODELS = models_of(Task.MULTI_CLASS)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match="num_classes must be at least 1, but got 0"):
        build_network("resnet18", 0)


def test_a_network_for_images_without_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="crop_size must be at least 1, but got 0"):
        build_network("resnet18", 2, crop_size=0)


TORCHVISION = [name for name, spec in MODELS.items() if spec.library == "torchvision"]
TIMM = [name for name, spec in MODELS.items() if spec.library == "timm"]


@pytest.mark.parametrize("size", [0, 8, 200])
def test_a_vit_cuts_its_image_into_whole_patches(size: int) -> None:
    with pytest.raises(UserError, match=f"crop_size must be .*, but got {size}"):
        build_network("vits16r224", 2, crop_size=size)


# For 1000 classes, from the papers and model cards: arXiv:2010.11929 (ViT), arXiv:2004.08955 (ResNeSt), timm's results.
PUBLISHED = {
    "resnest50": 27_483_240,
    "resnest101": 48_275_016,
    "seresnext": 27_559_896,
    "vits16r224": 22_050_664,
    "vitb16r224": 86_567_656,
    "vitl16r224": 304_326_632,
}


@pytest.mark.parametrize("model_name", MODELS)
def test_a_network_has_the_parameters_published_for_its_architecture(model_name: str) -> None:
    spec = MODELS[model_name]
    published = PUBLISHED.get(model_name)
    if published is None:
        published = torchvision.models.get_model_weights(spec.builder)[spec.weights_tag].meta["num_params"]
    with torch.device("meta"):
        network = build_network(model_name, 4)
    width = network.get_submodule(*spec.head).in_features
    assert isinstance(width, int)
    assert sum(parameter.numel() for parameter in network.parameters()) == published - 996 * (width + 1)


@pytest.mark.parametrize("model_name", MODELS)
def test_the_table_of_the_documentation_says_what_the_registry_says(model_name: str) -> None:
    spec = MODELS[model_name]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_network(model_name, 4).parameters())
    row = (
        f"| `{model_name}` | {spec.library} `{spec.builder}` | {count / 1e6:.2f} M | {spec.resize_size} / "
        f"{spec.crop_size} | {spec.interpolation} | `{spec.weights_tag}` | {spec.licence} |"
    )
    page = Path(__file__).resolve().parents[2] / "docs" / "20-training.md"
    assert row in page.read_text().splitlines()


@pytest.mark.parametrize("model_name", TIMM)
def test_preprocessing_numbers_are_those_of_timms_pretrained_weights(model_name: str) -> None:
    spec = MODELS[model_name]
    published = timm.get_pretrained_cfg(f"{spec.builder}.{spec.weights_tag}")
    assert published.input_size == (3, spec.crop_size, spec.crop_size)
    assert spec.resize_size == math.floor(spec.crop_size / published.crop_pct)  # as timm's create_transform has it
    assert (spec.mean, spec.std) == (published.mean, published.std)
    assert spec.interpolation == published.interpolation
    assert spec.head == (published.classifier,)
    assert published.hf_hub_id == f"timm/{spec.builder}.{spec.weights_tag}"


@pytest.mark.parametrize("model_name", TORCHVISION)
def test_preprocessing_numbers_are_those_the_pretrained_weights_were_made_with(model_name: str) -> None:
    spec = MODELS[model_name]
    recipe = torchvision.models.get_model_weights(spec.builder)[spec.weights_tag].transforms()
    assert [spec.resize_size] == recipe.resize_size
    assert [spec.crop_size] == recipe.crop_size
    assert list(spec.mean) == recipe.mean
    assert list(spec.std) == recipe.std
    assert spec.interpolation == recipe.interpolation.value


@pytest.mark.parametrize("model_name", MODELS)
def test_every_parameter_is_in_one_freeze_group_or_is_named_as_always_trained(model_name: str) -> None:
    spec = MODELS[model_name]
    groups = [*spec.freeze_groups, (f"{spec.head[0]}.",)]
    if spec.fixed_size:
        beyond = tuple(f"blocks.{index}." for index in range(12, 24)) if model_name == "vitl16r224" else ()
        groups.append(("cls_token", "pos_embed", "norm.", *beyond))
    with torch.device("meta"):
        network = build_network(model_name, 4)
    for name, _ in network.named_parameters():
        assert sum(name.startswith(group) for group in groups) == 1, name


@pytest.mark.parametrize(
    ("model_name", "layers", "prefixes"),
    [
        ("resnet18", 0, ()),
        ("resnet18", 1, ("conv1.", "bn1.")),
        ("resnet18", 5, ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")),
        ("mobilenetv2", 2, ("features.0.", "features.1.")),
        ("resnet152", 2, ("conv1.", "bn1.", "layer1.")),
        ("seresnext", 2, ("conv1.", "bn1.", "layer1.")),
        ("resnest50", 1, ("conv1.", "bn1.")),
        ("vitl16r224", 2, ("patch_embed.", "blocks.0.")),
    ],
)
def test_freezing_goes_from_the_input_on(model_name: str, layers: int, prefixes: tuple[str, ...]) -> None:
    assert find_row(model_name).frozen_prefixes(layers) == prefixes


@pytest.mark.parametrize(
    ("model_name", "layers", "limit"), [("resnet18", 6, 5), ("mobilenetv2", 20, 19), ("vitl16r224", 14, 13)]
)
def test_freezing_more_than_there_is_names_the_limit(model_name: str, layers: int, limit: int) -> None:
    with pytest.raises(UserError, match=f"must be 0 to {limit} for {model_name}, but got {layers}"):
        find_row(model_name).frozen_prefixes(layers)


def test_an_unknown_name_lists_the_known_ones_and_suggests_the_near_one() -> None:
    with pytest.raises(UserError, match=r"one of \['mobilenetv2', .*'vits16r224'\], but got 'ResNet18'; did you mean"):
        find_row("ResNet18", Task.MULTI_CLASS)
