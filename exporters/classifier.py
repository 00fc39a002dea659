"""How classifiers are exported."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clearsight.documents.settings import ClassificationSettings
from clearsight.exporters.formats.onnx import NormalisedNetwork, export_onnx
from clearsight.exporters.graphs import Graph, run_onnxruntime
from clearsight.exporters.parity.classification import WANTED_IMAGES, check_parity
from clearsight.exporters.serving_graphs import open_serving_graphs
from clearsight.exporters.trained import TrainedModel, read_some
from clearsight.networks.families.classifiers import spec_for
from clearsight.networks.serving import GraphSignature, signature_of
from clearsight.vision.preprocess import preprocess

__all__ = ["ClassifierExport"]


class ClassifierExport:
    """`Export` of a network that gives logits_NK."""

    def __init__(self, model: TrainedModel, settings: ClassificationSettings) -> None:
        self._model = model
        self._settings = settings
        self._spec = spec_for(model.model_name)

    @property
    def architecture(self) -> dict[str, Any]:
        return {"library": self._spec.library, "builder": self._spec.builder}

    @property
    def signature(self) -> GraphSignature:
        return signature_of(self._model.network, fixed_size=self._spec.fixed_size)

    def example(self) -> tuple[torch.Tensor, ...]:
        size = self._settings.valid_crop_size
        return (torch.zeros(2, 3, size, size),)

    def write_contract(self, folder: Path, normalise: bool) -> dict[str, Any]:
        """`input1` (N, 3, P, P) -> `output1` (N, K), logits; N is free."""
        (folder / "labels.json").write_text(json.dumps(list(self._model.labels), ensure_ascii=False) + "\n")
        network: nn.Module = self._model.network
        if normalise:
            network = NormalisedNetwork(network, self._settings.mean, self._settings.std).eval()
        signature = GraphSignature(("input1",), ("output1",), {"input1": {0: "batch"}, "output1": {0: "batch"}})
        record = export_onnx(network, self.example(), folder / "model.onnx", signature)
        return {**record, "normalisation_inside": normalise}

    def check(self, package: Path, contract: Path | None, normalise: bool, files: Sequence[Path]) -> Mapping[str, Any]:
        graphs = open_serving_graphs(package)
        if contract is not None:
            graphs.append(self._open_contract(contract, normalise))
        size, exif = self._settings.valid_crop_size, self._settings.exif_orientation
        images = [preprocess(image, self._settings) for image in read_some(files, WANTED_IMAGES, exif)]
        images_NCHW = np.stack(images) if images else np.empty((0, 3, size, size), np.float32)
        return check_parity(self._model.network, graphs, images_NCHW, self._model.task, len(self._model.labels))

    def _open_contract(self, folder: Path, normalise: bool) -> Graph:
        graph = run_onnxruntime(folder / "model.onnx", "train_artifacts")
        if not normalise:
            return graph
        mean = np.asarray(self._settings.mean, np.float32).reshape(1, 3, 1, 1)
        std = np.asarray(self._settings.std, np.float32).reshape(1, 3, 1, 1)
        return replace(graph, run=lambda inputs: graph.run([images_NCHW * std + mean for images_NCHW in inputs]))
