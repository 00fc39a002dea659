"""The explain copy: derivatives against captum, rules against values by hand, every architecture."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from clearsight.handlers.explain.algorithms.cam_family import attention_relevance, gradcam, hirescam, layercam, upsample
from clearsight.handlers.explain.algorithms.integrated_gradients import integrated_gradients
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.activations import guided_copy
from clearsight.handlers.explain.network.functions import ExplainTarget
from clearsight.handlers.explain.network.model import ExplainModel, Features, Tokens, Transformer
from clearsight.handlers.explain.network.preparation import steady_pointwise
from clearsight.networks.families.table import build_network

SLOW = ("resnet34", "resnet50", "resnet101", "resnet152", "resnest101", "vitb16r224", "vitl16r224")
NAMES = ("mobilenetv2", "resnet18", "resnest50", "seresnext", "vits16r224", *SLOW)
LAYERS = {
    "mobilenetv2": "features.18",
    "resnet18": "layer4.1",
    "resnet34": "layer4.2",
    "resnet50": "layer4.2",
    "resnet101": "layer4.2",
    "resnet152": "layer4.2",
    "resnest50": "layer4.2",
    "resnest101": "layer4.2",
    "seresnext": "layer4.2",
    "vits16r224": "blocks.11.norm1",
    "vitb16r224": "blocks.11.norm1",
    "vitl16r224": "blocks.23.norm1",
}
ALL_NAMES = [
    pytest.param(name, marks=(pytest.mark.slow, pytest.mark.full_size) if name in SLOW else ()) for name in NAMES
]


def make(name, side=64, dtype=torch.float32):
    """A network with random weights whose batch norms have statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = build_network(name, 5, side)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.8, 1.4)
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.uniform_(module.bias, -0.1, 0.1)
    return network.to(dtype).eval()


def make_vit(**options):
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(4)
        return timm.create_model(
            "vit_small_patch16_224", embed_dim=32, depth=3, num_heads=2, num_classes=5, **{"img_size": 64, **options}
        ).eval()


def image(height=64, width=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(1, 3, height, width or height, generator=generator, dtype=torch.float64).to(dtype)


def difference(found, expected):
    return float((found - expected).norm() / expected.norm())


def oracle_of(network):
    """A copy on which captum's hooks work."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return network


class FourRectifiers(nn.Module):
    """h = act(x1, x2, x1 - x2, x2 - x1), y = h1 - 2 h2 + 3 h3 + 5 h4."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x_N2):
        x1, x2 = x_N2[:, 0], x_N2[:, 1]
        h = self.activation(torch.stack([x1, x2, x1 - x2, x2 - x1], dim=1))
        return h @ torch.tensor([1.0, -2.0, 3.0, 5.0])


def derive(network, *numbers):
    x_N2 = torch.tensor([numbers], requires_grad=True)
    return torch.autograd.grad(network(x_N2).sum(), x_N2)[0][0].tolist()


class TestGuidedRule:
    def test_relu_stops_gradients_that_are_negative(self):
        network = FourRectifiers(nn.ReLU())
        assert derive(network, 2.0, 1.0) == [4, -5]
        guided, rule = guided_copy(network)
        assert derive(guided, 2.0, 1.0) == [4, -3]
        assert rule == "relu"

    def test_relu6_stops_gradients_above_its_cap(self):
        guided, rule = guided_copy(FourRectifiers(nn.ReLU6()))
        assert derive(guided, 8.0, 1.0) == [0, 0]
        assert rule == "relu6"

    @pytest.mark.parametrize(
        "activation",
        [
            nn.ReLU(),
            nn.ReLU6(),
            nn.LeakyReLU(0.1),
            nn.PReLU(),
            nn.ELU(),
            nn.SELU(),
            nn.GELU(),
            nn.GELU(approximate="tanh"),
            nn.SiLU(),
            nn.Hardswish(),
            nn.Mish(),
        ],
        ids=repr,
    )
    def test_the_rule_is_slope_times_both_signs(self, activation):
        guided, rule = guided_copy(nn.Sequential(activation))
        z = torch.tensor([-4.0, -1.0, -0.2, 0.3, 1.0, 3.5, 7.0])
        plain = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(activation(plain).sum(), plain)
        for sign in (1.0, -2.0):
            z = z.detach().requires_grad_()
            (found,) = torch.autograd.grad((sign * guided(z)).sum(), z)
            expected = slope * sign * (z > 0) * (sign > 0)
            torch.testing.assert_close(found, expected)
        assert torch.equal(guided(z), activation(z))
        assert rule == type(activation).__name__.lower()

    @pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.Softmax(dim=1)], ids=repr)
    def test_gates_stay_as_they_are(self, gate):
        network = FourRectifiers(gate)
        guided, rule = guided_copy(network)
        assert rule == "none"
        assert derive(guided, 0.3, -0.2) == derive(network, 0.3, -0.2)

    def test_the_copy_shares_all_parameters(self):
        network = make("resnet18")
        guided, _ = guided_copy(network)
        pairs = zip(network.state_dict().values(), guided.state_dict().values(), strict=True)
        assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_architecture_is_ready_to_be_explained(name):
    network, x = make(name), image()
    model = ExplainModel(network, name)
    with torch.no_grad():
        assert difference(model.logits(x), network(x)) <= 1e-4
    assert model.target_layer == LAYERS[name]
    is_vit = name.startswith("vit")
    assert model.guided_rule == {"mobilenetv2": "relu6"}.get(name, "gelu" if is_vit else "relu")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model._network.modules())

    targets = [ExplainTarget(1), ExplainTarget(2, 0)]
    features = model.activations_and_gradients(x, targets)
    assert features[0].activations_Cuv.shape[1:] == ((4, 4) if is_vit else (2, 2))
    assert all(float(part.gradients_Cuv.abs().max()) > 0 for part in features)
    guided, plain = model.guided_gradients(targets)(x), model.gradients_of(targets)(x)
    for ours, theirs in zip(guided, plain, strict=True):
        assert ours.shape == theirs.shape == (1, 3, 64, 64)
        assert torch.isfinite(ours).all()
        assert difference(ours, theirs) > 0.5


