"""What of a network is served: one module per family, and the names of its tensors.

* classifiers: `images` -> `logits`
* yolov5: `images` -> `boxes`, `scores`, `class_ids` of all candidates
* R-CNN and RetinaNet: `image`, `score_threshold`, `nms_iou_threshold`, `max_detections` -> `boxes`, `scores`,
  `class_ids` and, of Mask R-CNN, `masks`

Exporters trace this module and the eager backend calls it, so that every backend answers the same tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn

from clearsight.networks.families.rcnn import serving as rcnn
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.yolov5 import serving as yolov5
from clearsight.networks.families.yolov5.network import Yolov5

__all__ = ["GraphSignature", "signature_of", "to_serving_module"]

_CLASSIFIER_SIZE: Final = {2: "height", 3: "width"}


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """Names of a graph's tensors, in the order in which it takes and gives them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free_axes: Mapping[str, Mapping[int, str]]
    """By tensor: which axes may have any length, and their names. The others are those of the traced example."""


def to_serving_module(network: nn.Module) -> nn.Module:
    """What serves a network, in evaluation mode, which the network is put into; tensors in, tensors out."""
    if isinstance(network, Yolov5):
        return yolov5.ServingGraph(network)
    if isinstance(network, Detector):
        return rcnn.ServingGraph(network)
    return network.eval()


def signature_of(network: nn.Module, *, fixed_size: bool = False) -> GraphSignature:
    """The tensors of `to_serving_module(network)`. `fixed_size`: a classifier takes images of one size only."""
    if isinstance(network, Yolov5):
        return GraphSignature(yolov5.INPUT_NAMES, yolov5.OUTPUT_NAMES, yolov5.DYNAMIC_AXES)
    if isinstance(network, Detector):
        outputs = rcnn.output_names(network)
        axes = {name: rcnn.DYNAMIC_AXES[name] for name in (*rcnn.INPUT_NAMES, *outputs) if name in rcnn.DYNAMIC_AXES}
        return GraphSignature(rcnn.INPUT_NAMES, outputs, axes)
    size = {} if fixed_size else _CLASSIFIER_SIZE
    return GraphSignature(("images",), ("logits",), {"images": {0: "batch", **size}, "logits": {0: "batch"}})
