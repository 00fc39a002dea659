"""The detector graph that Azure's clients expect, `train_artifacts/model.onnx`, and its labels.

Names and shapes as published (https://learn.microsoft.com/azure/machine-learning/how-to-inference-onnx-automl-image-models
and the batch generator of its samples):

* Faster R-CNN: `input` (N, 3, H, W) -> per image i `boxes_i` (n, 4), `labels_i` (n), `scores_i` (n)
* RetinaNet: the same in the order `boxes_i`, `scores_i`, `labels_i`
* Mask R-CNN: as Faster R-CNN and `masks_i` (n, 1, H, W), probabilities of the whole image's pixels; H and W are free
* yolov5: `input` (N, 3, H, W) -> `output` (N, C, 5 + K), decoded candidates without thresholds

A graph takes exactly N images. Boxes are pixels of its input; thresholds and suppression are inside, with the values
of the settings, except for yolov5. Labels count from 1 for Faster and Mask R-CNN, whose entry 0 stands for background.

Shapes in names: N images, C candidates, D detections of an image, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image  # type: ignore[import-untyped]

from clearsight.catalogue.models import YOLO_STRIDE
from clearsight.errors import UserError
from clearsight.exporters.formats.onnx import NormalisedNetwork
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.selection import LimitTensors, SelectionLimits
from clearsight.networks.families.rcnn.serving import find_within
from clearsight.networks.families.yolov5.network import Yolov5
from clearsight.networks.serving import GraphSignature

__all__ = [
    "BACKGROUND",
    "LIMIT_NAMES",
    "Contract",
    "Normalisation",
    "first_label",
    "labels_of",
    "outputs_of_image",
    "rcnn_contract",
    "yolo_contract",
]

BACKGROUND: Final = "--bg--"
"""Label of class 0 in Azure's numbering, which no detection has."""

LIMIT_NAMES: Final = ("score_threshold", "nms_iou_threshold", "max_detections")
"""Names of the constants in the ONNX file of an R-CNN's graph, in the order of `SelectionLimits`."""

_INPUT: Final = "input"

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and std, per channel, that are inside a graph."""


@dataclass(frozen=True, slots=True)
class Contract:
    """A module to export, with an example to trace it with and the names of its tensors."""

    module: nn.Module
    example: tuple[torch.Tensor]
    signature: GraphSignature


class RcnnContract(nn.Module):
    """Images of one size -> the outputs of each image in turn, in the order of `outputs_of_image`."""

    score_threshold: torch.Tensor
    nms_iou_threshold: torch.Tensor
    max_detections: torch.Tensor

    def __init__(self, network: Detector, limits: SelectionLimits) -> None:
        super().__init__()
        self.network = network
        self.first_label = first_label(network)
        tensors = limits.to_tensors(torch.device("cpu"))
        self.register_buffer("score_threshold", tensors.score_threshold_1)
        # A scalar, unlike the score threshold: the exporter would merge two equal constants into one.
        self.register_buffer("nms_iou_threshold", tensors.nms_iou_threshold_1[0].clone())
        self.register_buffer("max_detections", tensors.max_detections_1)
        self.eval()

    def forward(self, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        limits = LimitTensors(self.score_threshold, self.nms_iou_threshold, self.max_detections)
        outputs: list[torch.Tensor] = []
        for boxes_D4, scores_D, class_ids_D, masks_DMM in find_within(self.network, images_NCHW, limits):
            named = {"boxes": boxes_D4, "scores": scores_D, "labels": class_ids_D + self.first_label}
            outputs += [named[name] for name in self.network.output_order]
            if masks_DMM is not None:
                height, width = images_NCHW.shape[2:]
                outputs.append(paste_masks_in_image(masks_DMM[:, None], boxes_D4, (height, width)))
        return tuple(outputs)


def yolo_contract(
    network: Yolov5, height: int, width: int, batch_size: int = 1, normalisation: Normalisation | None = None
) -> Contract:
    """The contract's graph of a yolov5 in evaluation mode, for `batch_size` images of `height` x `width`.

    With `normalisation` the graph takes values in [0, 1] and normalises them itself. Raises `UserError` when the size
    does not fit the network.
    """
    if height % YOLO_STRIDE or width % YOLO_STRIDE:
        raise UserError(f"height and width must be multiples of {YOLO_STRIDE} for yolov5, but got {height} x {width}")
    module, example_NCHW = _wrapped(network, normalisation), _noise(batch_size, height, width)
    return Contract(module, (example_NCHW,), GraphSignature((_INPUT,), ("output",), {}))


def rcnn_contract(
    network: Detector,
    limits: SelectionLimits,
    height: int,
    width: int,
    batch_size: int = 1,
    normalisation: Normalisation | None = None,
) -> Contract:
    """The same for Faster R-CNN, Mask R-CNN and RetinaNet, whose graph finds boxes within `limits`."""
    module, example_NCHW = _wrapped(RcnnContract(network, limits), normalisation), _noise(batch_size, height, width)
    if normalisation is None:
        example_NCHW = (example_NCHW - 0.5) * 4  # the range of normalised images: a trace needs boxes in every branch
    return Contract(module, (example_NCHW,), _signature(network, batch_size))


def _wrapped(module: nn.Module, normalisation: Normalisation | None) -> nn.Module:
    return module.eval() if normalisation is None else NormalisedNetwork(module, *normalisation).eval()


def _noise(batch_size: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0))


def first_label(network: Detector) -> int:
    """The label number that the contract's graph gives to class 0."""
    return int(network.has_background)


def labels_of(network: Detector, labels: Sequence[str]) -> list[str]:
    """Class names, indexed by the label numbers of the contract's graph."""
    return [BACKGROUND] * first_label(network) + list(labels)


def outputs_of_image(network: Detector) -> tuple[str, ...]:
    """Names of one image's outputs, without the image's number."""
    return (*network.output_order, "masks") if network.has_masks else network.output_order


def _signature(network: Detector, batch_size: int) -> GraphSignature:
    axes: dict[str, Any] = {}
    names = []
    for index in range(batch_size):
        for name in outputs_of_image(network):
            names.append(f"{name}_{index}")
            axes[names[-1]] = {0: f"detections_{index}"}
            if name == "masks":
                axes[names[-1]] |= {2: "height", 3: "width"}
    if network.has_masks:
        axes[_INPUT] = {2: "height", 3: "width"}
    return GraphSignature((_INPUT,), tuple(names), axes)
