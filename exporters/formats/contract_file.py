"""Run contract graphs of detectors in ONNX Runtime, with inputs and outputs in the form of the original network.

Shapes in names: N images, C candidates.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clearsight.exporters.formats.contract import LIMIT_NAMES, Normalisation, first_label, outputs_of_image
from clearsight.exporters.graphs import Graph, graph_of, open_options, run_graph
from clearsight.exporters.parity.answers import GraphAnswer
from clearsight.handlers.backends.onnxruntime import open_onnxruntime
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.networks.families.yolov5.serving import best_classes

__all__ = ["RcnnContractFile", "YoloContractFile"]

Floats = npt.NDArray[np.float32]


class RcnnContractFile:
    """A contract graph of an R-CNN family, written from `contract.rcnn_contract`."""

    def __init__(
        self, network: Detector, file: Path, own_limits: SelectionLimits, normalisation: Normalisation | None = None
    ) -> None:
        self._network = network
        self._file = file
        self._normalisation = normalisation
        self._graphs = {own_limits: run_graph("onnxruntime", file)}
        self.runtime = self._graphs[own_limits].runtime

    def answers(self, images_NCHW: Floats, limits: SelectionLimits) -> list[GraphAnswer]:
        """Answers for normalised images, one each; other limits than the file's own replace its constants."""
        graph = self._graphs.get(limits) or self._graphs.setdefault(limits, self._open_with(limits))
        outputs = graph.run([_without(self._normalisation, images_NCHW)])
        names = outputs_of_image(self._network)
        rows = [outputs[start : start + len(names)] for start in range(0, len(outputs), len(names))]
        return [self._to_answer(dict(zip(names, row, strict=True))) for row in rows]

    def _open_with(self, limits: SelectionLimits) -> Graph:
        tensors = limits.to_tensors(torch.device("cpu"))
        values = (tensors.score_threshold_1, tensors.nms_iou_threshold_1[0], tensors.max_detections_1)
        # `NormalisedNetwork` calls what it wraps `network`.
        names = LIMIT_NAMES if self._normalisation is None else [f"network.{name}" for name in LIMIT_NAMES]
        constants = dict(zip(names, (value.numpy() for value in values), strict=True))
        return graph_of("onnxruntime", open_onnxruntime(self._file, open_options(), constants))

    def _to_answer(self, found: dict[str, npt.NDArray[Any]]) -> GraphAnswer:
        masks = found["masks"][:, 0] if self._network.has_masks else None
        return GraphAnswer(found["boxes"], found["scores"], found["labels"] - first_label(self._network), masks)


class YoloContractFile:
    """A contract graph of yolov5, which has no limits."""

    def __init__(self, file: Path, batch_size: int = 1, normalisation: Normalisation | None = None) -> None:
        self._graph = run_graph("onnxruntime", file)
        self._batch_size = batch_size
        self._normalisation = normalisation
        self.runtime = self._graph.runtime

    def candidates(self, images_NCHW: Floats) -> tuple[npt.NDArray[Any], ...]:
        """Boxes (N, C, 4), scores (N, C) and class ids (N, C) of images, a multiple of the file's batch."""
        raw_NCHW = _without(self._normalisation, images_NCHW)
        parts = [
            self._graph.run([np.ascontiguousarray(raw_NCHW[start : start + self._batch_size])])[0]
            for start in range(0, len(raw_NCHW), self._batch_size)
        ]
        return tuple(tensor.numpy() for tensor in best_classes(torch.from_numpy(np.concatenate(parts))))


def _without(normalisation: Normalisation | None, images_NCHW: Floats) -> Floats:
    """Undo the normalisation when the graph does it itself: values in [0, 1]; otherwise the images as they are."""
    if normalisation is None:
        return images_NCHW
    mean, std = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in normalisation)
    return images_NCHW * std + mean