class _Rectifications(TorchFunctionMode):
    """Counts calls of rectifying functions."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function in (functional.relu, functional.relu6, functional.gelu, functional.silu,
                                   functional.hardtanh, torch.relu, torch.relu_)  # fmt: skip
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18", "resnest50", "seresnext", "vits16r224"])
def test_no_rectifier_is_called_outside_the_modules_that_have_the_rule(name, monkeypatch):
    from clearsight.handlers.explain.network.activations import GuidedActivation

    model = ExplainModel(make(name), name)
    with _Rectifications() as outside, torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(GuidedActivation, "forward", lambda self, z: z)
        model._guided(image())
    assert outside.count == 0


@pytest.mark.parametrize(("name", "side"), [("resnet18", 96), ("resnest50", 64), ("seresnext", 64)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_guided_maps_are_those_of_captum(name, side):
    from captum.attr import GuidedBackprop, GuidedGradCam

    network, x = make(name, dtype=torch.float64), image(side, dtype=torch.float64)
    model = ExplainModel(network, name, fold=False)
    oracle = oracle_of(network)
    assert difference(model.guided_gradient(3)(x), GuidedBackprop(oracle).attribute(x, target=3)) <= 1e-6

    every = model.activations_and_gradients(x, [ExplainTarget(class_id) for class_id in range(5)])
    class_id = next(class_id for class_id, features in enumerate(every) if gradcam(features).any())
    ((gradient_3PP, features),) = model.guided_gradients_and_features(x, [ExplainTarget(class_id)])
    found = gradient_3PP * upsample(gradcam(features), side, side, "nearest")
    oracle = oracle_of(network)
    captum = GuidedGradCam(oracle, oracle.layer4[-1])
    expected = captum.attribute(x, target=class_id, interpolate_mode="nearest").detach()
    assert difference(found, expected[0]) <= 1e-5


def test_one_pass_of_the_guided_copy_gives_plain_derivatives_of_the_features():
    model, x = ExplainModel(make("mobilenetv2"), "mobilenetv2"), image()
    targets = [ExplainTarget(0), ExplainTarget(1, 2)]
    alone = model.activations_and_gradients(x, targets)
    for (gradient_3PP, features), plain, guided in zip(
        model.guided_gradients_and_features(x, targets), alone, model.guided_gradients(targets)(x), strict=True
    ):
        torch.testing.assert_close(features.gradients_Cuv, plain.gradients_Cuv)
        torch.testing.assert_close(features.activations_Cuv, plain.activations_Cuv)
        torch.testing.assert_close(gradient_3PP, guided[0])


def test_relu6_networks_are_guided_as_a_slow_version_with_hooks_guides_them():
    network, x = make("mobilenetv2", dtype=torch.float64), image(dtype=torch.float64)
    model = ExplainModel(network, "mobilenetv2", fold=False)
    oracle = oracle_of(network)
    for module in oracle.modules():
        if isinstance(module, nn.ReLU6):
            module.register_full_backward_hook(lambda _, given, __: (given[0].clamp(min=0),))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(oracle(leaf)[:, 2].sum(), leaf)
    assert difference(model.guided_gradient(2)(x), expected) <= 1e-6
    assert difference(model.guided_gradient(2)(x), model.gradient_of(2)(x)) > 0.5


@pytest.mark.parametrize("kind", ["resnet18", "vit"])
@pytest.mark.parametrize("method", ["riemann_middle", "gausslegendre"])
@pytest.mark.parametrize("n_steps", [2, 7, 50])
def test_integrated_gradients_are_those_of_captum(kind, method, n_steps):
    from captum.attr import IntegratedGradients

    network = (make_vit(img_size=32) if kind == "vit" else make(kind)).double()
    x = image(32, dtype=torch.float64)
    baseline = torch.zeros_like(x)
    expected = IntegratedGradients(network).attribute(
        x, baselines=baseline, target=1, n_steps=n_steps, method=method, internal_batch_size=10
    )
    exact = ExplainModel(network, kind, fold=False).gradient_of(1)
    found = integrated_gradients(exact, x, baseline, n_steps, method, Deadline(None))
    # Captum rounds its weights to float32, which those of two steps survive.
    assert difference(found.attribution, expected[0].detach()) <= (1e-9 if n_steps == 2 else 1e-7)

    folded = ExplainModel(network.float(), kind).gradient_of(1)
    found = integrated_gradients(folded, x.float(), baseline.float(), n_steps, method, Deadline(None))
    assert difference(found.attribution.double(), expected[0].detach()) <= 2e-3


def test_a_contrast_is_the_difference_of_two_logits():
    model, x = ExplainModel(make_vit(), "vit"), image()
    logits_NK = model.logits(x)
    torch.testing.assert_close(model.score_of(1, 3)(x), logits_NK[:, 1] - logits_NK[:, 3])
    torch.testing.assert_close(model.gradient_of(1, 3)(x), model.gradient_of(1)(x) - model.gradient_of(3)(x))


class TestCams:
    FEATURES = Features(
        torch.tensor([[[1.0, 0], [0, 0]], [[0, 0], [0, 2.0]]]),
        torch.tensor([[[2.0, 0], [0, 0]], [[0, 0], [0, -1.0]]]),
    )

    def test_gradcam_weighs_channels_by_their_mean_gradient(self):
        assert gradcam(self.FEATURES).tolist() == [[0.5, 0], [0, 0]]

    def test_hirescam_weighs_every_location_by_itself(self):
        assert hirescam(self.FEATURES).tolist() == [[2, 0], [0, 0]]

    def test_layercam_takes_positive_gradients_alone(self):
        mixed = Features(torch.tensor([[[1.0, 3.0]], [[2.0, 1.0]]]), torch.tensor([[[-5.0, 1.0]], [[2.0, -1.0]]]))
        assert layercam(mixed).tolist() == [[4, 3]]
        assert hirescam(mixed).tolist() == [[0, 2]]

    def test_hirescam_adds_up_to_the_score_where_the_tail_is_linear(self):
        network, x = make("resnet18"), image(96)
        nn.init.zeros_(network.fc.bias)
        (features,) = ExplainModel(network, "resnet18").activations_and_gradients(x, [ExplainTarget(3)])
        total = float((features.gradients_Cuv * features.activations_Cuv).sum())
        assert total == pytest.approx(float(network(x)[0, 3].detach()), rel=1e-4)


def chefer_by_hand(tokens, read):
    """Equation by equation in numpy, float64."""
    relevance = np.eye(tokens.attention_LHTT[0].shape[-1])
    for attention, gradients in zip(tokens.attention_LHTT, tokens.gradients_LHTT, strict=True):
        product = np.maximum(attention.numpy().astype(float) * gradients.numpy().astype(float), 0)
        relevance = relevance + product.mean(axis=0) @ relevance
    return read(relevance)


@pytest.mark.parametrize(
    ("options", "grid", "read"),
    [
        ({}, (4, 4), lambda relevance: relevance[0, 1:]),
        ({"reg_tokens": 1}, (4, 4), lambda relevance: relevance[0, 2:]),
        ({"global_pool": "avg"}, (4, 4), lambda relevance: relevance[1:, 1:].mean(axis=0)),
        ({"global_pool": "avg", "class_token": False}, (4, 4), lambda relevance: relevance.mean(axis=0)),
        ({"img_size": (48, 80)}, (3, 5), lambda relevance: relevance[0, 1:]),
    ],
    ids=["class token", "two prefix tokens", "mean of patches", "no class token", "oblong grid"],
)
def test_relevance_is_read_where_the_network_reads(options, grid, read):
    model = ExplainModel(make_vit(**options), "vit")
    x = image(16 * grid[0], 16 * grid[1])
    (tokens,) = model.attention_and_gradients(x, [ExplainTarget(1)])
    assert len(tokens.attention_LHTT) == 3
    assert torch.allclose(tokens.attention_LHTT[0].sum(dim=-1), torch.ones(()))
    found = attention_relevance(tokens, model.transformer)
    np.testing.assert_allclose(found.numpy(), chefer_by_hand(tokens, read).reshape(grid), rtol=1e-4, atol=1e-9)
    (features,) = model.activations_and_gradients(x, [ExplainTarget(1)])
    assert features.activations_Cuv.shape == (32, *grid)


def test_relevance_of_two_layers_by_hand():
    attention = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]])
    tokens = Tokens((attention, attention), (torch.ones(1, 2, 2), torch.tensor([[[1.0, 2.0], [-1.0, 1.0]]])))
    # layer 1: R = I + A = [[1.5, .5], [.25, 1.75]]; layer 2 mixes with [[.5, 1], [0, .75]]
    assert attention_relevance(tokens, Transformer((1, 1), 1, True)).tolist() == [[0.5 + 0.25 + 1.75]]


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
def test_equal_points_give_equal_bits_on_several_threads(side):
    """At 32 pixels the last stages see a single pixel, as squeeze-and-excitation does at any size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = ExplainModel(make("mobilenetv2", side), "mobilenetv2")
        x = image(side)
        for gradient in (model.gradient_of(1), model.guided_gradient(1)):
            first = gradient(x)
            assert all(torch.equal(gradient(x), first) for _ in range(40))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"stride": 2}])
