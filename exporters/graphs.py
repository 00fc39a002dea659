"""Exported graphs on the runtimes that will carry them: arrays in, arrays out, in the order of the signature."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import nn

__all__ = ["Array", "Graph", "Run", "run_eager", "run_in_batches", "run_onnxruntime", "run_openvino", "run_torchscript"]

Array = npt.NDArray[Any]
Run = Callable[[Sequence[Array]], tuple[Array, ...]]

_BATCH_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class Graph:
    """One exported graph on one runtime."""

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


def run_torchscript(file: Path) -> Graph:
    """Load a saved TorchScript graph on the CPU."""
    with warnings.catch_warnings():
        # torch deprecates TorchScript in favour of torch.export; it stays the format that TorchServe users ask for.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        module = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    return Graph("torchscript", run_eager(module), f"torch {torch.__version__}")


def run_onnxruntime(
    file: Path,
    name: str = "onnxruntime",
    *,
    outputs: Sequence[str] | None = None,
    constants: Mapping[str, Array] | None = None,
) -> Graph:
    """Load an ONNX file in ONNX Runtime on the CPU.

    `outputs` asks for these, in this order, instead of all of them. `constants` stand, by name, for those of the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    held = {key: onnxruntime.OrtValue.ortvalue_from_numpy(value) for key, value in (constants or {}).items()}
    for key, value in held.items():
        options.add_initializer(key, value)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    input_names = [node.name for node in session.get_inputs()]
    output_names = list(outputs) if outputs is not None else [node.name for node in session.get_outputs()]

    def run(inputs: Sequence[Array], _alive: object = held) -> tuple[Array, ...]:
        return tuple(session.run(output_names, dict(zip(input_names, inputs, strict=True))))

    return Graph(name, run, f"onnxruntime {onnxruntime.__version__}")


def run_openvino(file: Path) -> Graph | None:
    """Compile an ONNX file with OpenVINO in float32 on the CPU; `None` when OpenVINO is not installed."""
    if find_spec("openvino") is None:
        return None
    import openvino  # type: ignore[import-untyped]  # half a second, and not needed to write a package

    compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Sequence[Array]) -> tuple[Array, ...]:
        results = compiled(list(inputs))
        return tuple(np.array(results[index]) for index in range(len(compiled.outputs)))

    return Graph("openvino", run, f"openvino {version('openvino')}")


def run_in_batches(run: Run, images_NCHW: Array) -> tuple[Array, ...]:
    """Answers for images of one size: the first alone, the others up to 8 at a time, so that both kinds occur."""
    starts = [0, *range(1, len(images_NCHW), _BATCH_SIZE)]
    ends = [*starts[1:], len(images_NCHW)]
    answers = [run([np.ascontiguousarray(images_NCHW[start:end])]) for start, end in zip(starts, ends, strict=True)]
    return tuple(np.concatenate(parts) for parts in zip(*answers, strict=True))
