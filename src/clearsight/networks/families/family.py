"""The protocol of a family of networks.

A family serves one or more rows of `clearsight.catalogue.models`, whose field `family` names it. Code outside asks the
object and never tests the type of a network. What needs code of a higher layer (scoring, export, training,
explanations) has its own object there; the family's row in `catalogue.models.FAMILIES` names them all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import nn

from clearsight.catalogue.models import ModelRow
from clearsight.networks.serving import GraphSignature
from clearsight.networks.weights import PretrainedRecord

__all__ = ["Family", "NetworkT", "OneStageDetector"]

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class Family(Protocol[NetworkT]):
    """A family of networks. It has no state, and its methods are safe in threads."""

    default_architecture: ClassVar[Mapping[str, Any]]
    """The architecture record of a network without special options."""

    def build(
        self, row: ModelRow, num_classes: int, architecture: Mapping[str, Any], crop_size: int | None = None
    ) -> NetworkT:
        """Build a network with random weights (drawn from torch's global generator), on the CPU, in training mode.

        `num_classes` counts no background. `architecture` is the result of the method `architecture`, as plain data
        from a package's manifest, perhaps of an earlier version; unknown keys are ignored. `crop_size` is the side,
        in pixels, of the images of a classifier; by default that of its published weights. Raises `UserError` for a
        bad value.
        """
        ...

    def architecture(self, network: NetworkT) -> dict[str, Any]:
        """What a package must record to build the network again, beyond model name and classes, as plain data."""
        ...

    def load_pretrained(
        self, network: NetworkT, row: ModelRow, weights_dir: Path | None, pretrained: bool
    ) -> PretrainedRecord:
        """Load pretrained weights into a network that `build` made; return what was loaded.

        Searched as `networks.weight_search` says. `pretrained=False` leaves the network as it is. Raises
        `WeightsMissing`, and `UserError` when a file does not hold weights of this architecture.
        """
        ...

    def prepare_pretrained(self, network: NetworkT) -> None:
        """Change a network, except for its weights, as `load_pretrained` does when it loads some."""
        ...

    def serving_module(self, network: NetworkT) -> nn.Module:
        """The module that is served: tensors in, tensors out, as `signature` names them.

        It shares the network, which is put into evaluation mode.
        """
        ...

    def signature(self, row: ModelRow) -> GraphSignature:
        """The tensors of the serving module."""
        ...

    def example_inputs(self, crop_size: int | None) -> tuple[torch.Tensor, ...]:
        """Inputs to trace the serving module with; `crop_size` as for `build`."""
        ...


class OneStageDetector(Protocol):
    """A detector with candidates in every cell of its feature maps, with what gradients of a candidate need.

    `handlers.explain.objects.network.OneStageForward` explains every network with these members.
    """

    level_strides: tuple[int, ...]
    """Pixels of the network's input in a cell of each level, from fine to coarse."""

    def features(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """The feature maps that the head predicts from, one per level; sides of images are multiples of 32."""
        ...

    def dense(self, levels: list[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """boxes_xyxy (N, C, 4) in pixels and scores (N, C, K) of every candidate; size of the images in pixels."""
        ...
