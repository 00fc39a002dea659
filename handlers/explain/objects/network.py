"""An eager copy of a detector for explanations, and its outputs for one view as tensors with derivatives.

Derivatives are taken with respect to the input of the detection head: its three feature maps (yolov5), the levels of
the feature pyramid (R-CNN, RetinaNet). The layers before it run without a graph.

The backbone's outputs of yolov5, further back, were measured too: for objects of 40 pixels the map's maximum lies
inside the box as often, for objects of 10 pixels in 0.27 instead of 0.91 of the cases.

Shapes in names: C candidates, K classes, A anchors, M side of a raw mask, u x v cells of a feature map, H height,
W width of the network's input.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]

from clearsight.catalogue.models import FAMILIES
from clearsight.networks.families.rcnn.batch import pad_to_multiple
from clearsight.networks.families.rcnn.two_stage import TwoStageDetector

__all__ = ["DetectorForward", "Level", "ObjectModel", "OneStageForward", "TwoStageForward"]

Floats = npt.NDArray[np.float32]

_PYRAMID_STRIDES: Final = (4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A feature map with respect to which derivatives are taken."""

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
        forward = FAMILIES[family].forward
        if forward is None:
            raise TypeError(f"expected a detector, but got {type(network).__name__}")
        self._forward: Callable[[nn.Module, torch.Tensor], DetectorForward] = resolve_name(forward)
        self._network = copy.deepcopy(network)
        self._network.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(self._network.parameters()).device

    def forward(self, image_CHW: Floats) -> DetectorForward:
        """Run the network on a normalised view, as the serving graph takes it."""
        return self._forward(self._network, torch.from_numpy(image_CHW)[None].to(self.device))


class OneStageForward:
    """Candidates are those of `OneStageDetector.dense`, in its order: the same index on every backend."""

    def __init__(self, network: Any, image_1CHW: torch.Tensor) -> None:
        """`network` is a `OneStageDetector`."""
        padded = pad_to_multiple(image_1CHW)
        with torch.no_grad():
            features = network.features(padded)
        self.levels = _leaves(network.level_strides, features)
        with torch.enable_grad():
            boxes_1C4, scores_1CK = network.dense([level.features_1Cuv for level in self.levels], *padded.shape[2:])
        self._boxes_C4: torch.Tensor = boxes_1C4[0]
        self._scores_CK: torch.Tensor = scores_1CK[0]

    def candidates(self, class_id: int) -> tuple[Floats, Floats]:
        return _array(self._boxes_C4), _array(self._scores_CK[:, class_id])

    def score(self, index: int, class_id: int) -> torch.Tensor:
        return self._scores_CK[index, class_id]

    def box(self, index: int, class_id: int) -> torch.Tensor:
        return self._boxes_C4[index]

    def mask(self, index: int, class_id: int) -> torch.Tensor:
        raise TypeError("a detector of one stage has no masks")


class TwoStageForward:
    """Candidates are the proposals, decoded for the class.

    All proposals go through the second stage without a graph; only the explained one goes through it again with one,
    so that a derivative costs little time and memory. Proposals themselves have no derivative, as in training.
    """

    def __init__(self, network: TwoStageDetector, image_1CHW: torch.Tensor) -> None:
        padded = pad_to_multiple(image_1CHW)
        with torch.no_grad():
            features = network.backbone(padded)
        images: Any = ImageList(padded, [(image_1CHW.shape[2], image_1CHW.shape[3])])
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


def _leaves(strides: tuple[int, ...], features: Any) -> tuple[Level, ...]:
    return tuple(Level(stride, maps.detach().requires_grad_()) for stride, maps in zip(strides, features, strict=True))


def _array(tensor: torch.Tensor) -> Floats:
    found: Floats = tensor.detach().float().numpy(force=True)
    return found
