"""The serving graph of yolov5: images in, every candidate with its best class out.

The best class is chosen in the graph, so that 0.3 MB leave it instead of the scores of 80 classes for 25 200
candidates, 8 MB an image. A box then has one class. Thresholds and suppression stay outside.

Shapes in names: N images, C candidates, K classes, H and W multiples of 32.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import nn

from clearsight.networks.families.yolov5.decode import boxes_and_scores
from clearsight.networks.families.yolov5.network import Yolov5

__all__ = ["DYNAMIC_AXES", "INPUT_NAMES", "OUTPUT_NAMES", "ServingGraph", "best_classes"]

INPUT_NAMES: Final = ("images",)
"""float32 (N, 3, H, W) in [0, 1]."""
OUTPUT_NAMES: Final = ("boxes", "scores", "class_ids")

DYNAMIC_AXES: Final[Mapping[str, Mapping[int, str]]] = MappingProxyType(
    {
        "images": {0: "batch", 2: "height", 3: "width"},
        "boxes": {0: "batch", 1: "candidates"},
        "scores": {0: "batch", 1: "candidates"},
        "class_ids": {0: "batch", 1: "candidates"},
    }
)


class ServingGraph(nn.Module):
    """What is exported, in evaluation mode.

    Answers boxes_xyxy_NC4 (pixels of the input; a box may reach beyond it), scores_NC (objectness times the best
    class's probability) and class_ids_NC, int64; candidates in the order of `decode`.
    """

    def __init__(self, network: Yolov5) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return best_classes(self.network(images_NCHW))


def best_classes(predictions_NCV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, scores and class ids, as served, of decoded predictions."""
    boxes_xyxy_NC4, scores_NCK = boxes_and_scores(predictions_NCV)
    scores_NC, class_ids_NC = scores_NCK.max(dim=2)
    return boxes_xyxy_NC4, scores_NC, class_ids_NC
