"""What differs between families of detectors: the loss of a batch, and how one is asked for candidates.

Shapes in names: H height, W width, C colour channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.training.detection.data import DetectionBatch, DetectionTarget
from clearsight.vision.candidates import Candidates

__all__ = ["Bytes", "Examined", "Family", "to_boxes"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Examined:
    """What a network says about images of one size."""

    candidates: list[Candidates]
    """Of each image, in pixels of the network's input."""
    loss: torch.Tensor | None
    """Mean over the images; None when it was not asked for."""


class Family(Protocol):
    """A family of detectors."""

    @property
    def gradient(self) -> Literal["mean", "sum"]:
        """See `Objective.gradient`."""

    def training_step(self, module: nn.Module, batch: DetectionBatch) -> torch.Tensor:
        """The loss of a batch in training mode: a mean or a sum over its images, as `gradient` says."""

    def validation_step(
        self, network: nn.Module, images_HWC: Sequence[Bytes], targets: Sequence[DetectionTarget] | None
    ) -> Examined:
        """Look at images of one size in evaluation mode; with `targets`, also take the loss. No gradients."""


def to_boxes(target: DetectionTarget, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """boxes_xyxy (M, 4) float32 and class ids (M,) int64 on a device."""
    return torch.from_numpy(target.boxes_xyxy_N4).to(device), torch.from_numpy(target.class_ids_N).to(device)
