"""TorchScript export of a classification network."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clearsight.errors import ExportError

__all__ = ["export_torchscript"]


def export_torchscript(network: nn.Module, file: Path, size: int) -> dict[str, Any]:
    """Trace, freeze and save a network in evaluation mode; return what made the file.

    The graph takes images_NCHW float32 of any N; height and width are free where the network's are. `size` is the
    side, in pixels, of the picture that is traced. Raises `ExportError`.
    """
    example_NCHW = torch.zeros(2, 3, size, size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch deprecates TorchScript in favour of torch.export; it stays the format that TorchServe users ask for.
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
            # timm's ViT asserts its picture size in `forward`; a graph of one size is what is wanted there. The warning
            # comes from inside torch, so it is known by its text. Parity on real pictures shows what a trace has lost.
            warnings.filterwarnings("ignore", "Converting a tensor to a Python", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            traced = torch.jit.trace(network, example_NCHW, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.freeze(traced).save(str(file))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"the network cannot be exported to TorchScript: {error}") from error
    return {"exporter": "torch.jit.trace", "torch": torch.__version__}