@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (2, 6, 1, 1), (1, 6, 3, 2)])
def test_pointwise_convolutions_stay_what_they_are(options, shape):
    convolution = torch.nn.Conv2d(6, 4, 1, **options).double()
    network = torch.nn.Sequential(convolution)
    steady_pointwise(network)
    assert network[0] is not convolution
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(network(x), convolution(x))


def test_predictor_and_parameters_stay_untouched_and_no_hooks_are_left():
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2)),
        *(nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )
    x = image()
    before = copy.deepcopy(network.state_dict())
    structure = repr(network)
    model = ExplainModel(network, "tiny")
    mine = copy.deepcopy(model._network.state_dict())
    targets = [ExplainTarget(1), ExplainTarget(2, 3)]
    for _ in range(25):
        model.gradients_of(targets)(x)
        model.guided_gradients(targets)(x)
        model.guided_gradients_and_features(x, targets)
        model.activations_and_gradients(x, targets)
    assert repr(network) == structure
    assert all(parameter.grad is None for part in (network, model._network) for parameter in part.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    for part, state in ((network, before), (model._network, mine)):
        assert all(torch.equal(tensor, state[name]) for name, tensor in part.state_dict().items())
    for part in (network, model._network, model._guided):
        assert not any(module._forward_hooks or module._backward_hooks for module in part.modules())


def test_a_network_without_rectifiers_says_so():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model = ExplainModel(network, "linear")
    assert (model.guided_rule, model.target_layer) == ("none", "0")
    assert torch.equal(model.guided_gradient(1)(image()), model.gradient_of(1)(image()))
