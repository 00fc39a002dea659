"""A detector made ready for explanations: an eager copy, and what it sees in one view as numbers with derivatives.

Derivatives go back to the feature maps that the detecting part of a network begins with: the three inputs of the head
(yolov5), the levels of the feature pyramid (R-CNN, RetinaNet). What is before them runs without a graph.

Of yolov5 the backbone's outputs, further back, were tried too: with objects of 40 pixels the map's maximum lies inside
the box as often, with those of 10 pixels in 0.27 instead of 0.91 of the cases.

Shapes in names: C candidates, K classes, A anchors, M side of a raw mask, u x v cells of a feature map, H height,
W width of the network's input.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]

from clearsight.networks.families.rcnn.batch import padded_side
from clearsight.networks.families.rcnn.retina import RetinaDetector
from clearsight.networks.families.rcnn.two_stage import TwoStageDetector
from clearsight.networks.families.yolov5.decode import boxes_and_scores, decode
from clearsight.networks.families.yolov5.head import STRIDES
from clearsight.networks.families.yolov5.network import Yolov5

__all__ = ["FORWARDS", "DetectorForward", "Level", "ObjectModel"]

Floats = npt.NDArray[np.float32]

_PYRAMID_STRIDES: Final = (4, 8, 16, 32, 64)
_RETINA_STRIDES: Final = (8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A feature map from which derivatives are asked."""

    stride: int
    """Pixels of the network's input in a cell."""
    features_1Cuv: torch.Tensor
    """A leaf of the graph."""


class DetectorForward(Protocol):
    """One view after one forward pass. Indices are those of `candidates`; tensors have a graph to the levels."""

    levels: tuple[Level, ...]

    def candidates(self, class_id: int) -> tuple[Floats, Floats]:
        """boxes_xyxy_C4, pixels of the network's input, and scores_C, each candidate taken for this class."""
        ...

    def score(self, index: int, class_id: int) -> torch.Tensor:
        """The candidate's score, as it is served."""
        ...

    def box(self, index: int, class_id: int) -> torch.Tensor:
        """Left, top, right, bottom, (4,), before they are clipped to the image."""
        ...

    def mask(self, index: int, class_id: int) -> torch.Tensor:
        """Probabilities (M, M); only of models with masks."""
        ...


class ObjectModel:
    """An eager copy of a detector with frozen parameters. The network given is never changed. Safe in threads."""

    def __init__(self, network: nn.Module, family: str) -> None:
        """`family` is the network's, as `ModelRow.family` names it."""
        if family not in FORWARDS:
            raise TypeError(f"expected a detector, but got {type(network).__name__}")
        self._forward = FORWARDS[family]
        self._network = copy.deepcopy(network)
        self._network.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(self._network.parameters()).device

    def forward(self, image_CHW: Floats) -> DetectorForward:
        """Run the network on a normalised view, as the serving graph takes it."""
        return self._forward(self._network, torch.from_numpy(image_CHW)[None].to(self.device))


class _YoloForward:
    """Candidates are those of `yolov5.decode`, in its order: the index is that of the anchor, on every backend."""

    def __init__(self, network: Yolov5, image_1CHW: torch.Tensor) -> None:
        with torch.no_grad():
            features = network.features(image_1CHW)
        self.levels = _leaves(STRIDES, features)
        with torch.enable_grad():
            raw = network.head([level.features_1Cuv for level in self.levels])
            boxes_1C4, scores_1CK = boxes_and_scores(decode(raw, network.head.anchors))
        self._boxes_C4, self._scores_CK = boxes_1C4[0], scores_1CK[0]

    def candidates(self, class_id: int) -> tuple[Floats, Floats]:
        return _array(self._boxes_C4), _array(self._scores_CK[:, class_id])

    def score(self, index: int, class_id: int) -> torch.Tensor:
        return self._scores_CK[index, class_id]

    def box(self, index: int, class_id: int) -> torch.Tensor:
        return self._boxes_C4[index]

    def mask(self, index: int, class_id: int) -> torch.Tensor:
        raise TypeError("yolov5 has no masks")


