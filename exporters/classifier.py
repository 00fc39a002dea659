"""Export of classifiers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import UserError
from clearsight.exporters.formats.onnx import NormalisedNetwork, export_onnx
from clearsight.exporters.graphs import Graph, run_graph
from clearsight.exporters.parity.classification import WANTED_IMAGES, check_parity
from clearsight.exporters.serving_graphs import open_serving_graphs
from clearsight.exporters.trained import BatchOptions, TrainedModel, read_some
from clearsight.networks.serving import GraphSignature
from clearsight.vision.preprocess import preprocess

__all__ = ["ClassifierExport"]


class ClassifierExport:
    """`Export` of a network that gives logits_NK."""

    def __init__(self, model: TrainedModel[nn.Module, ClassificationSettings]) -> None:
        self._model = model
        self._settings = model.settings

    def write_contract(self, folder: Path, normalise: bool) -> dict[str, Any]:
        """`input1` (N, 3, P, P) -> `output1` (N, K), logits; N is free."""
        (folder / "labels.json").write_text(json.dumps(list(self._model.labels), ensure_ascii=False) + "\n")
        network: nn.Module = self._model.network
        if normalise:
            network = NormalisedNetwork(network, self._settings.mean, self._settings.std).eval()
        signature = GraphSignature(("input1",), ("output1",), {"input1": {0: "batch"}, "output1": {0: "batch"}})
        size = self._settings.valid_crop_size
        record = export_onnx(network, (torch.zeros(2, 3, size, size),), folder / "model.onnx", signature)
        return {**record, "normalisation_inside": normalise}

    def check(self, package: Path, contract: Path | None, normalise: bool, files: Sequence[Path]) -> Mapping[str, Any]:
        graphs = open_serving_graphs(package)
        if contract is not None:
            graphs.append(self._open_contract(contract, normalise))
        size, exif = self._settings.valid_crop_size, self._settings.exif_orientation
        images = [preprocess(image, self._settings) for image in read_some(files, WANTED_IMAGES, exif)]
        images_NCHW = np.stack(images) if images else np.empty((0, 3, size, size), np.float32)
        return check_parity(self._model.network, graphs, images_NCHW, self._model.task, len(self._model.labels))

    def write_batch_graph(self, file: Path, options: BatchOptions) -> dict[str, Any]:
        raise UserError(
            "the options of a batch are for detectors: a classifier's graphs take any batch; leave them out"
        )

    def _open_contract(self, folder: Path, normalise: bool) -> Graph:
        graph = replace(run_graph("onnxruntime", folder / "model.onnx"), name="train_artifacts")
        if not normalise:
            return graph
        mean = np.asarray(self._settings.mean, np.float32).reshape(1, 3, 1, 1)
        std = np.asarray(self._settings.std, np.float32).reshape(1, 3, 1, 1)
        return replace(graph, run=lambda inputs: graph.run([images_NCHW * std + mean for images_NCHW in inputs]))
