"""Training of yolov5: images of one size, levels of raw predictions, a loss that is summed over the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, cast

import numpy as np
import torch
from torch import nn

from clearsight.documents.settings import YoloSettings
from clearsight.networks.families.yolov5.anchors import AnchorCheck, autofit_anchors
from clearsight.networks.families.yolov5.decode import decode
from clearsight.networks.families.yolov5.head import STRIDES
from clearsight.networks.families.yolov5.loss import LOSS_OPTIONS, Losses, Yolov5Loss
from clearsight.networks.families.yolov5.network import Yolov5, name_of_size
from clearsight.networks.families.yolov5.parameters import parameter_groups
from clearsight.networks.families.yolov5.serving import best_classes
from clearsight.training.detection.data import DetectionBatch, DetectionTarget, DetectionTrainingSet, YoloAugmentation
from clearsight.training.detection.family import (
    AugmentationOptions,
    Bytes,
    ProposalOptions,
    TrialParts,
    ValidationOutput,
    to_boxes,
)
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.optimizer import ParameterGroup
from clearsight.vision.candidates import Candidates
from clearsight.vision.preprocess import normalise

__all__ = ["Yolov5Steps", "Yolov5Training", "autofit_anchors_to"]

_NOMINAL_BATCH: Final = 64
"""Number of images in a step for which the weight decay of the published recipe is meant."""
_ANCHOR_STREAM: Final = 7  # stream of random numbers, beside those of order and views


@dataclass(slots=True)
class Yolov5Steps:
    """`DetectorSteps` of yolov5."""

    loss: Yolov5Loss
    settings: YoloSettings
    hardware: Hardware

    gradient: ClassVar[Literal["sum"]] = "sum"

    def training_step(self, module: nn.Module, batch: DetectionBatch) -> torch.Tensor:
        images_NCHW = self._to_input(batch.images_HWC)
        with self.hardware.training_pass():
            levels = module(images_NCHW)
        return self._losses(levels, batch.targets).total

    def validation_step(
        self, network: nn.Module, images_HWC: Sequence[Bytes], targets: Sequence[DetectionTarget] | None
    ) -> ValidationOutput:
        yolov5 = cast(Yolov5, network)
        levels = yolov5.levels(self._to_input(images_HWC))
        boxes_NC4, scores_NC, class_ids_NC = best_classes(decode(levels, yolov5.head.anchors))
        parts = zip(
            boxes_NC4.numpy(force=True), scores_NC.numpy(force=True), class_ids_NC.numpy(force=True), strict=True
        )
        loss = None if targets is None else self._losses(levels, targets).total / len(images_HWC)
        return ValidationOutput([Candidates(*part) for part in parts], loss)

    def _to_input(self, images_HWC: Sequence[Bytes]) -> torch.Tensor:
        images = np.stack([normalise(image, self.settings.mean, self.settings.std) for image in images_HWC])
        return torch.from_numpy(images).to(self.hardware.device, memory_format=torch.channels_last)

    def _losses(self, levels: Sequence[torch.Tensor], targets: Sequence[DetectionTarget]) -> Losses:
        boxes, class_ids = zip(*(to_boxes(target, self.hardware.device) for target in targets), strict=True)
        losses: Losses = self.loss(levels, boxes, class_ids)
        return losses


class Yolov5Training:
    """`DetectorTraining` of yolov5."""

    averages_weights: ClassVar[bool] = True

    def architecture(self, settings: YoloSettings, proposals: ProposalOptions) -> dict[str, Any]:
        return {"model_size": settings.model_size}

    def augmentation(self, settings: YoloSettings, options: AugmentationOptions) -> YoloAugmentation:
        return YoloAugmentation(settings.img_size, options.with_mosaic, options.with_geometry, options.multi_scale)

    def steps(self, network: Yolov5, settings: YoloSettings, parts: TrialParts) -> Yolov5Steps:
        """Fit the anchors to the data in the first process, which has the loaded weights, and send them to all."""
        if parts.ranks.is_first:
            check = autofit_anchors_to(parts.data, network, settings.img_size, parts.seed)
            parts.publish("anchors", changed=check.changed, recall_before=check.recall_before, recall=check.recall)
        [anchors, *_] = parts.ranks.all_gather_documents("anchors", network.head.anchors.tolist())
        network.head.anchors.copy_(torch.tensor(anchors))
        options = LOSS_OPTIONS[name_of_size(network.size)]
        loss = Yolov5Loss(network.head.anchors, network.num_classes, settings.img_size, options)
        return Yolov5Steps(loss.to(parts.hardware.device), settings, parts.hardware)

    def parameters(self, network: Yolov5, weight_decay: float, images_per_step: int) -> Sequence[ParameterGroup]:
        groups = parameter_groups(network)
        decay = weight_decay * images_per_step / _NOMINAL_BATCH
        return (
            ParameterGroup(groups.weights, decay),
            ParameterGroup(groups.norms, 0.0),
            ParameterGroup(groups.biases, 0.0),
        )


def autofit_anchors_to(data: DetectionTrainingSet, network: Yolov5, image_size: int, seed: int) -> AnchorCheck:
    """Give the network anchors that suit the boxes of a training set at training size. Equal seeds, equal anchors."""
    anchors = network.head.anchors
    strides_L11 = anchors.new_tensor(STRIDES).view(-1, 1, 1)
    random = np.random.default_rng((seed, _ANCHOR_STREAM))
    check = autofit_anchors(data.box_sizes_wh(image_size), (anchors * strides_L11).numpy(force=True), random)
    if check.changed:
        network.head.set_anchors(torch.from_numpy(check.anchors_wh_LA2))
    return check
