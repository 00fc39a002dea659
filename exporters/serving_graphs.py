"""The serving graph of a package, in both formats."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from clearsight.exporters.formats.onnx import export_onnx
from clearsight.exporters.formats.torchscript import export_torchscript
from clearsight.exporters.graphs import Graph, run_graph
from clearsight.handlers.backends import BACKENDS, device_exists
from clearsight.networks.serving import GraphSignature
from clearsight.runs.package import ONNX_FILE, TORCHSCRIPT_FILE

__all__ = ["export_serving_graphs", "open_serving_graphs"]


def export_serving_graphs(
    module: nn.Module, example: tuple[torch.Tensor, ...], signature: GraphSignature, folder: Path
) -> dict[str, Any]:
    """Write both files into the folder of a package; return how each was exported."""
    return {
        TORCHSCRIPT_FILE: export_torchscript(module, example, folder / TORCHSCRIPT_FILE),
        ONNX_FILE: export_onnx(module, example, folder / ONNX_FILE, signature),
    }


def open_serving_graphs(folder: Path) -> list[Graph]:
    """The graphs of a package on every installed runtime, each on its first device that this machine has.

    A runtime without such a device is left out, so that `auto` does not choose it for this package. The order is the
    reverse of `BACKENDS`: the runtimes nearest to the network come first.
    """
    graphs = []
    for spec in reversed(list(BACKENDS.values())):
        devices = [device for device in spec.devices if device_exists(device)]
        if spec.file_kind != "package" and devices and spec.is_installed():
            graphs.append(run_graph(spec.name, spec.file_in(folder), devices[0]))
    return graphs
