"""Losses and answers of the detectors against torchvision's own networks with the same weights."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet  # type: ignore[import-untyped]
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # type: ignore[import-untyped]
from torchvision.models.detection.transform import GeneralizedRCNNTransform  # type: ignore[import-untyped]
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # type: ignore[import-untyped]

from clearsight.networks.families.rcnn.batch import TrainingTarget, pad_together
from clearsight.networks.families.rcnn.detector import Detector, keep_float32
from clearsight.networks.families.rcnn.options import RcnnOptions
from clearsight.networks.families.rcnn.selection import MAX_CANDIDATES, SelectionLimits, to_candidates
from clearsight.networks.families.table import build_network

NUM_CLASSES = 3
OPTIONS = RcnnOptions(32, 16, 64, 32, 64, 32)
LIMITS = SelectionLimits(0.05, 0.5, 20)
FAMILIES = ("fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn", "retinanet_resnet50_fpn")


@pytest.fixture(scope="module")
def pair() -> Callable[[str], tuple[Detector, nn.Module]]:
    """Ours and torchvision's with the same weights; built once."""
    made: dict[str, tuple[Detector, nn.Module]] = {}

    def make(model_name: str) -> tuple[Detector, nn.Module]:
        if model_name not in made:
            made[model_name] = build_pair(model_name)
        ours, theirs = made[model_name]
        theirs.load_state_dict(ours.state_dict())  # training of one test moved statistics
        return ours, theirs

    return make


def build_pair(model_name: str) -> tuple[Detector, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = build_network(model_name, NUM_CLASSES, architecture={"options": asdict(OPTIONS)})
    calm_residuals(ours)
    if model_name.startswith("retinanet"):
        nn.init.normal_(ours.head.classification_head.cls_logits.weight, std=0.1)
        nn.init.zeros_(ours.head.classification_head.cls_logits.bias)
        pyramid = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=nn.BatchNorm2d,
            trainable_layers=5,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        theirs: nn.Module = RetinaNet(
            pyramid, NUM_CLASSES, score_thresh=LIMITS.score_threshold, detections_per_img=LIMITS.max_detections
        )
    else:
        pyramid = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        theirs = (MaskRCNN if model_name.startswith("mask") else FasterRCNN)(
            pyramid,
            NUM_CLASSES + 1,
            rpn_batch_size_per_image=32,
            box_batch_size_per_image=16,
            rpn_pre_nms_top_n_train=64,
            rpn_post_nms_top_n_train=32,
            rpn_pre_nms_top_n_test=64,
            rpn_post_nms_top_n_test=32,
            box_score_thresh=LIMITS.score_threshold,
            box_nms_thresh=LIMITS.nms_iou_threshold,
            box_detections_per_img=LIMITS.max_detections,
        )
    theirs.transform = GeneralizedRCNNTransform(128, 256, [0.0] * 3, [1.0] * 3)
    theirs.transform.resize = lambda image, target: (image, target)
    return ours, theirs


def calm_residuals(network: nn.Module) -> None:
    """Let each residual block add a fifth: statistics of random weights make answers explode otherwise."""
    for block in network.modules():
        if hasattr(block, "downsample"):
            nn.init.constant_((block.bn3 if hasattr(block, "bn3") else block.bn2).weight, 0.2)


def rgb_images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 100, 128, generator=generator), torch.randn(3, 128, 90, generator=generator)]


def targets() -> list[TrainingTarget]:
    masks = torch.zeros(2, 100, 128, dtype=torch.uint8)
    masks[0, 10:60, 8:40] = 1
    masks[1, 40:80, 60:100] = 1
    return [
        TrainingTarget(torch.tensor([[8.0, 10, 40, 60], [60, 40, 100, 80]]), torch.tensor([2, 0]), masks),
        TrainingTarget(
            torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 128, 90, dtype=torch.uint8)
        ),
    ]


@pytest.mark.parametrize("model_name", FAMILIES)
def test_losses_are_torchvisions(model_name: str, pair: Callable[[str], tuple[Detector, nn.Module]]) -> None:
    """On an image with two objects and one with none; both networks draw the same samples."""
    ours, theirs = (network.train() for network in pair(model_name))
    first = 0 if model_name.startswith("retinanet") else 1
    documents = [
        {"boxes": target.boxes_xyxy_M4, "labels": target.class_ids_M + first, "masks": target.masks_MHW}
        for target in targets()
    ]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        expected = theirs(rgb_images(), documents)
        torch.manual_seed(2)
        losses = ours(*pad_together(rgb_images()), targets())
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(
        {name: float(loss) for name, loss in expected.items()}, rel=1e-5
    )
    assert all(loss > 0 for loss in losses.values())


