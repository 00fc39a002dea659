"""The serving graph of a package in both of its formats."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from clearsight.exporters.formats.onnx import export_onnx
from clearsight.exporters.formats.torchscript import export_torchscript
from clearsight.exporters.graphs import Graph, run_onnxruntime, run_openvino, run_torchscript
from clearsight.networks.serving import GraphSignature
from clearsight.runs.package import ONNX_FILE, TORCHSCRIPT_FILE

__all__ = ["export_serving_graphs", "open_serving_graphs"]


def export_serving_graphs(
    module: nn.Module, example: tuple[torch.Tensor, ...], signature: GraphSignature, folder: Path
) -> dict[str, Any]:
    """Write both files into the folder of a package; return, by file, what made it."""
    return {
        TORCHSCRIPT_FILE: export_torchscript(module, example, folder / TORCHSCRIPT_FILE),
        ONNX_FILE: export_onnx(module, example, folder / ONNX_FILE, signature),
    }


def open_serving_graphs(folder: Path) -> list[Graph]:
    """The graphs on each runtime that is installed, under the names of `handlers.backends`."""
    graphs = [run_torchscript(folder / TORCHSCRIPT_FILE), run_onnxruntime(folder / ONNX_FILE)]
    openvino = run_openvino(folder / ONNX_FILE)
    return graphs if openvino is None else [*graphs, openvino]
