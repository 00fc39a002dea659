"""The map from model names to networks."""

from pathlib import Path

import pytest
import torch
import torchvision

from clearsight.errors import UserError
from clearsight.networks.registry import MODELS, build_network, frozen_prefixes, spec_for


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match="num_classes must be at least 1, but got 0"):
        build_network("resnet18", 0)


def test_a_network_for_pictures_without_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="crop_size must be at least 1, but got 0"):
        build_network("resnet18", 2, crop_size=0)


@pytest.mark.parametrize("model_name", MODELS)
def test_a_network_has_the_parameters_published_for_its_architecture(model_name: str) -> None:
    spec = MODELS[model_name]
    published = torchvision.models.get_model_weights(spec.builder)[spec.weights_tag].meta["num_params"]
    with torch.device("meta"):
        network = build_network(model_name, 4)
    width = network.get_submodule(spec.head).in_features
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


@pytest.mark.parametrize("model_name", MODELS)
def test_preprocessing_numbers_are_those_the_pretrained_weights_were_made_with(model_name: str) -> None:
    spec = MODELS[model_name]
    recipe = torchvision.models.get_model_weights(spec.builder)[spec.weights_tag].transforms()
    assert [spec.resize_size] == recipe.resize_size
    assert [spec.crop_size] == recipe.crop_size
    assert list(spec.mean) == recipe.mean
    assert list(spec.std) == recipe.std
    assert spec.interpolation == recipe.interpolation.value


@pytest.mark.parametrize("model_name", MODELS)
def test_every_parameter_is_in_one_freeze_group_or_in_the_head(model_name: str) -> None:
    spec = MODELS[model_name]
    groups = [*spec.freeze_groups, (f"{spec.head}.",)]
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
    ],
)
def test_freezing_goes_from_the_input_on(model_name: str, layers: int, prefixes: tuple[str, ...]) -> None:
    assert frozen_prefixes(model_name, layers) == prefixes


@pytest.mark.parametrize(("model_name", "layers", "limit"), [("resnet18", 6, 5), ("mobilenetv2", 20, 19)])
def test_freezing_more_than_there_is_names_the_limit(model_name: str, layers: int, limit: int) -> None:
    with pytest.raises(UserError, match=f"must be 0 to {limit} for {model_name}, but got {layers}"):
        frozen_prefixes(model_name, layers)


def test_an_unknown_name_lists_the_known_ones_and_suggests_the_near_one() -> None:
    with pytest.raises(UserError, match=r"one of \['mobilenetv2', .*'resnet50'\], but got 'ResNet18'; did you mean"):
        spec_for("ResNet18")
