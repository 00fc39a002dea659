"""The input of an export: a trained network with its settings, and images to compare its graphs on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn

from clearsight.catalogue.models import FAMILIES, find_row
from clearsight.documents.settings import SETTINGS_TYPES, ExifOrientation, Settings
from clearsight.errors import ExportError
from clearsight.images.decode import decode_image
from clearsight.tasks import Task

__all__ = ["BatchOptions", "Export", "TrainedModel", "evenly", "export_of", "read_some"]


NetworkT = TypeVar("NetworkT", bound=nn.Module)
SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, slots=True)
class TrainedModel(Generic[NetworkT, SettingsT]):
    """A trained network and the facts that its package holds."""

    task: Task
    model_name: str
    labels: tuple[str, ...]
    network: NetworkT
    """A copy, on the CPU, in evaluation mode."""
    settings: SettingsT


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Options of a graph for several images; `None` is the value of the settings, for sizes Azure's default."""

    batch_size: int
    height: int | None = None
    """Of the graph's input, pixels."""
    width: int | None = None
    """Of the graph's input, pixels."""
    box_score_thresh: float | None = None
    nms_iou_thresh: float | None = None
    box_detections_per_img: int | None = None
    img_size: int | None = None
    """yolov5: height and width together."""
    model_size: str | None = None
    """yolov5: must be the package's own."""

    @property
    def is_the_default_graph(self) -> bool:
        """Whether a trial's `train_artifacts/model.onnx` is this graph already."""
        others = (value for key, value in asdict(self).items() if key != "batch_size")
        return self.batch_size < 1 or (self.batch_size == 1 and all(value is None for value in others))


class Export(Protocol):
    """Exports networks of one family; the serving graph itself is made by `networks.families.Family`."""

    def write_contract(self, folder: Path, normalise: bool) -> dict[str, Any]:
        """Write what Azure's clients read, `model.onnx` and `labels.json`; return what made the graph.

        `normalise` puts mean and std inside the graph.
        """
        ...

    def check(self, package: Path, contract: Path | None, normalise: bool, files: Sequence[Path]) -> Mapping[str, Any]:
        """Compare the graphs in the folder of a package, and of the contract, with the network on images.

        Returns `manifest["parity"]`. Raises `ExportError` naming the graph that disagrees.
        """
        ...

    def write_batch_graph(self, file: Path, options: BatchOptions) -> dict[str, Any]:
        """Write the contract's graph for several images, compared with the network on noise; return what it is.

        Raises `UserError` when the options do not fit the model, `ExportError` when the graph disagrees.
        """
        ...


def read_some(files: Sequence[Path], count: int, exif_orientation: ExifOrientation) -> list[npt.NDArray[np.uint8]]:
    """At most `count` of the images, turned upright when `exif_orientation` says so."""
    return [decode_image(file.read_bytes(), exif_orientation=exif_orientation) for file in evenly(files, count)]


def evenly(files: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the files, evenly spread over the list."""
    if len(files) <= count:
        return list(files)
    return [files[index * len(files) // count] for index in range(count)]


def export_of(model: TrainedModel[Any, Any]) -> Export:
    """The `Export` of a model. Raises `ExportError` when its settings are those of another kind of model."""
    row = find_row(model.model_name)
    if type(model.settings) is not SETTINGS_TYPES[row.settings]:
        raise ExportError(
            f"a network must come with settings of its kind, but got a {type(model.network).__name__} with "
            f"{type(model.settings).__name__}"
        )
    export: Export = resolve_name(FAMILIES[row.family].export)(model)
    return export
