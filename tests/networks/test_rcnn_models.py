"""The map of detectors: parameters as published or counted on paper, names that jobs and weights rely on."""

from functools import cache

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn

from clearsight.catalogue.models import MODELS
from clearsight.errors import UserError
from clearsight.networks.families.rcnn.batch import pad_together
from clearsight.networks.families.rcnn.selection import MAX_CANDIDATES, Found, SelectionLimits, choose, to_candidates
from clearsight.networks.families.table import build_network
from clearsight.vision.nms import batched_nms

RCNN_MODELS = {name: row for name, row in MODELS.items() if row.backbone is not None}

# Classes of the published weights: COCO's numbers go up to 90; RetinaNet keeps an unused place for the background.
PUBLISHED = {"fasterrcnn_resnet50_fpn": 90, "maskrcnn_resnet50_fpn": 90, "retinanet_resnet50_fpn": 91}
# Millions for 4 classes, batch norms of the backbone not counted: torchvision freezes and does not count them.
MILLIONS = {
    "fasterrcnn_resnet18_fpn": 28.3,
    "fasterrcnn_resnet34_fpn": 38.4,
    "fasterrcnn_resnet50_fpn": 41.3,
    "fasterrcnn_resnet101_fpn": 60.3,
    "fasterrcnn_resnet152_fpn": 75.9,
    "retinanet_resnet50_fpn": 32.2,
    "maskrcnn_resnet18_fpn": 30.9,
    "maskrcnn_resnet34_fpn": 41.0,
    "maskrcnn_resnet50_fpn": 43.9,
    "maskrcnn_resnet101_fpn": 62.9,
    "maskrcnn_resnet152_fpn": 78.5,
}


@cache
def on_paper(model_name: str, num_classes: int) -> nn.Module:
    """A network without memory or arithmetic, for names and counts."""
    with torch.device("meta"):
        return build_network(model_name, num_classes)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_norms(module: nn.Module) -> int:
    return sum(count(norm) for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))


def conv(inputs: int, outputs: int, side: int) -> int:
    return inputs * outputs * side**2 + outputs


def heads_on_paper(num_classes: int, has_masks: bool) -> int:
    """Parameters of the first stage, the box head and the mask head, as the papers draw them."""
    logits = num_classes + 1
    first_stage = conv(256, 256, 3) + conv(256, 3, 1) + conv(256, 12, 1)
    box = conv(256 * 7 * 7, 1024, 1) + conv(1024, 1024, 1) + conv(1024, logits, 1) + conv(1024, 4 * logits, 1)
    masks = 4 * conv(256, 256, 3) + conv(256, 256, 2) + conv(256, logits, 1)
    return first_stage + box + has_masks * masks


@pytest.mark.parametrize("model_name", RCNN_MODELS)
def test_parameters_are_those_of_the_backbone_the_pyramid_and_the_heads(model_name: str) -> None:
    network, row = on_paper(model_name, 4), RCNN_MODELS[model_name]
    assert round((count(network) - count_norms(network)) / 1e6, 1) == MILLIONS[model_name]
    if model_name in PUBLISHED:
        meta = torchvision.models.get_model_weights(model_name)["COCO_V1"].meta
        published = on_paper(model_name, PUBLISHED[model_name])
        assert count(published) - count_norms(published) == meta["num_params"]
    if row.has_proposals:
        classifier = torchvision.models.get_model_weights(row.backbone)["IMAGENET1K_V1"].meta["num_params"]
        wide = 512 if row.backbone in ("resnet18", "resnet34") else 2048
        pyramid = sum(conv(wide // 2**level, 256, 1) for level in range(4)) + 4 * conv(256, 256, 3)
        backbone = classifier - conv(wide, 1000, 1) + pyramid
        assert count(network) == backbone + heads_on_paper(4, row.has_masks)


@pytest.mark.parametrize("model_name", RCNN_MODELS)
def test_freeze_groups_and_heads_name_parameters_of_every_network(model_name: str) -> None:
    names = [name for name, _ in on_paper(model_name, 4).named_parameters()]
    body = [name for name in names if name.startswith("backbone.body.")]
    groups = RCNN_MODELS[model_name].freeze_groups
    assert len(groups) == 5
    assert body == [name for group in groups for name in body if name.startswith(group)]
    shapes = [
        {name: tensor.shape for name, tensor in on_paper(model_name, classes).state_dict().items()}
        for classes in (3, 4)
    ]
    differing = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert differing == {
        name for name in shapes[0] if name.startswith(tuple(f"{module}." for module in RCNN_MODELS[model_name].head))
    }


def test_an_unknown_name_and_no_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"model_name must be one of .* but got 'fasterrcnn'"):
        build_network("fasterrcnn", 3)
    with pytest.raises(UserError, match="num_classes must be at least 1, but got 0"):
        build_network("fasterrcnn_resnet18_fpn", 0)


def test_images_are_padded_to_the_right_and_below_with_zeros() -> None:
    images, sizes = pad_together([torch.ones(3, 20, 40), torch.ones(3, 33, 10)])
    assert images.shape == (2, 3, 64, 64)
    assert sizes == [(20, 40), (33, 10)]
    assert images[0, :, :20, :40].eq(1).all()
    assert images.sum() == 3 * (20 * 40 + 33 * 10)
    assert pad_together([torch.ones(3, 32, 64)])[0].shape == (1, 3, 32, 64)


def random_candidates(count: int, num_classes: int) -> Found:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 10 + torch.rand(count, 2, generator=generator) * 30], dim=1)
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    return Found(boxes, scores, torch.randint(num_classes, (count,), generator=generator))


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize(
    "limits", [SelectionLimits(0.0, 1.0, MAX_CANDIDATES), SelectionLimits(0.4, 0.3, 20), SelectionLimits(1.0, 0.5, 9)]
)
def test_boxes_are_chosen_as_by_the_suppression_outside_of_networks(count: int, limits: SelectionLimits) -> None:
    found = random_candidates(count, num_classes=3)
    plain = to_candidates(found)
    kept = batched_nms(plain.boxes_xyxy_N4, plain.scores_N, plain.class_ids_N, limits.nms_iou_threshold)
    kept = kept[plain.scores_N[kept] > limits.score_threshold][: limits.max_detections]
    chosen = to_candidates(choose(found, 3, limits.to_tensors(torch.device("cpu"))))
    assert chosen.boxes_xyxy_N4.tolist() == plain.boxes_xyxy_N4[kept].tolist()
    assert chosen.scores_N.tolist() == plain.scores_N[kept].tolist()
    assert chosen.class_ids_N.tolist() == plain.class_ids_N[kept].tolist()
    assert chosen.mask_probs_NMM is None