@pytest.mark.parametrize("model_name", FAMILIES)
def test_boxes_and_masks_within_limits_are_torchvisions(
    model_name: str, pair: Callable[[str], tuple[Detector, nn.Module]]
) -> None:
    ours, theirs = (network.eval() for network in pair(model_name))
    images, sizes = pad_together(rgb_images())
    # torchvision pastes masks into the image; its heads alone give them raw.
    if hasattr(theirs, "roi_heads"):
        theirs.transform.postprocess = lambda result, *_: result
    with torch.inference_mode():
        expected = theirs(rgb_images())
        found = ours(images, sizes, limits=LIMITS)
    first = 0 if model_name.startswith("retinanet") else 1
    for size, own, other in zip(sizes, map(to_candidates, found), expected, strict=True):
        assert len(own) == LIMITS.max_detections  # else the comparison says little
        np.testing.assert_allclose(own.scores_N, other["scores"], atol=1e-6)
        np.testing.assert_allclose(own.boxes_xyxy_N4, other["boxes"], atol=1e-3)
        np.testing.assert_array_equal(own.class_ids_N, other["labels"] - first)
        assert own.boxes_xyxy_N4.min() >= 0
        assert (own.boxes_xyxy_N4.max(axis=0) <= [size[1], size[0]] * 2).all()
        if model_name.startswith("mask"):
            np.testing.assert_allclose(own.mask_probs_NMM, other["masks"][:, 0], atol=1e-5)
            assert own.mask_probs_NMM is not None
            assert own.mask_probs_NMM.shape == (20, 28, 28)
        else:
            assert own.mask_probs_NMM is None


@pytest.mark.parametrize("model_name", FAMILIES)
def test_without_limits_all_candidates_are_sorted_by_descending_score_and_without_masks(
    model_name: str, pair: Callable[[str], tuple[Detector, nn.Module]]
) -> None:
    ours = pair(model_name)[0].eval()
    with torch.inference_mode():
        found = [to_candidates(own) for own in ours(*pad_together(rgb_images()))]
    for own in found:
        assert LIMITS.max_detections < len(own) <= MAX_CANDIDATES
        assert (np.diff(own.scores_N) <= 0).all()
        assert set(own.class_ids_N) == {0, 1, 2}
        assert own.mask_probs_NMM is None
    if not model_name.startswith("retinanet"):
        assert len(found[0]) <= OPTIONS.proposals * NUM_CLASSES


def test_a_threshold_that_nothing_reaches_gives_no_boxes_and_no_masks(
    pair: Callable[[str], tuple[Detector, nn.Module]],
) -> None:
    ours = pair("maskrcnn_resnet18_fpn")[0].eval()
    with torch.inference_mode():
        found = ours(*pad_together(rgb_images()), limits=SelectionLimits(1.0, 0.5, 100))
    assert [tuple(own.boxes_xyxy_C4.shape) for own in found] == [(0, 4), (0, 4)]
    assert [tuple(own.mask_probs_CMM.shape) for own in found] == [(0, 28, 28), (0, 28, 28)]


def test_training_names_what_is_wrong_with_its_input(pair: Callable[[str], tuple[Detector, nn.Module]]) -> None:
    ours = pair("maskrcnn_resnet18_fpn")[0].train()
    images, sizes = pad_together(rgb_images())
    with pytest.raises(ValueError, match="multiples of 32, but got 100 x 128"):
        ours(images[:, :, :100], sizes)
    with pytest.raises(ValueError, match="training needs targets"):
        ours(images, sizes)
    flat = TrainingTarget(torch.tensor([[8.0, 10, 8, 60]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="must have an area"):
        ours(images, sizes, [flat, flat])
    unmasked = TrainingTarget(torch.tensor([[8.0, 10, 40, 60]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="needs a mask of each object"):
        ours(images, sizes, [unmasked, unmasked])


def test_frozen_norms_neither_learn_nor_follow_the_batch() -> None:
    network = build_network("fasterrcnn_resnet18_fpn", NUM_CLASSES, architecture={"options": asdict(OPTIONS)})
    network.freeze_norms()
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    losses = network.train()(*pad_together(rgb_images()), targets())
    sum(losses.values()).backward()
    torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=1e-4).step()
    after = network.backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "body.conv1.weight" in changed
    assert not {name for name in changed if ".bn" in name or "downsample.1" in name}


class Halved(nn.Module):
    """Answers in bfloat16, as layers do under autocast."""

    def forward(self, outputs: Any) -> Any:
        return outputs


def test_layers_in_half_precision_answer_in_float32() -> None:
    layer = Halved()
    keep_float32(layer)
    half = torch.ones(2, dtype=torch.bfloat16)
    assert layer(half).dtype == torch.float32
    logits, regression = layer(([half], [half, half]))
    assert [tensor.dtype for tensor in (*logits, *regression)] == [torch.float32] * 3
    levels = layer(OrderedDict(fine=half, coarse=half))
    assert list(levels) == ["fine", "coarse"]
    assert levels["coarse"].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model_name", FAMILIES)
def test_boxes_keep_their_precision_under_autocast(
    model_name: str, pair: Callable[[str], tuple[Detector, nn.Module]]
) -> None:
    ours = copy.deepcopy(pair(model_name)[0]).cuda().eval()
    images, sizes = pad_together(rgb_images())
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        found = ours(images.cuda(), sizes, limits=SelectionLimits(0.0, 0.9, 1000))
    boxes = found[0].boxes_xyxy_C4
    assert boxes.dtype == torch.float32
    assert ((boxes[boxes > 64] % 0.5) > 0).float().mean() > 0.2  # bfloat16 has halves only from 64 on
    on_gpu = [
        TrainingTarget(target.boxes_xyxy_M4.cuda(), target.class_ids_M.cuda(), target.masks_MHW.cuda())
        for target in targets()
    ]
    with torch.autocast("cuda", torch.bfloat16):
        losses = ours.train()(images.cuda(), sizes, on_gpu)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
