"""The graph against published numbers: parameter counts, operations, start values; public names of tensors."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clearsight.catalogue.models import MODELS
from clearsight.errors import UserError
from clearsight.networks.families.yolov5.network import SIZES, Yolov5, build_yolov5
from clearsight.networks.families.yolov5.parameters import parameter_groups

# Published for 80 classes; the others by hand: 3 anchors x (input channels + 1) fewer per class and level.
COUNTS = {
    "nano": {80: 1_872_157, 20: 1_790_977, 4: 1_769_329, 1: 1_765_270},
    "small": {80: 7_235_389, 20: 7_073_569, 4: 7_030_417, 1: 7_022_326},
    "medium": {80: 21_190_557, 20: 20_948_097, 4: 20_883_441, 1: 20_871_318},
    "large": {80: 46_563_709, 20: 46_240_609, 4: 46_154_449, 1: 46_138_294},
    "xlarge": {80: 86_749_405, 20: 86_345_665, 4: 86_238_001, 1: 86_217_814},
}
NANO_LAYERS = {
    0: 1760, 1: 4672, 2: 4800, 3: 18560, 4: 29184, 5: 73984, 6: 156928, 7: 295424, 8: 296448, 9: 164608,
    10: 33024, 11: 0, 12: 0, 13: 90880, 14: 8320, 15: 0, 16: 0, 17: 22912, 18: 36992, 19: 0, 20: 74496, 21: 147712,
    22: 0, 23: 296448, 24: 115005,
}  # fmt: skip


def on_paper(size: str, num_classes: int) -> Yolov5:
    """A network without memory or arithmetic, for shapes and counts."""
    with torch.device("meta"):
        return build_yolov5(size, num_classes)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_as_many_as_published(size: str) -> None:
    assert {classes: count(on_paper(size, classes)) for classes in COUNTS[size]} == COUNTS[size]


@pytest.mark.parametrize(
    ("size", "convolutions", "after_folding"),
    [
        ("nano", 60, 1_867_405),
        ("small", 60, 7_225_885),
        ("medium", 82, 21_172_173),
        ("large", 104, 46_533_693),
        ("xlarge", 126, 86_705_005),
    ],
)
def test_convolutions_and_parameters_after_folding_batch_norm_are_as_many_as_published(
    size: str, convolutions: int, after_folding: int
) -> None:
    network = on_paper(size, 80)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == convolutions
    folded = sum(module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert count(network) - folded == after_folding  # a scale and a shift become one bias


def test_each_layer_of_nano_has_its_published_count() -> None:
    network = on_paper("nano", 80)
    assert {index: count(layer) for index, layer in enumerate(network.model)} == NANO_LAYERS


@pytest.mark.parametrize(
    ("size", "published"), [("nano", 4.5), ("small", 16.5), ("medium", 49.0), ("large", 109.1), ("xlarge", 205.7)]
)
def test_operations_at_640_pixels_are_as_many_as_published(size: str, published: float) -> None:
    """Published are 10^9 operations with some outside convolutions, which count here alone: up to 1 % fewer."""
    network = on_paper(size, 80)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 640, 640, device="meta"))
    assert 0.99 * published < counter.get_total_flops() / 1e9 <= published


def test_levels_have_the_shape_of_the_image_at_strides_8_16_32() -> None:
    network = on_paper("nano", 80)
    images = torch.empty(2, 3, 640, 480, device="meta")
    shapes = [tuple(level.shape) for level in network(images)]
    assert shapes == [(2, 3, 80, 60, 85), (2, 3, 40, 30, 85), (2, 3, 20, 15, 85)]
    assert network.eval()(images).shape == (2, 3 * (80 * 60 + 40 * 30 + 20 * 15), 85)


def test_a_square_of_640_pixels_has_25200_candidates() -> None:
    network = on_paper("nano", 4).eval()
    assert network(torch.empty(1, 3, 640, 640, device="meta")).shape == (1, 25_200, 9)


@pytest.mark.parametrize(("height", "width"), [(64, 80), (31, 64), (33, 33)])
def test_a_image_whose_sides_are_no_multiples_of_32_is_refused_by_name(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 32, but got {height} x {width}"):
        on_paper("nano", 4)(torch.empty(1, 3, height, width, device="meta"))


def test_an_empty_batch_gives_empty_predictions() -> None:
    assert build_yolov5("nano", 4).eval()(torch.empty(0, 3, 64, 64)).shape == (0, 252, 9)


def test_an_unknown_size_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"one of \['large', 'medium', 'nano', 'small', 'xlarge'\], but got 'huge'"):
        build_yolov5("huge", 4)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1, but got 0"):
        build_yolov5("nano", 0)


def test_the_word_of_job_files_for_the_largest_size_is_understood() -> None:
    assert count(on_paper("extra_large", 4)) == COUNTS["xlarge"][4]


@pytest.mark.parametrize(("num_classes", "class_bias"), [(1, 11.002), (4, -1.6094), (20, -3.4553), (80, -4.8803)])
def test_biases_start_at_the_rates_of_the_published_recipe(num_classes: int, class_bias: float) -> None:
    network = build_yolov5("nano", num_classes)
    for conv, channels, objectness_bias in zip(
        network.head.m, (64, 128, 256), (-6.6846, -5.2983, -3.9120), strict=True
    ):
        bias_AV = conv.get_parameter("bias").detach().view(3, -1)
        spread = channels**-0.5 + 1e-3  # torch's own start, to which the rates are added, is uniform within it
        assert (bias_AV[:, :4].abs() <= spread).all()
        assert ((bias_AV[:, 4] - objectness_bias).abs() <= spread).all()
        assert ((bias_AV[:, 5:] - class_bias).abs() <= spread).all()


def test_freeze_groups_are_the_ten_layers_of_the_backbone() -> None:
    network = on_paper("small", 4)
    names = [name for name, _ in network.named_parameters()]
    groups = MODELS["yolov5"].freeze_groups
    assert list(groups) == [(f"model.{index}.",) for index in range(10)]
    assert all(any(name.startswith(prefixes) for name in names) for prefixes in groups)
    backbone = tuple(prefix for prefixes in groups for prefix in prefixes)
    assert sum(p.numel() for name, p in network.named_parameters() if name.startswith(backbone)) == 4_171_456


def test_state_dict_names_are_the_public_ones() -> None:
    """So that a user's own state dict loads; the anchors, in cells, are part of it."""
    state = on_paper("nano", 4).state_dict()
    expected = (
        "model.0.conv.weight", "model.0.bn.running_var", "model.2.cv1.conv.weight", "model.2.m.0.cv2.bn.weight",
        "model.9.cv2.conv.weight", "model.23.cv3.conv.weight", "model.24.m.2.bias", "model.24.anchors",
    )  # fmt: skip
    assert set(expected) <= set(state)
    assert all(name.startswith("model.") for name in state)
    anchors_cells = build_yolov5("nano", 4).head.anchors
    torch.testing.assert_close(anchors_cells[0, 0], torch.tensor([1.25, 1.625]))
    torch.testing.assert_close(anchors_cells[2, 2], torch.tensor([11.65625, 10.1875]))


def test_weights_alone_bring_the_anchors_they_were_trained_with() -> None:
    network, other = build_yolov5("nano", 2), build_yolov5("nano", 2)
    network.head.set_anchors(torch.full((3, 3, 2), 64.0))
    other.load_state_dict(network.state_dict())
    assert other.head.anchors[:, 0, 0].tolist() == [8, 4, 2]


def test_parameter_groups_hold_every_trainable_parameter_once_and_decay_only_convolutions() -> None:
    network = on_paper("nano", 4)
    network.model[0].requires_grad_(False)
    groups = parameter_groups(network)
    grouped = [id(p) for group in (groups.weights, groups.norms, groups.biases) for p in group]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    assert len(groups.weights) == 59  # 60 convolutions, one frozen
    assert all(p.ndim == 4 for p in groups.weights)
    assert len(groups.norms) == 56  # as many, without the head's three
    assert len(groups.biases) == 59
    assert all(p.ndim == 1 for p in groups.norms + groups.biases)
