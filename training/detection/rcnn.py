"""Training of Faster R-CNN, Mask R-CNN and RetinaNet: images of several sizes, padded to one; torchvision's losses.

Shapes in names: M objects, H height, W width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Final, Literal, cast

import numpy as np
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]

from clearsight.documents.settings import RcnnSettings
from clearsight.networks.families.rcnn.batch import Size, TrainingTarget, pad_together
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.options import DEFAULT, LIGHT
from clearsight.networks.families.rcnn.selection import SelectionLimits, to_candidates
from clearsight.training.detection.data import DetectionBatch, DetectionTarget, RcnnAugmentation
from clearsight.training.detection.family import (
    AugmentationOptions,
    Bytes,
    ProposalOptions,
    TrialParts,
    ValidationOutput,
    to_boxes,
)
from clearsight.training.engine.hardware import Hardware
from clearsight.vision.preprocess import normalise

__all__ = ["RcnnSteps", "RcnnTraining"]

_SEED: Final = 0


@dataclass(slots=True)
class RcnnSteps:
    """`DetectorSteps` of the R-CNN families. The loss is the sum of the network's own, each a mean over the batch."""

    settings: RcnnSettings
    hardware: Hardware

    gradient: ClassVar[Literal["mean"]] = "mean"

    def training_step(self, module: nn.Module, batch: DetectionBatch) -> torch.Tensor:
        images_NCHW, sizes = self._to_input(batch.images_HWC)
        targets = self._to_targets(batch.targets, batch.images_HWC)
        with self.hardware.training_pass():
            losses = module(images_NCHW, sizes, targets)
        return _sum(losses)

    def validation_step(
        self, network: nn.Module, images_HWC: Sequence[Bytes], targets: Sequence[DetectionTarget] | None
    ) -> ValidationOutput:
        detector = cast(Detector, network)
        images_NCHW, sizes = self._to_input(images_HWC)
        features, images = detector.backbone(images_NCHW), ImageList(images_NCHW, sizes)
        limits = SelectionLimits(
            self.settings.box_score_thresh, self.settings.nms_iou_thresh, self.settings.box_detections_per_img
        ).to_tensors(self.hardware.device)
        found = detector.find(features, images, limits)
        loss = None
        if targets is not None:
            with _heads_in_training(detector, self.hardware.device):
                loss = _sum(detector.losses(features, images, self._to_targets(targets, images_HWC)))
        return ValidationOutput([to_candidates(one) for one in found], loss)

    def _to_input(self, images_HWC: Sequence[Bytes]) -> tuple[torch.Tensor, list[Size]]:
        images = [torch.from_numpy(normalise(image, self.settings.mean, self.settings.std)) for image in images_HWC]
        images_NCHW, sizes = pad_together(images)
        return images_NCHW.to(self.hardware.device, memory_format=torch.channels_last), sizes

    def _to_targets(self, targets: Sequence[DetectionTarget], images_HWC: Sequence[Bytes]) -> list[TrainingTarget]:
        device = self.hardware.device
        return [
            TrainingTarget(*to_boxes(target, device), self._to_masks(target, *image_HWC.shape[:2]))
            for target, image_HWC in zip(targets, images_HWC, strict=True)
        ]

    def _to_masks(self, target: DetectionTarget, height: int, width: int) -> torch.Tensor | None:
        if self.settings.masks is None:
            return None
        masks_MHW = np.zeros((len(target.boxes_xyxy_N4), height, width), np.uint8)
        for mask_HW, mask in zip(masks_MHW, target.masks_N or (), strict=True):
            mask_HW[:] = mask.to_full_size(height, width)
        return torch.from_numpy(masks_MHW).to(self.hardware.device)


class RcnnTraining:
    """`DetectorTraining` of Faster R-CNN, Mask R-CNN and RetinaNet."""

    averages_weights: ClassVar[bool] = False

    def architecture(self, settings: RcnnSettings, proposals: ProposalOptions) -> dict[str, Any]:
        options = LIGHT if proposals.is_light else DEFAULT
        if proposals.per_loss is not None:
            options = replace(options, proposals_per_loss=proposals.per_loss)
        return {"options": asdict(options)}

    def augmentation(self, settings: RcnnSettings, options: AugmentationOptions) -> RcnnAugmentation:
        return RcnnAugmentation(settings.min_size, settings.max_size, options.with_geometry, mean=settings.mean)

    def steps(self, network: Detector, settings: RcnnSettings, parts: TrialParts) -> RcnnSteps:
        return RcnnSteps(settings, parts.hardware)

    def parameters(self, network: Detector, weight_decay: float, images_per_step: int) -> Iterator[nn.Parameter]:
        return network.parameters()


@contextmanager
def _heads_in_training(detector: Detector, device: torch.device) -> Iterator[None]:
    """Set training mode, in which the heads compute losses, with the same random samples in every pass.

    The backbone must have run before: its batch norms would be updated in this mode.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_SEED)
        detector.train()
        try:
            yield
        finally:
            detector.eval()


def _sum(losses: dict[str, Any]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()
