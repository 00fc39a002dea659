"""Export of detectors."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from clearsight.documents.settings import DetectorSettings, RcnnSettings, YoloSettings
from clearsight.errors import UserError
from clearsight.exporters.formats.contract import Contract, Normalisation, labels_of, rcnn_contract, yolo_contract
from clearsight.exporters.formats.contract_file import RcnnContractFile, YoloContractFile
from clearsight.exporters.formats.onnx import export_onnx
from clearsight.exporters.graphs import Run, run_in_batches
from clearsight.exporters.parity.answers import GraphAnswer
from clearsight.exporters.parity.detection import (
    WANTED_IMAGES,
    RcnnGraph,
    Round,
    YoloGraph,
    all_boxes,
    check_rcnn,
    check_yolov5,
    other_limits,
)
from clearsight.exporters.serving_graphs import open_serving_graphs
from clearsight.exporters.trained import BatchOptions, TrainedModel, read_some
from clearsight.handlers.scoring.views import placement_of
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.networks.families.yolov5.network import Yolov5, name_of_size
from clearsight.vision.letterbox import Placement, place
from clearsight.vision.preprocess import normalise as to_input

__all__ = ["RcnnExport", "YoloExport"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CONTRACT_HEIGHT: Final = 600
CONTRACT_WIDTH: Final = 800
"""Size in pixels of the input of the R-CNN families' contract graph: Azure's defaults."""

_BATCH_GRAPH: Final = "the batch graph"

_CONTRACT_IMAGES: Final = 2
"""Number of images on which the contract graph is compared: it is the same network in the largest size."""


class RcnnExport:
    """`Export` of Faster R-CNN, Mask R-CNN and RetinaNet."""

    def __init__(self, model: TrainedModel[Detector, RcnnSettings]) -> None:
        self._model = model
        self._network = model.network
        self._settings = model.settings

    def write_contract(self, folder: Path, normalise: bool) -> dict[str, Any]:
        limits, inside = _limits_of(self._settings), _normalisation(self._settings, normalise)
        contract = rcnn_contract(self._network, limits, CONTRACT_HEIGHT, CONTRACT_WIDTH, normalisation=inside)
        return _write_contract(contract, labels_of(self._network, self._model.labels), limits, folder, normalise)

    def check(self, package: Path, contract: Path | None, normalise: bool, files: Sequence[Path]) -> Mapping[str, Any]:
        settings = self._settings
        rgb_images = read_some(files, WANTED_IMAGES, settings.exif_orientation)
        limits = all_boxes(self._network, settings.nms_iou_thresh)
        graphs = [
            RcnnGraph(graph.name, graph.runtime, _ask_serving(graph.run)) for graph in open_serving_graphs(package)
        ]
        images = [self._input(image_HWC, _placement(image_HWC, settings)) for image_HWC in rgb_images]
        rounds = [Round(image_1CHW, [limits], graphs) for image_1CHW in images]
        if images:
            rounds[0] = Round(images[0], [limits, other_limits(self._network, images[0], limits)], graphs)
        if contract is not None:
            own, inside = _limits_of(settings), _normalisation(settings, normalise)
            file = RcnnContractFile(self._network, contract / "model.onnx", own, inside)
            graph = RcnnGraph("train_artifacts", file.runtime, lambda image, asked: file.answers(image, asked)[0])
            rounds += [
                Round(self._input(image_HWC, _stretch(image_HWC)), [own, limits], [graph], are_masks_pasted=True)
                for image_HWC in rgb_images[:_CONTRACT_IMAGES]
            ]
        return check_rcnn(self._network, rounds)

    def write_batch_graph(self, file: Path, options: BatchOptions) -> dict[str, Any]:
        for name in ("img_size", "model_size"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} is for yolov5, but the package holds {self._model.model_name}; leave it out")
        given = {
            "score_threshold": options.box_score_thresh,
            "nms_iou_threshold": options.nms_iou_thresh,
            "max_detections": options.box_detections_per_img,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        limits = replace(_limits_of(self._settings), **changes)
        height, width = options.height or CONTRACT_HEIGHT, options.width or CONTRACT_WIDTH
        contract = rcnn_contract(self._network, limits, height, width, options.batch_size)
        record = export_onnx(contract.module, contract.example, file, contract.signature)
        images, answers = _other_noise(contract), RcnnContractFile(self._network, file, limits)
        rounds = [
            Round(
                images[index : index + 1],
                [limits, all_boxes(self._network, limits.nms_iou_threshold)],
                [
                    RcnnGraph(
                        _BATCH_GRAPH,
                        answers.runtime,
                        lambda _, asked, index=index: answers.answers(images, asked)[index],  # type: ignore[misc]
                    )
                ],
                are_masks_pasted=True,
            )
            for index in range(len(images))
        ]
        check_rcnn(self._network, rounds)
        return _batch_record(options, height, width, record, limits)

    def _input(self, image_HWC: Bytes, placement: Placement) -> Floats:
        return to_input(place(image_HWC, placement), self._settings.mean, self._settings.std)[None]


class YoloExport:
    """`Export` of yolov5."""

    def __init__(self, model: TrainedModel[Yolov5, YoloSettings]) -> None:
        self._model = model
        self._network = model.network
        self._settings = model.settings

    def write_contract(self, folder: Path, normalise: bool) -> dict[str, Any]:
        side, inside = self._settings.img_size, _normalisation(self._settings, normalise)
        contract = yolo_contract(self._network, side, side, normalisation=inside)
        return _write_contract(contract, self._model.labels, None, folder, normalise)

    def check(self, package: Path, contract: Path | None, normalise: bool, files: Sequence[Path]) -> Mapping[str, Any]:
        settings, side = self._settings, self._settings.img_size
        images = [
            to_input(place(image_HWC, _placement(image_HWC, settings)), settings.mean, settings.std)
            for image_HWC in read_some(files, WANTED_IMAGES, settings.exif_orientation)
        ]
        images_NCHW = np.stack(images) if images else np.empty((0, 3, side, side), np.float32)
        graphs = [
            YoloGraph(graph.name, graph.runtime, _ask_candidates(graph.run)) for graph in open_serving_graphs(package)
        ]
        if contract is not None:
            file = YoloContractFile(contract / "model.onnx", normalisation=_normalisation(settings, normalise))
            graphs.append(YoloGraph("train_artifacts", file.runtime, file.candidates))
        return check_yolov5(self._network, images_NCHW, graphs)

    def write_batch_graph(self, file: Path, options: BatchOptions) -> dict[str, Any]:
        """Accepts thresholds, since Azure's script requires one, but the graph gives all candidates."""
        own = name_of_size(self._network.size)
        wanted = {"extra_large": "xlarge", None: own}.get(options.model_size, options.model_size)
        if wanted != own:
            raise UserError(f"model_size must be {own}, as the package was trained, but got {options.model_size}")
        side = options.img_size or self._settings.img_size
        height, width = options.height or side, options.width or side
        contract = yolo_contract(self._network, height, width, options.batch_size)
        record = export_onnx(contract.module, contract.example, file, contract.signature)
        opened = YoloContractFile(file, batch_size=options.batch_size)
        graph = YoloGraph(_BATCH_GRAPH, opened.runtime, opened.candidates)
        check_yolov5(self._network, _other_noise(contract), [graph])
        return _batch_record(options, height, width, record, None)


