"""Derivatives of a detector's outputs, compared with torch.autograd on the network's own forward pass."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from clearsight.catalogue.models import MODELS
from clearsight.handlers.explain.objects.heat import heat_of
from clearsight.handlers.explain.objects.network import ObjectModel
from clearsight.handlers.explain.objects.selection import find_match
from clearsight.networks.families.rcnn.options import RcnnOptions
from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.networks.families.table import build_network
from clearsight.networks.families.yolov5.decode import boxes_and_scores

FEW = RcnnOptions(proposals_before_nms=64, proposals=16)
SMALL = ("yolov5", "retinanet_resnet50_fpn", "fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn")
DETECTORS = [name for name, row in MODELS.items() if not row.tasks[0].is_classification]
NAMES = [
    name if name in SMALL else pytest.param(name, marks=pytest.mark.slow)
    for name, row in MODELS.items()
    if not row.tasks[0].is_classification
]


def build(model_name):
    """Random weights whose scores differ between locations and are not all 0."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = build_network(model_name, 2, architecture={"model_size": "nano", "options": asdict(FEW)})
        for name, module in network.named_modules():
            if hasattr(module, "downsample"):
                torch.nn.init.constant_((module.bn3 if hasattr(module, "bn3") else module.bn2).weight, 0.2)
            if name.endswith(("cls_logits", "cls_score")):
                torch.nn.init.normal_(module.weight, std=0.1)
                torch.nn.init.zeros_(module.bias)
            if name.startswith("model.24.m."):
                torch.nn.init.normal_(module.weight, std=0.5)
        return network.eval()


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(2).normal(size=(3, 64, 96)).astype(np.float32)


def gradients_of(value, seen):
    features = [level.features_1Cuv for level in seen.levels]
    return torch.autograd.grad(value, features, retain_graph=True, allow_unused=True)


def assert_same_gradients(found, expected):
    for one, other in zip(found, expected, strict=True):
        if one is None or other is None:
            assert all(tensor is None or not tensor.any() for tensor in (one, other))
        else:
            scale = float(other.abs().max())
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3, atol=1e-4 * scale + 1e-12)


@pytest.mark.parametrize("model_name", NAMES)
@pytest.mark.timeout(300)
def test_every_detector_gives_a_finite_map_of_its_score_and_its_box(model_name, image):
    network = build(model_name)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seen = ObjectModel(network, MODELS[model_name].family).forward(image)
    _, scores_C = seen.candidates(1)
    best = int(scores_C.argmax())
    for value in (seen.score(best, 1), seen.box(best, 1)[2]):
        gradients = gradients_of(value, seen)
        assert any(gradient is not None and gradient.any() for gradient in gradients)
        heat_HW = heat_of(seen.levels, gradients, 64, 96)
        assert heat_HW.shape == (64, 96)
        assert np.isfinite(heat_HW).all()
        assert heat_HW.min() >= 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_yolov5_has_the_derivatives_of_its_own_forward_pass(image):
    network = build("yolov5")
    inputs: list[torch.Tensor] = []

    def cut(module, given):
        """Cuts the graph between levels: coarse inputs of the head depend on fine ones."""
        inputs.extend(maps.detach().requires_grad_() for maps in given[0])
        return (list(inputs),)

    handle = network.head.register_forward_pre_hook(cut)
    predictions_1CV = network(torch.from_numpy(image)[None])
    handle.remove()
    boxes_1C4, scores_1CK = boxes_and_scores(predictions_1CV)
    seen = ObjectModel(network, "yolov5").forward(image)
    boxes_C4, scores_C = seen.candidates(0)
    np.testing.assert_allclose(scores_C, scores_1CK[0, :, 0].detach(), atol=1e-6)
    for anchor in (0, int(scores_C.argmax()), len(scores_C) - 1):
        match = find_match(boxes_1C4[0, anchor].detach().numpy(), scores_1CK[0, anchor, 0].item(), boxes_C4, scores_C)
        assert match.index == anchor
        assert match.iou == pytest.approx(1)
        for value, own in (
            (seen.score(anchor, 0), scores_1CK[0, anchor, 0]),
            *zip(seen.box(anchor, 0), boxes_1C4[0, anchor], strict=True),
        ):
            expected = torch.autograd.grad(own, inputs, retain_graph=True, allow_unused=True)
            assert_same_gradients(gradients_of(value, seen), expected)


@pytest.mark.parametrize("model_name", ["fasterrcnn_resnet18_fpn", "retinanet_resnet50_fpn", "maskrcnn_resnet18_fpn"])
def test_pyramid_networks_have_the_derivatives_of_their_own_way_to_the_answer(model_name, image):
    network = build(model_name)
    images = ImageList(torch.from_numpy(image)[None], [(64, 96)])
    features = {name: maps.detach().requires_grad_() for name, maps in network.backbone(images.tensors).items()}
    limits = SelectionLimits(0.0, 0.5, 5).to_tensors(torch.device("cpu"))
    (found,) = network.find(features, images, limits)
    assert len(found.scores_C)
    seen = ObjectModel(network, MODELS[model_name].family).forward(image)
    for place, class_id in enumerate(found.class_ids_C.tolist()):
        boxes_C4, scores_C = seen.candidates(class_id)
        clipped_C4 = boxes_C4.clip(0, [96, 64, 96, 64])
        match = find_match(
            found.boxes_xyxy_C4[place].detach().numpy(), found.scores_C[place].item(), clipped_C4, scores_C
        )
        assert match.iou == pytest.approx(1, abs=1e-4)
        pairs = [(seen.score(match.index, class_id), found.scores_C[place])]
        if found.mask_probs_CMM is not None:
            pairs.append((seen.mask(match.index, class_id).mean(), found.mask_probs_CMM[place].mean()))
        for value, own in pairs:
            assert value.item() == pytest.approx(own.item(), abs=1e-5)
            expected = torch.autograd.grad(own, list(features.values()), retain_graph=True, allow_unused=True)
            assert_same_gradients(gradients_of(value, seen), expected)


def test_a_classifier_is_no_detector():
    with pytest.raises(TypeError, match="expected a detector"):
        ObjectModel(torch.nn.Linear(2, 2), "classifier")
