"""ONNX export of serving graphs and of the graphs that Azure's clients expect."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from clearsight.errors import ExportError
from clearsight.networks.serving import GraphSignature

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

    def forward(self, images_NCHW: torch.Tensor) -> Any:
        return self.network((images_NCHW - self.mean) / self.std)


def export_onnx(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    file: Path,
    signature: GraphSignature,
    *,
    exporters: Sequence[Exporter] = ("torchscript", "dynamo"),
) -> dict[str, Any]:
    """Write a module in evaluation mode as one self-contained ONNX file; return which exporter made it, and how.

    `example` are inputs to trace with: axes that `signature` does not free keep their lengths. The exporters are tried
    in turn and the one that made the file is recorded. The TorchScript-based one comes first: on ResNet-18 and
    MobileNetV2 it takes 0.4 to 2 s where the other takes 12 to 25 s, and it handles the NMS of detectors, which the
    other does not. Raises `ExportError` when none succeeds.
    """
    faults = []
    for exporter in exporters:
        try:
            _write(exporter, module, example, file, signature)
        except Exception as error:  # the exporters raise whatever the pass that failed raises
            file.unlink(missing_ok=True)
            faults.append(f"{exporter}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        name = signature.inputs[0]
        free = signature.free_axes.get(name, {})
        shape = [free.get(axis, length) for axis, length in enumerate(example[0].shape)]
        return {
            "exporter": exporter,
            "torch": torch.__version__,
            "opset": OPSET,
            "input": {"name": name, "shape": shape},
            "inputs": list(signature.inputs),
            "outputs": list(signature.outputs),
            **({"failed_exporters": faults} if faults else {}),
        }
    raise ExportError("the network cannot be exported to ONNX: " + "; ".join(faults))


def _write(
    exporter: Exporter, module: nn.Module, example: tuple[torch.Tensor, ...], file: Path, signature: GraphSignature
) -> None:
    if exporter == "torchscript":
        axes = {name: dict(axes) for name, axes in signature.free_axes.items()}
        options: dict[str, Any] = {"dynamo": False, "dynamic_axes": axes}
    else:
        dynamic = torch.export.Dim.DYNAMIC
        shapes = tuple(dict.fromkeys(signature.free_axes.get(name, {}), dynamic) for name in signature.inputs)
        options = {"dynamo": True, "dynamic_shapes": shapes, "external_data": False, "verbose": False}
    with torch.no_grad(), warnings.catch_warnings():
        # torch deprecates the first exporter; it is still the one that exports all our networks (see `export_onnx`).
        # The other one and onnxscript use deprecated code of torch themselves.
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        # A trace may lose branches: timm's ViT asserts its image size in `forward`, where a graph of one size is what
        # we want; torchvision iterates over images. The parity check on real images finds what was lost.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # torchvision, of a size that is traced
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        torch.onnx.export(
            module,
            example,
            file,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            opset_version=OPSET,
            **options,
        )
