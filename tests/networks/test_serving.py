"""The serving graph of each family: its outputs and the names of its tensors."""

import torch
from torch import nn

from clearsight.catalogue.models import MODELS
from clearsight.networks.families.table import family_of
from clearsight.networks.families.yolov5.network import build_yolov5


def test_a_classifier_is_served_as_it_is() -> None:
    network = nn.Conv2d(3, 2, 1).train()
    family = family_of("resnet18")
    assert family.serving_module(network) is network
    assert not network.training
    signature = family.signature(MODELS["resnet18"])
    assert (signature.inputs, signature.outputs) == (("images",), ("logits",))
    assert signature.free_axes["images"] == {0: "batch", 2: "height", 3: "width"}
    assert family.signature(MODELS["vitb16r224"]).free_axes["images"] == {0: "batch"}


def test_yolov5_answers_every_candidate_with_its_best_class() -> None:
    network = build_yolov5("nano", 3)
    graph = family_of("yolov5").serving_module(network)
    images_NCHW = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        boxes_NC4, scores_NC, class_ids_NC = graph(images_NCHW)
        raw_NCV = network(images_NCHW)
    count = 3 * (8 * 12 + 4 * 6 + 2 * 3)  # three anchors in each cell of strides 8, 16 and 32
    assert boxes_NC4.shape == (2, count, 4)
    assert class_ids_NC.dtype == torch.int64
    # By hand, for one candidate of the second image.
    centre_x, centre_y, width, height, objectness, *probs = raw_NCV[1, 100].tolist()
    expected = [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]
    torch.testing.assert_close(boxes_NC4[1, 100], torch.tensor(expected))
    assert class_ids_NC[1, 100] == probs.index(max(probs))
    torch.testing.assert_close(float(scores_NC[1, 100]), objectness * max(probs))
    signature = family_of("yolov5").signature(MODELS["yolov5"])
    assert (signature.inputs, signature.outputs) == (("images",), ("boxes", "scores", "class_ids"))
    assert signature.free_axes["boxes"] == {0: "batch", 1: "candidates"}


def test_only_mask_rcnn_has_masks() -> None:
    boxes, masks = (
        family_of("fasterrcnn_resnet18_fpn").signature(MODELS[f"{kind}_resnet18_fpn"])
        for kind in ("fasterrcnn", "maskrcnn")
    )
    inputs = ("image", "score_threshold", "nms_iou_threshold", "max_detections")
    assert boxes.inputs == masks.inputs == inputs
    assert boxes.outputs == ("boxes", "scores", "class_ids")
    assert masks.outputs == ("boxes", "scores", "class_ids", "masks")
    assert "masks" not in boxes.free_axes
    assert masks.free_axes["image"] == {2: "height", 3: "width"}
