"""Localisation and faithfulness of explanations of two small networks, trained on drawn objects with known outlines.

The thresholds leave room for other machines; docs/35-explanations.md has the measured values.

Shapes in names: N images, C classes, P side of the image, K kinds of maps.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from clearsight.handlers.drawing.explanation_image import heat_map
from clearsight.handlers.explain.algorithms.context import ExplainContext
from clearsight.handlers.explain.algorithms.integrated_gradients_family import gradients_along_path
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.algorithms.xrai import Regions, segment, xrai_map
from clearsight.handlers.explain.answering.quality import measure_faithfulness
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import ExplainTarget
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.testing.localisation import grow, pointing_score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIDE = 64
NUM_CLASSES = 4
SHAPES = ("circle", "square", "triangle", "cross")
HUES = (0, 45, 90, 135)  # of 180
MEAN = STD = (0.5, 0.5, 0.5)
FOREVER = Deadline(None)
FOUR = ("xrai", "integrated_gradients", "guided_gradcam", "guided_backprop")
KINDS = ("resnet", "vit")
NUM_OBJECTS = 100


def draw(random, task):
    """An image (P, P, 3) uint8 and the masks of its objects by class: one to three, each in a quarter of its own."""
    coarse = random.uniform(0, 255, (9, 9, 3))
    image = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) * 0.6 + 40
    classes = random.permutation(NUM_CLASSES)[: random.integers(1, 4)]
    masks = {}
    for class_id, quarter in zip(classes, random.permutation(4), strict=False):
        size = int(random.integers(18, 27))
        top, left = random.integers(0, SIDE // 2 - size + 1, 2) + np.array(divmod(quarter, 2)) * (SIDE // 2)
        is_shape = task == "shape"
        shape = SHAPES[class_id if is_shape else random.integers(4)]
        hue = random.integers(180) if is_shape else HUES[class_id] + random.integers(-8, 9)
        hsv = np.uint8([[[hue % 180, random.integers(180, 256), random.integers(180, 256)]]])
        mask = np.zeros((SIDE, SIDE), bool)
        mask[top : top + size, left : left + size] = outline(shape, size)
        image[mask] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
        masks[int(class_id)] = mask
    image += random.normal(0, 12, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), masks


def outline(shape, size):
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    match shape:
        case "circle":
            return np.hypot(x - 0.5, y - 0.5) <= 0.5
        case "square":
            return np.maximum(abs(x - 0.5), abs(y - 0.5)) <= 0.42
        case "triangle":
            return abs(x - 0.5) <= y / 2
        case _:
            return (abs(x - 0.5) <= 0.17) | (abs(y - 0.5) <= 0.17)


def normalised(images_NPP3):
    unit_N3PP = torch.from_numpy(np.stack(images_NPP3)).permute(0, 3, 1, 2).float() / 255
    return (unit_N3PP - 0.5) / 0.5


class SmallResNet(nn.Sequential):
    """A residual network of one basic block per stage."""

    def __init__(self):
        def stage(before, width, stride):
            shortcut = None
            if stride > 1:
                shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            return BasicBlock(before, width, stride, shortcut)

        super().__init__(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
            *(stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2), stage(64, 128, 2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, NUM_CLASSES)),
        )


def make_network(kind):
    if kind == "resnet":
        return SmallResNet()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=NUM_CLASSES)


@dataclass(frozen=True)
class Trained:
    network: nn.Module
    accuracy: float
    """Share of correct labels, present or absent."""
    images: list
    objects: list
    """(number of the image, class) of the objects that are recognised."""

    def masks(self, index):
        return self.images[index][1]

    def input_of(self, index):
        return normalised([self.images[index][0]])


@cache
def trained(kind):
    task, num_steps, rate = ("shape", 500, 3e-3) if kind == "resnet" else ("colour", 450, 1e-3)
    random = np.random.default_rng(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = make_network(kind)
        optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=num_steps)
        for _ in range(num_steps):
            images, targets_NC = batch(random, task, 32)
            loss = functional.binary_cross_entropy_with_logits(network(normalised(images)), targets_NC)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    drawn = [draw(random, task) for _ in range(200)]
    with torch.no_grad():
        found_NC = network(normalised([image for image, _ in drawn])) > 0
    expected_NC = torch.tensor([[class_id in masks for class_id in range(NUM_CLASSES)] for _, masks in drawn])
    objects = [
        (index, class_id) for index, (_, masks) in enumerate(drawn) for class_id in masks if found_NC[index, class_id]
    ]
    return Trained(network, float((found_NC == expected_NC).float().mean()), drawn, objects[:NUM_OBJECTS])


def batch(random, task, count):
    drawn = [draw(random, task) for _ in range(count)]
    targets_NC = torch.zeros(count, NUM_CLASSES)
    for row, (_, masks) in enumerate(drawn):
        targets_NC[row, list(masks)] = 1
    return [image for image, _ in drawn], targets_NC


def context_of(model, x_13PP, class_ids, algorithm, **parameters):
    start = "black_white" if algorithm == "xrai" else "mean"
    return ExplainContext(
        model=model,
        probabilities=lambda points: model.logits(points).sigmoid(),
        x_13PP=x_13PP,
        targets=tuple(ExplainTarget(class_id) for class_id in class_ids),
        parameters=XaiParameters(**{"algorithm": algorithm, "baseline": start, **parameters}),
        deadline=FOREVER,
        mean=MEAN,
        std=STD,
    )


@dataclass(frozen=True)
class ExplainedObjectMaps:
    """The maps of an object by kind of map."""

    index: int
    class_id: int
    maps: dict

    @property
    def heats(self):
        return {kind: heat_map(values) for kind, values in self.maps.items()}


@cache
def maps_of_objects(kind):
    """Every recognised object with all its maps; the labels of an image are explained together."""
    run = trained(kind)
    model = ExplainModel(run.network, kind)
    found = []
    for index in sorted({index for index, _ in run.objects}):
        class_ids = [class_id for other, class_id in run.objects if other == index]
        x_13PP = run.input_of(index)
        regions = Regions.of(segment(x_13PP[0].numpy()))
        # XRAI's two ways to rank share the gradients, which take the time.
        paths = gradients_along_path(context_of(model, x_13PP, class_ids, "xrai"))
        every = {
            name: [
                attribution.values for attribution in compute_attributions(context_of(model, x_13PP, class_ids, name))
            ]
            for name in FOUR
            if name != "xrai"
        }
        for place, (class_id, path) in enumerate(zip(class_ids, paths, strict=True)):
            base_PP = path.attribution.amax(dim=0).numpy()
            maps = {"xrai": xrai_map(base_PP, regions, True), "xrai, full": xrai_map(base_PP, regions, False)}
            maps |= {name: values[place] for name, values in every.items()}
            maps["random"] = np.random.default_rng([index, class_id]).random((SIDE, SIDE))
            found.append(ExplainedObjectMaps(index, class_id, maps))
    return found


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def assert_at_least(found, least):
    """Fails with all figures if one is too low."""
    missed = {name: bar for name, bar in least.items() if found[name] < bar}
    assert not missed, f"{missed} asked for, but found {found}"


def test_the_networks_are_trained(kind):
    run = trained(kind)
    assert run.accuracy >= 0.99
    assert len(run.objects) == NUM_OBJECTS


def test_the_compared_maps_are_those_of_the_algorithm(kind):
    run, case = trained(kind), maps_of_objects(kind)[0]
    model = ExplainModel(run.network, kind)
    for name, is_fast in (("xrai", True), ("xrai, full", False)):
        context = context_of(model, run.input_of(case.index), [case.class_id], "xrai", xrai_fast=is_fast)
        (found,) = compute_attributions(context)
        np.testing.assert_allclose(found.values, case.maps[name], rtol=1e-3, atol=1e-6)


def test_the_strongest_pixel_lies_on_the_object(kind):
    run = trained(kind)
    points = {name: [] for name in maps_of_objects(kind)[0].maps}
    for case in maps_of_objects(kind):
        near_PP = grow(run.masks(case.index)[case.class_id], 4)
        for name, heat_PP in case.heats.items():
            points[name].append(pointing_score(heat_PP, near_PP))
    found = {name: float(np.mean(scores)) for name, scores in points.items()}
    bars = {
        "resnet": {"xrai": 0.85, "xrai, full": 0.85, "integrated_gradients": 0.75, "guided_gradcam": 0.9,
                   "guided_backprop": 0.75},
        "vit": {"xrai": 0.9, "xrai, full": 0.9, "integrated_gradients": 0.8, "guided_gradcam": 0.8},
    }  # fmt: skip
    assert_at_least(found, bars[kind])
    assert found["random"] <= 0.35


def test_the_score_hangs_on_the_strongest_pixels(kind):
    run = trained(kind)
    model = ExplainModel(run.network, kind)

    def probabilities(points_N3PP):
        return model.logits(torch.from_numpy(points_N3PP)).sigmoid().numpy().astype(float)

    gains = {name: [] for name in maps_of_objects(kind)[0].maps}
    for case in maps_of_objects(kind):
        heats = case.heats
        x_3PP = run.input_of(case.index)[0].numpy()
        figures = measure_faithfulness(
            list(heats.values()), [case.class_id] * len(heats), x_3PP, probabilities, FOREVER
        )
        for name, figure in zip(heats, figures, strict=True):
            gains[name].append(figure.insertion_auc - figure.deletion_auc)
    found = {name: float(np.mean(values)) for name, values in gains.items()}
    names = [name for name in FOUR if (kind, name) != ("vit", "guided_backprop")]
    # Colours mostly survive blurring: all maps of the ViT gain 0.14 to 0.15, the random one nothing.
    assert_at_least(found, dict.fromkeys(names, 0.25 if kind == "resnet" else 0.12))
    assert abs(found["random"]) <= 0.1


def test_of_two_objects_the_explained_one_is_warmer(kind):
    run = trained(kind)
    wins = {name: [] for name in maps_of_objects(kind)[0].maps}
    for case in maps_of_objects(kind):
        masks = run.masks(case.index)
        for name, heat_PP in case.heats.items():
            own = heat_PP[masks[case.class_id]].mean()
            wins[name] += [own > heat_PP[mask].mean() for class_id, mask in masks.items() if class_id != case.class_id]
    found = {name: float(np.mean(values)) for name, values in wins.items()}
    assert len(wins["xrai"]) >= 50
    assert_at_least(found, {"xrai": 0.85, "xrai, full": 0.85, "guided_gradcam": 0.85})


def test_maps_of_an_untrained_network_are_others(kind):
    """Signed values: absolute values stay similar, since they follow the image's edges (arXiv 1810.03292)."""
    run = trained(kind)
    with torch.random.fork_rng():
        torch.manual_seed(77)
        untrained = ExplainModel(make_network(kind).eval(), kind)
    likeness = {name: [] for name in FOUR}
    for case in maps_of_objects(kind)[:20]:
        for name in FOUR:
            (other,) = compute_attributions(context_of(untrained, run.input_of(case.index), [case.class_id], name))
            mine = case.maps[name].ravel()
            if other.values.any():  # else there is no evidence for the class
                likeness[name].append(np.corrcoef(mine, other.values.ravel())[0, 1])
    found = {name: -abs(float(np.mean(values))) for name, values in likeness.items()}
    bars = {"integrated_gradients": -0.15, "guided_gradcam": -0.35, "xrai": -0.5, "guided_backprop": -0.4}
    assert_at_least(found, bars)


@pytest.mark.parametrize("baseline", ["mean", "black", "white"])
def test_the_sum_of_a_map_is_the_rise_of_the_score(kind, baseline):
    run = trained(kind)
    model = ExplainModel(run.network, kind)
    # Midpoints err where a rectifier switches: by less, the more of them there are. Worst seen of a trained ResNet-18:
    # 0.0015 and 0.0005; of this one, a quarter as wide, 0.0028 and 0.0007, and on one machine 0.0054 (most
    # likely since training adds up in another order there): means may have twice the bar, single maps four times.
    for n_steps, bar in ((50, 0.002), (200, 0.0005)):
        deltas = []
        for index, class_id in run.objects[:6]:
            xai_parameters = {"baseline": baseline, "n_steps": n_steps, "details": True}
            (found,) = compute_attributions(
                context_of(model, run.input_of(index), [class_id], "integrated_gradients", **xai_parameters)
            )
            deltas.append(found.relative_delta)
        assert np.mean(deltas) <= 2 * bar
        assert max(deltas) <= 4 * bar
