"""PyTorch: the TorchScript graph of a package, or its network as Python code."""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
import torch

from clearsight.catalogue.models import find_row
from clearsight.errors import InvalidPackage, UserError
from clearsight.handlers.backends import Array, Backend, Device, OpenOptions
from clearsight.runs.package import ModelPackage

__all__ = ["open_eager", "open_torchscript"]


class TorchBackend:
    """A callable from tensors to one tensor or to several, on one device."""

    def __init__(self, network: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]], device: Device) -> None:
        self._network = network
        self._device = device

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        with torch.inference_mode():
            found = self._network(*(torch.from_numpy(array).to(self._device) for array in inputs))
            outputs = (found,) if isinstance(found, torch.Tensor) else found
            return tuple(np.array(output.cpu().numpy()) for output in outputs)


def open_torchscript(package: ModelPackage, options: OpenOptions) -> Backend:
    """Load the frozen graph."""
    _configure(options)
    if find_row(package.model_name).needs_torchvision:
        import_module("torchvision")  # registers the operators of such graphs; 4 s that the others need not wait
    with warnings.catch_warnings():
        # torch deprecates TorchScript in favour of torch.export; it stays the format that TorchServe users ask for.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        try:
            graph = torch.jit.load(  # type: ignore[no-untyped-call]
                str(package.torchscript_file), map_location=options.device
            )
        except RuntimeError as error:
            raise InvalidPackage(
                f"TorchScript cannot load {package.torchscript_file}: {str(error).strip().splitlines()[0]}"
            ) from error
    return TorchBackend(graph.eval(), options.device)


def open_eager(package: ModelPackage, options: OpenOptions) -> Backend:
    """Build the network and load its weights."""
    from clearsight.networks.families.table import family_of  # torchvision: another 4 s
    from clearsight.networks.load import load_network

    _configure(options)
    module = family_of(package.model_name).serving_module(load_network(package))
    return TorchBackend(module.to(options.device), options.device)


def _configure(options: OpenOptions) -> None:
    """Set torch's threads, and full float32 on GPUs (TF32 keeps 10 bits of the mantissa)."""
    torch.set_num_threads(options.num_threads)
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device cuda needs a GPU, but torch sees none; use device cpu")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
