"""ONNX Runtime on the CPU or on a CUDA device."""

from collections.abc import Sequence
from typing import Any

import onnxruntime  # type: ignore[import-untyped]

from clearsight.errors import InvalidPackage, UserError
from clearsight.handlers.backends import Array, Backend, OpenOptions
from clearsight.runs.package import ModelPackage

__all__ = ["open_onnxruntime"]


class OnnxRuntimeBackend:
    """A session on the serving graph."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._inputs = [tensor.name for tensor in session.get_inputs()]
        self._outputs = [tensor.name for tensor in session.get_outputs()]

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True))))


def open_onnxruntime(package: ModelPackage, options: OpenOptions) -> Backend:
    """Start a session with exactly the threads asked for and no fallback to another device."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.num_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors
    providers: list[Any] = ["CPUExecutionProvider"]
    if options.device == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN from the nvidia packages, without importing torch
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    try:
        session = onnxruntime.InferenceSession(str(package.onnx_file), settings, providers=providers)
    except Exception as error:  # the runtime's exceptions share no base class but Exception
        raise InvalidPackage(f"ONNX Runtime cannot load {package.onnx_file}: {str(error).splitlines()[0]}") from error
    if options.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise UserError("device cuda needs a GPU and the CUDA libraries, but ONNX Runtime could not start on them")
    return OnnxRuntimeBackend(session)
