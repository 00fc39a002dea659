"""ONNX Runtime on the CPU or on a CUDA device."""

from typing import Any

import onnxruntime  # type: ignore[import-untyped]

from clearsight.errors import InvalidPackage, UserError
from clearsight.handlers.backends import Backend, Floats, OpenOptions
from clearsight.package import ModelPackage

__all__ = ["open_onnxruntime"]


class OnnxRuntimeBackend:
    """A session on the serving graph."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def run(self, images_NCHW: Floats) -> Floats:
        logits_NK: Floats = self._session.run([self._output], {self._input: images_NCHW})[0]
        return logits_NK


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
