"""ONNX export of a classification network."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from clearsight.errors import ExportError

__all__ = ["OPSET", "Exporter", "NormalisedNetwork", "export_onnx"]

OPSET: Final = 18
"""The lowest operator set that both exporters write without a conversion."""

Exporter = Literal["torchscript", "dynamo"]


class NormalisedNetwork(nn.Module):
    """A network that normalises its own input: takes images_NCHW in [0, 1]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NK: torch.Tensor = self.network((images_NCHW - self.mean) / self.std)
        return logits_NK


def export_onnx(
    network: nn.Module,
    file: Path,
    size: int,
    *,
    input_name: str,
    output_name: str,
    free_size: bool,
    exporters: Sequence[Exporter] = ("torchscript", "dynamo"),
) -> dict[str, Any]:
    """Write a network in evaluation mode as one self-contained ONNX file; return what made it.

    Input images_NCHW float32 of any N, and of any height and width with `free_size` (else `size`, in pixels); output
    logits_NK. The exporters are tried in turn and the one that made the file is recorded. The TorchScript-based one
    comes first: on ResNet-18 and MobileNetV2 it takes 0.4 to 2 s where the other takes 12 to 25 s, and it handles the
    NMS of detectors, which the other does not. Raises `ExportError` when none succeeds.
    """
    example_NCHW = torch.zeros(2, 3, size, size)
    faults = []
    for exporter in exporters:
        write = _write_with_torchscript if exporter == "torchscript" else _write_with_dynamo
        try:
            write(network, example_NCHW, file, input_name, output_name, free_size)
        except Exception as error:  # the exporters raise whatever the pass that failed raises
            file.unlink(missing_ok=True)
            faults.append(f"{exporter}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        return {
            "exporter": exporter,
            "torch": torch.__version__,
            "opset": OPSET,
            "input": {"name": input_name, "shape": ["batch", 3, *(["height", "width"] if free_size else [size, size])]},
            "output": {"name": output_name, "shape": ["batch", "classes"]},
            **({"failed_exporters": faults} if faults else {}),
        }
    raise ExportError("the network cannot be exported to ONNX: " + "; ".join(faults))


def _write_with_torchscript(
    network: nn.Module, example_NCHW: torch.Tensor, file: Path, input_name: str, output_name: str, free_size: bool
) -> None:
    size_axes = {2: "height", 3: "width"} if free_size else {}
    with torch.no_grad(), warnings.catch_warnings():
        # torch deprecates this exporter; it is still the one that exports all our networks (see `export_onnx`).
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx|clearsight\.exporters")
        # timm's ViT asserts its picture size in `forward`; a graph of one size is what is wanted there. The warning
        # comes from inside torch, so it is known by its text. Parity on real pictures shows what a trace has lost.
        warnings.filterwarnings("ignore", "Converting a tensor to a Python", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            network,
            (example_NCHW,),
            file,
            input_names=[input_name],
            output_names=[output_name],
            opset_version=OPSET,
            dynamo=False,
            dynamic_axes={input_name: {0: "batch", **size_axes}, output_name: {0: "batch"}},
        )


def _write_with_dynamo(
    network: nn.Module, example_NCHW: torch.Tensor, file: Path, input_name: str, output_name: str, free_size: bool
) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    axes = {0: dynamic, **({2: dynamic, 3: dynamic} if free_size else {})}
    with torch.no_grad(), warnings.catch_warnings():
        # Deprecations inside torch and onnxscript, between their own parts.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        torch.onnx.export(
            network,
            (example_NCHW,),
            file,
            input_names=[input_name],
            output_names=[output_name],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(axes,),
            external_data=False,
            verbose=False,
        )
