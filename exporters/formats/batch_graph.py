"""Azure's batch generator: a detector's contract graph for exactly N images, made from a package.

Azure's default graph takes one image; its samples make larger ones with a script, whose arguments these are
(https://learn.microsoft.com/azure/machine-learning/how-to-inference-onnx-automl-image-models).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clearsight.documents.settings import ClassificationSettings, DetectorSettings, YoloSettings
from clearsight.errors import UserError
from clearsight.exporters.detector import CONTRACT_HEIGHT, CONTRACT_WIDTH, limits_of
from clearsight.exporters.formats.contract import Contract, contract_of
from clearsight.exporters.formats.contract_file import RcnnContractFile, YoloContractFile
from clearsight.exporters.formats.onnx import export_onnx
from clearsight.exporters.parity.detection import RcnnGraph, Round, YoloGraph, all_boxes, check_rcnn, check_yolov5
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.networks.families.yolov5.network import Yolov5
from clearsight.networks.load import load_network
from clearsight.runs.package import ModelPackage

__all__ = ["BatchOptions", "write_batch_graph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What the graph is to be; `None` takes the value of the package's settings, for sizes Azure's default."""

    batch_size: int
    height: int | None = None
    width: int | None = None
    box_score_thresh: float | None = None
    nms_iou_thresh: float | None = None
    box_detections_per_img: int | None = None
    img_size: int | None = None
    """yolov5: height and width in one."""
    model_size: str | None = None
    """yolov5: must be the package's own."""

    @property
    def is_the_default_graph(self) -> bool:
        """Whether a trial's `train_artifacts/model.onnx` is this graph already."""
        others = (value for key, value in asdict(self).items() if key != "batch_size")
        return self.batch_size < 1 or (self.batch_size == 1 and all(value is None for value in others))


def write_batch_graph(package: ModelPackage, file: Path, options: BatchOptions) -> dict[str, Any]:
    """Write the graph, compared with the network on noise; return what it is.

    `file` must not be one that a reader may open: it exists, half written, while this runs, and when this fails. Raises
    `UserError` when the options do not fit the package, `ExportError` when the graph cannot be made or disagrees.
    """
    settings = package.settings()
    if isinstance(settings, ClassificationSettings):
        raise UserError(
            "the options of a batch are for detectors: a classifier's graphs take any batch; leave them out"
        )
    _require_own_options(package, settings, options)
    network = load_network(package)
    assert isinstance(network, Yolov5 | Detector)  # noqa: S101  a package of detectors has one
    limits = _limits(settings, options)
    if isinstance(settings, YoloSettings):
        side = options.img_size or settings.img_size
        height, width = options.height or side, options.width or side
    else:
        height, width = options.height or CONTRACT_HEIGHT, options.width or CONTRACT_WIDTH
    contract = contract_of(network, limits, height, width, options.batch_size)
    record = export_onnx(contract.module, contract.example, file, contract.signature)
    _check(network, contract, file, limits)
    return {
        "batch_size": options.batch_size,
        "height": height,
        "width": width,
        "inputs": record["inputs"],
        "outputs": record["outputs"],
        "limits": None if isinstance(network, Yolov5) else asdict(limits),
    }


def _require_own_options(package: ModelPackage, settings: DetectorSettings, options: BatchOptions) -> None:
    """yolov5's thresholds are accepted, as by Azure's script, which requires one: its graph gives all candidates."""
    if not isinstance(settings, YoloSettings):
        for name in ("img_size", "model_size"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} is for yolov5, but the package holds {package.model_name}; leave it out")
        return
    own = package.manifest["architecture"].get("model_size")
    wanted = {"extra_large": "xlarge", None: own}.get(options.model_size, options.model_size)
    if wanted != own:
        raise UserError(f"model_size must be {own}, as the package was trained, but got {options.model_size}")


def _limits(settings: DetectorSettings, options: BatchOptions) -> SelectionLimits:
    given: Mapping[str, Any] = {
        "score_threshold": options.box_score_thresh,
        "nms_iou_threshold": options.nms_iou_thresh,
        "max_detections": options.box_detections_per_img,
    }
    return replace(limits_of(settings), **{name: value for name, value in given.items() if value is not None})


def _check(network: nn.Module, contract: Contract, file: Path, limits: SelectionLimits) -> None:
    """Compare with the eager network on the noise that the graph was traced with, moved by one image."""
    images = torch.roll(contract.example[0], 1, dims=0).numpy()
    if isinstance(network, Yolov5):
        opened = YoloContractFile(file, batch_size=len(images))
        check_yolov5(network, images, [YoloGraph("the batch graph", opened.runtime, opened.candidates)])
        return
    assert isinstance(network, Detector)  # noqa: S101  there are two kinds
    answers = RcnnContractFile(network, file, limits)
    rounds = [
        Round(
            images[index : index + 1],
            [limits, all_boxes(network, limits.nms_iou_threshold)],
            [
                RcnnGraph(
                    "the batch graph",
                    answers.runtime,
                    lambda _, asked, index=index: answers.answers(images, asked)[index],  # type: ignore[misc]
                )
            ],
            are_masks_pasted=True,
        )
        for index in range(len(images))
    ]
    check_rcnn(network, rounds)
