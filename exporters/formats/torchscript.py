"""TorchScript export of serving graphs."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clearsight.errors import ExportError

__all__ = ["export_torchscript"]


def export_torchscript(module: nn.Module, example: tuple[torch.Tensor, ...], file: Path) -> dict[str, Any]:
    """Trace, freeze and save a module in evaluation mode; return which exporter made the file.

    A trace holds the branches that `example` takes. Lengths of axes stay free where the module's code does not fix
    them. Raises `ExportError`.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch deprecates TorchScript in favour of torch.export; it stays the format that TorchServe users ask for.
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
            # A trace may lose branches: timm's ViT asserts its image size in `forward`, where a graph of one size is
            # what we want; torchvision iterates over images. The parity check on real images finds what was lost.
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
            warnings.filterwarnings(
                "ignore", "To copy construct from a tensor", UserWarning
            )  # torchvision, of a traced size
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.freeze(traced).save(str(file))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"the network cannot be exported to TorchScript: {error}") from error
    return {"exporter": "torch.jit.trace", "torch": torch.__version__}
