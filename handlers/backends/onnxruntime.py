"""ONNX Runtime on the CPU or on a CUDA device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import onnxruntime  # type: ignore[import-untyped]

from clearsight.errors import InvalidPackage, UserError
from clearsight.handlers.backends import Array, Backend, OpenOptions

__all__ = ["open_onnxruntime"]

_NO_CONSTANTS: Final[Mapping[str, Array]] = MappingProxyType({})


class OnnxRuntimeBackend:
    """A session on an ONNX graph."""

    def __init__(self, session: onnxruntime.InferenceSession, constants: Sequence[onnxruntime.OrtValue]) -> None:
        self._session = session
        self._constants = constants  # the session uses their memory
        self._inputs = [tensor.name for tensor in session.get_inputs()]
        self._outputs = [tensor.name for tensor in session.get_outputs()]

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True))))


def open_onnxruntime(file: Path, options: OpenOptions, constants: Mapping[str, Array] = _NO_CONSTANTS) -> Backend:
    """Start a session with exactly `options.num_threads` and without fallback to another device.

    `constants` replace, by name, constants that are stored in the file.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.num_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in constants.items()}
    for name, value in values.items():
        settings.add_initializer(name, value)
    providers: list[Any] = ["CPUExecutionProvider"]
    if options.device == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN from the nvidia packages, without importing torch
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    try:
        session = onnxruntime.InferenceSession(str(file), settings, providers=providers)
    except Exception as error:  # the runtime's exceptions share no base class but Exception
        raise InvalidPackage(f"ONNX Runtime cannot load {file}: {str(error).splitlines()[0]}") from error
    if options.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise UserError("device cuda needs a GPU and the CUDA libraries, but ONNX Runtime could not start on them")
    return OnnxRuntimeBackend(session, list(values.values()))