class _RetinaForward:
    """Candidates are the anchors of all levels."""

    def __init__(self, network: RetinaDetector, image_1CHW: torch.Tensor) -> None:
        images, features = _pyramid(network, image_1CHW)
        self.levels = _leaves(_RETINA_STRIDES, features.values())
        tensors = [level.features_1Cuv for level in self.levels]
        with torch.enable_grad():
            outputs = network.head(tensors)
            (anchors_A4,) = network.anchor_generator(images, tensors)
            self._logits_AK: torch.Tensor = outputs["cls_logits"][0]
            self._boxes_A4: torch.Tensor = network.box_coder.decode_single(outputs["bbox_regression"][0], anchors_A4)

    def candidates(self, class_id: int) -> tuple[Floats, Floats]:
        return _array(self._boxes_A4), _array(self._logits_AK[:, class_id].sigmoid())

    def score(self, index: int, class_id: int) -> torch.Tensor:
        return self._logits_AK[index, class_id].sigmoid()

    def box(self, index: int, class_id: int) -> torch.Tensor:
        return self._boxes_A4[index]

    def mask(self, index: int, class_id: int) -> torch.Tensor:
        raise TypeError("RetinaNet has no masks")


class _TwoStageForward:
    """Candidates are the proposals, decoded for the class.

    All proposals go through the second stage without a graph; only the explained one goes through it again with one,
    so that a derivative costs little time and memory. Proposals themselves have no derivative, as in training.
    """

    def __init__(self, network: TwoStageDetector, image_1CHW: torch.Tensor) -> None:
        images, features = _pyramid(network, image_1CHW)
        self._network = network
        self._sizes = images.image_sizes
        with torch.no_grad():
            (self._proposals_C4,), _ = network.rpn(images, features)
            self._scores_CK, self._boxes_CK4 = self._second_stage(features, self._proposals_C4)
        self.levels = _leaves(_PYRAMID_STRIDES, features.values())
        self._features = dict(zip(features, (level.features_1Cuv for level in self.levels), strict=True))

    def candidates(self, class_id: int) -> tuple[Floats, Floats]:
        return _array(self._boxes_CK4[:, class_id]), _array(self._scores_CK[:, class_id])

    def score(self, index: int, class_id: int) -> torch.Tensor:
        with torch.enable_grad():
            scores_1K, _ = self._second_stage(self._features, self._proposals_C4[index : index + 1])
            return scores_1K[0, class_id]

    def box(self, index: int, class_id: int) -> torch.Tensor:
        with torch.enable_grad():
            _, boxes_1K4 = self._second_stage(self._features, self._proposals_C4[index : index + 1])
            return boxes_1K4[0, class_id]

    def mask(self, index: int, class_id: int) -> torch.Tensor:
        height, width = self._sizes[0]
        limits_4 = self._boxes_CK4.new_tensor([width, height, width, height])
        box_4 = self._boxes_CK4[index, class_id].clamp(min=0).minimum(limits_4)
        heads = self._network.roi_heads
        with torch.enable_grad():
            pooled = heads.mask_roi_pool(self._features, [box_4[None]], self._sizes)
            logits_1KMM: torch.Tensor = heads.mask_predictor(heads.mask_head(pooled))
            return logits_1KMM[0, class_id + 1].sigmoid()

    def _second_stage(
        self, features: dict[str, torch.Tensor], proposals_C4: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """scores_CK and boxes_CK4 of proposals, without the background class, which the network has first."""
        heads = self._network.roi_heads
        pooled = heads.box_head(heads.box_roi_pool(features, [proposals_C4], self._sizes))
        logits, regression = heads.box_predictor(pooled)
        boxes = heads.box_coder.decode_single(regression, proposals_C4).reshape(len(proposals_C4), -1, 4)
        return logits.softmax(dim=1)[:, 1:], boxes[:, 1:]


_FORWARDS: Final[dict[str, Callable[[Any, torch.Tensor], DetectorForward]]] = {
    "yolov5": _YoloForward,
    "rcnn": _TwoStageForward,
    "retinanet": _RetinaForward,
}

FORWARDS: Final[Mapping[str, Callable[[Any, torch.Tensor], DetectorForward]]] = MappingProxyType(_FORWARDS)
"""How a family of detectors is run for explanations, by `ModelRow.family`: of the network and a view, (1, C, H, W)."""


def _pyramid(network: Any, image_1CHW: torch.Tensor) -> tuple[Any, dict[str, torch.Tensor]]:
    """The padded image as the list that torchvision takes, and its feature pyramid."""
    height, width = image_1CHW.shape[2:]
    padded = functional.pad(image_1CHW, (0, padded_side(width) - width, 0, padded_side(height) - height))
    with torch.no_grad():
        return ImageList(padded, [(height, width)]), network.backbone(padded)


def _leaves(strides: tuple[int, ...], features: Any) -> tuple[Level, ...]:
    return tuple(Level(stride, maps.detach().requires_grad_()) for stride, maps in zip(strides, features, strict=True))


def _array(tensor: torch.Tensor) -> Floats:
    found: Floats = tensor.detach().float().numpy(force=True)
    return found
