"""PyTorch: a TorchScript graph, or a package's network as Python code."""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from clearsight.errors import InvalidPackage, UserError
from clearsight.handlers.backends import Array, Backend, Device, OpenOptions
from clearsight.runs.package import ModelPackage

__all__ = ["TorchBackend", "load_graph", "open_eager", "open_torchscript"]


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


def open_torchscript(file: Path, options: OpenOptions) -> Backend:
    """Load a saved graph."""
    return TorchBackend(load_graph(file, options), options.device)


def load_graph(file: Path, options: OpenOptions) -> torch.jit.ScriptModule:
    """Load a saved graph in evaluation mode, and set torch's threads. Raises `InvalidPackage`."""
    _configure(options)
    with warnings.catch_warnings():
        # torch deprecates TorchScript in favour of torch.export; it stays the format that TorchServe users ask for.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        try:
            return _load(file, options.device).eval()
        except (RuntimeError, ValueError) as error:
            raise InvalidPackage(f"TorchScript cannot load {file}: {str(error).strip().splitlines()[0]}") from error


def _load(file: Path, device: Device) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call, no-any-return]
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import_module("torchvision")  # registers the operators of such graphs; takes 4 s, so only where they occur
    return torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call, no-any-return]


def open_eager(package_root: Path, options: OpenOptions) -> Backend:
    """Build the network of a package, which the caller has verified, and load its weights."""
    from clearsight.networks.families.table import family_of  # torchvision: another 4 s
    from clearsight.networks.load import load_network

    _configure(options)
    package = ModelPackage.open(package_root, verify=False)
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
