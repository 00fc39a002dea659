"""What is exported: a trained network with its settings, and images to show that its graphs are right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.documents.settings import ExifOrientation, Settings
from clearsight.images.decode import decode_image
from clearsight.networks.serving import GraphSignature
from clearsight.tasks import Task

__all__ = ["Export", "TrainedModel", "evenly", "read_some"]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What is being written."""

    task: Task
    model_name: str
    labels: tuple[str, ...]
    network: nn.Module
    """A copy, on the CPU, in evaluation mode."""
    settings: Settings


class Export(Protocol):
    """How networks of one kind are exported."""

    @property
    def architecture(self) -> dict[str, Any]:
        """Which library's network this is."""
        ...

    @property
    def signature(self) -> GraphSignature:
        """The serving graph's."""
        ...

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs to trace the serving graph with."""
        ...

    def write_contract(self, folder: Path, normalise: bool) -> dict[str, Any]:
        """Write what Azure's clients read, `model.onnx` and `labels.json`; return what made the graph.

        `normalise` puts mean and deviation inside the graph.
        """
        ...

    def check(self, package: Path, contract: Path | None, normalise: bool, files: Sequence[Path]) -> Mapping[str, Any]:
        """Compare the graphs in the folder of a package, and of the contract, with the network on images.

        Returns `manifest["parity"]`. Raises `ExportError` naming the graph that disagrees.
        """
        ...


def read_some(files: Sequence[Path], count: int, exif_orientation: ExifOrientation) -> list[npt.NDArray[np.uint8]]:
    """At most `count` of the images, turned upright when `exif_orientation` says so."""
    return [decode_image(file.read_bytes(), exif_orientation=exif_orientation) for file in evenly(files, count)]


def evenly(files: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the files, from the whole length of the list."""
    if len(files) <= count:
        return list(files)
    return [files[index * len(files) // count] for index in range(count)]