def _limits_of(settings: DetectorSettings) -> SelectionLimits:
    """The user's thresholds as inputs of a graph."""
    return SelectionLimits(settings.box_score_thresh, settings.nms_iou_thresh, settings.max_detections)


def _normalisation(settings: DetectorSettings, is_inside: bool) -> Normalisation | None:
    return (settings.mean, settings.std) if is_inside else None


def _placement(image_HWC: Bytes, settings: DetectorSettings) -> Placement:
    height, width = image_HWC.shape[:2]
    return placement_of(height, width, settings)


def _stretch(image_HWC: Bytes) -> Placement:
    """Placement that stretches the whole image to the contract's size."""
    height, width = image_HWC.shape[:2]
    size = (CONTRACT_HEIGHT, CONTRACT_WIDTH)
    return Placement(height, width, *size, 0, 0, *size)


def _write_contract(
    contract: Contract, labels: Sequence[str], limits: SelectionLimits | None, folder: Path, normalise: bool
) -> dict[str, Any]:
    (folder / "labels.json").write_text(json.dumps(list(labels), ensure_ascii=False) + "\n")
    record = export_onnx(contract.module, contract.example, folder / "model.onnx", contract.signature)
    return {**record, "limits": None if limits is None else asdict(limits), "normalisation_inside": normalise}


def _other_noise(contract: Contract) -> Floats:
    """The noise that a graph was traced with, rotated by one image."""
    images_NCHW: Floats = torch.roll(contract.example[0], 1, dims=0).numpy()
    return images_NCHW


def _batch_record(
    options: BatchOptions, height: int, width: int, record: Mapping[str, Any], limits: SelectionLimits | None
) -> dict[str, Any]:
    return {
        "batch_size": options.batch_size,
        "height": height,
        "width": width,
        "inputs": record["inputs"],
        "outputs": record["outputs"],
        "limits": None if limits is None else asdict(limits),
    }


def _ask_serving(run: Run) -> Callable[[Floats, SelectionLimits], GraphAnswer]:
    def ask(image_1CHW: Floats, limits: SelectionLimits) -> GraphAnswer:
        tensors = limits.to_tensors(torch.device("cpu"))
        return GraphAnswer(*run([image_1CHW, *(tensor.numpy() for tensor in tensors)]))

    return ask


def _ask_candidates(run: Run) -> Callable[[Floats], tuple[npt.NDArray[Any], ...]]:
    return lambda images_NCHW: run_in_batches(run, images_NCHW)
