"""Graphs to compare with a network: the runtimes of `handlers.backends` on exported files, and the network itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from clearsight.handlers.backends import BACKENDS, Array, Backend, Device, OpenOptions, open_graph

__all__ = ["Graph", "Run", "graph_of", "open_options", "run_eager", "run_graph", "run_in_batches"]

Run = Callable[[Sequence[Array]], tuple[Array, ...]]

_BATCH_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class Graph:
    """An exported graph, opened with one runtime."""

    name: str
    run: Run
    runtime: str
    """Runtime and its version."""


def run_eager(module: nn.Module) -> Run:
    """Run a module in evaluation mode as it is."""

    def run(inputs: Sequence[Array]) -> tuple[Array, ...]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(array) for array in inputs))
        tensors = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return tuple(tensor.numpy() for tensor in tensors)

    return run


def open_options(device: Device = "cpu") -> OpenOptions:
    """How graphs are opened for a comparison: in f32, with as many threads as torch uses in this process."""
    return OpenOptions(device, "f32", torch.get_num_threads())


def run_graph(backend_name: str, file: Path, device: Device = "cpu") -> Graph:
    """Open an exported file with a runtime."""
    return graph_of(backend_name, open_graph(backend_name, file, open_options(device)))


def graph_of(backend_name: str, backend: Backend) -> Graph:
    """An open backend as a graph to compare; inputs may have any memory layout."""

    def run(inputs: Sequence[Array]) -> tuple[Array, ...]:
        return backend.run([np.asarray(array, order="C") for array in inputs])

    return Graph(backend_name, run, BACKENDS[backend_name].runtime())


def run_in_batches(run: Run, images_NCHW: Array) -> tuple[Array, ...]:
    """Outputs for images of one size: the first alone, the others in batches of up to 8, so that both are compared."""
    starts = [0, *range(1, len(images_NCHW), _BATCH_SIZE)]
    ends = [*starts[1:], len(images_NCHW)]
    answers = [run([np.ascontiguousarray(images_NCHW[start:end])]) for start, end in zip(starts, ends, strict=True)]
    return tuple(np.concatenate(parts) for parts in zip(*answers, strict=True))
