"""A detector as a graph of tensors: one image of any size, and the user's thresholds as inputs.

Why inputs: masks are wanted for the boxes that are left after thresholds and suppression, and only for those, so this
step lies in the middle of the graph. Constants could not bring a box back when the user lowers a threshold; two graphs
would carry the feature maps from one to the other (41 MB at 600 x 800). Suppressing the answer once more with the same
thresholds changes nothing, so that callers may treat these boxes like those of other detectors.

Shapes in names: D boxes, C colour channels, H height, W width, M = 28 side of a raw mask; `_1` is one number.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]

from clearsight.networks.families.rcnn.batch import pad_to_multiple
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.selection import Found, LimitTensors, SelectionLimits

__all__ = ["DYNAMIC_AXES", "INPUT_NAMES", "ServingGraph", "example_inputs", "find_within", "output_names"]

INPUT_NAMES: Final = ("image", "score_threshold", "nms_iou_threshold", "max_detections")
"""float32 (1, 3, H, W) normalised and not padded; float32 (1,); float32 (1,); int64 (1,)."""

DYNAMIC_AXES: Final[Mapping[str, Mapping[int, str]]] = MappingProxyType(
    {
        "image": {2: "height", 3: "width"},
        "boxes": {0: "detections"},
        "scores": {0: "detections"},
        "class_ids": {0: "detections"},
        "masks": {0: "detections"},
    }
)


class ServingGraph(nn.Module):
    """What is exported: traced by torch or by the ONNX exporter that builds on it, in evaluation mode.

    Answers boxes_xyxy_D4 (pixels of the image as it came in), scores_D by descending score, class_ids_D int64 from 0
    and, of Mask R-CNN, mask_probs_DMM.
    """

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(
        self,
        image_1CHW: torch.Tensor,
        score_threshold_1: torch.Tensor,
        nms_iou_threshold_1: torch.Tensor,
        max_detections_1: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        limits = LimitTensors(score_threshold_1, nms_iou_threshold_1, max_detections_1)
        [found] = find_within(self.network, image_1CHW, limits)
        return tuple(tensor for tensor in found if tensor is not None)


def find_within(network: Detector, images_NCHW: torch.Tensor, limits: LimitTensors) -> list[Found]:
    """Detections of each of several images of one size, normalised and not padded; of any size inside a trace too."""
    padded = pad_to_multiple(images_NCHW)
    images: Any = ImageList(padded, [(images_NCHW.shape[2], images_NCHW.shape[3])] * images_NCHW.shape[0])
    return network.find(network.backbone(padded), images, limits)


def example_inputs(height: int, width: int, limits: SelectionLimits) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with. The image is noise: a graph must be traced with boxes in every branch."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(1, 3, height, width, generator=generator), *limits.to_tensors(torch.device("cpu")))


def output_names(has_masks: bool) -> tuple[str, ...]:
    """Names of the graph's outputs, in order."""
    return ("boxes", "scores", "class_ids", "masks") if has_masks else ("boxes", "scores", "class_ids")
