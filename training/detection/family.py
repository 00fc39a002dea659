"""The interface of a family of detectors in training: what a family defines, and the steps of one trial.

Shapes in names: H height, W width, C colour channel.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.documents.settings import DetectorSettings
from clearsight.training.detection.data import (
    DetectionAugmentation,
    DetectionBatch,
    DetectionTarget,
    DetectionTrainingSet,
)
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.optimizer import ParameterGroup
from clearsight.training.engine.ranks import Ranks
from clearsight.vision.candidates import Candidates

__all__ = [
    "AugmentationOptions",
    "Bytes",
    "DetectorSteps",
    "DetectorTraining",
    "ProposalOptions",
    "TrialParts",
    "ValidationOutput",
    "to_boxes",
]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class AugmentationOptions:
    """What a job can change about the augmentation of training images."""

    with_geometry: bool
    """Whether images are flipped, scaled and moved at random."""
    with_mosaic: bool
    """Whether yolov5 trains on mosaics of four images."""
    multi_scale: bool = False
    """Whether the size of yolov5's training images varies between batches."""


@dataclass(frozen=True, slots=True)
class ProposalOptions:
    """What a job can change about the numbers of proposals of the R-CNN families."""

    is_light: bool
    """Whether they are reduced as a whole (`networks.families.rcnn.options.LIGHT`)."""
    per_loss: int | None
    """Proposals per image in the loss of the second stage; None: the number that goes with the others."""


@dataclass(frozen=True, slots=True)
class ValidationOutput:
    """Output of a network for images of one size."""

    candidates: list[Candidates]
    """Candidates by image, in pixels of the network's input."""
    loss: torch.Tensor | None
    """Mean loss over the images; None when it was not asked for."""


class DetectorSteps(Protocol):
    """The steps of one trial of a detector."""

    @property
    def gradient(self) -> Literal["mean", "sum"]:
        """See `Objective.gradient`."""

    def training_step(self, module: nn.Module, batch: DetectionBatch) -> torch.Tensor:
        """The loss of a batch in training mode: a mean or a sum over its images, as `gradient` says."""

    def validation_step(
        self, network: nn.Module, images_HWC: Sequence[Bytes], targets: Sequence[DetectionTarget] | None
    ) -> ValidationOutput:
        """Run images of one size in evaluation mode, without gradients; with `targets`, also compute the loss."""


@dataclass(frozen=True, slots=True)
class TrialParts:
    """The components of a trial from which the steps are made."""

    data: DetectionTrainingSet
    seed: int
    hardware: Hardware
    ranks: Ranks
    publish: Callable[..., None]
    """Event sink: name of the event, then its fields by keyword."""


NetworkT_contra = TypeVar("NetworkT_contra", bound=nn.Module, contravariant=True)
SettingsT_contra = TypeVar("SettingsT_contra", bound=DetectorSettings, contravariant=True)


class DetectorTraining(Protocol[NetworkT_contra, SettingsT_contra]):
    """How a family of detectors is trained. The object has no state."""

    averages_weights: ClassVar[bool]
    """Whether a moving average of the weights is validated and kept in place of the network."""

    def architecture(self, settings: SettingsT_contra, proposals: ProposalOptions) -> dict[str, Any]:
        """The architecture record that a job asks for, as `networks.families.Family.build` takes it.

        A family ignores the options that it does not have.
        """

    def augmentation(self, settings: SettingsT_contra, options: AugmentationOptions) -> DetectionAugmentation:
        """The augmentation of training images. A family ignores the options that it does not have."""

    def steps(self, network: NetworkT_contra, settings: SettingsT_contra, parts: TrialParts) -> DetectorSteps:
        """Make the steps of a trial. Changes the network, which is on the CPU, where the data require it."""

    def parameters(
        self, network: NetworkT_contra, weight_decay: float, images_per_step: int
    ) -> Iterable[nn.Parameter] | Sequence[ParameterGroup]:
        """The parameters for the optimizer, in groups where they differ in weight decay.

        `images_per_step` counts the images of all processes and accumulated batches.
        """


def to_boxes(target: DetectionTarget, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy boxes_xyxy (M, 4), float32, and class ids (M,), int64, of a target to a device."""
    return torch.from_numpy(target.boxes_xyxy_N4).to(device), torch.from_numpy(target.class_ids_N).to(device)
