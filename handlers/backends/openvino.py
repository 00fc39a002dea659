"""OpenVINO on the CPU."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import openvino  # type: ignore[import-untyped]

from clearsight.errors import InvalidPackage, UserError
from clearsight.handlers.backends import Array, Backend, OpenOptions
from clearsight.runs.package import ModelPackage

__all__ = ["open_openvino"]


class OpenVinoBackend:
    """A compiled model and its one request."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = compiled.outputs

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        results: Any = self._request.infer(list(inputs), share_inputs=True)
        return tuple(np.array(results[output]) for output in self._outputs)


def open_openvino(package: ModelPackage, options: OpenOptions) -> Backend:
    """Compile the serving graph.

    The precision is always given: on processors with matrix units OpenVINO would take bf16 by itself.
    """
    if options.precision == "bf16":
        _require_bf16()
    properties = {
        "INFERENCE_PRECISION_HINT": options.precision,
        "INFERENCE_NUM_THREADS": options.num_threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # two workers would pin themselves to the same cores
    }
    try:
        return OpenVinoBackend(openvino.Core().compile_model(str(package.onnx_file), "CPU", properties))
    except RuntimeError as error:
        raise InvalidPackage(
            f"OpenVINO cannot load {package.onnx_file}: {str(error).strip().splitlines()[-1]}"
        ) from error


_PROBE: Final = """
import numpy, openvino, openvino.opset13 as ops
image = ops.parameter([-1, 16, 16, 16], openvino.Type.f32)
kernel = ops.constant(numpy.ones((32, 16, 3, 3), numpy.float32))
model = openvino.Model([ops.convolution(image, kernel, [1, 1], [0, 0], [0, 0], [1, 1])], [image])
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
assert compiled(numpy.ones((1, 16, 16, 16), numpy.float32))[0].flat[0] == 144
"""


@cache
def _require_bf16() -> None:
    """Raise unless this machine runs a bf16 convolution, tried in a process of its own (about 1 s, once).

    Some virtual machines announce matrix units (AMX) that the hypervisor does not allow: the first bf16 operation
    then kills the process with SIGILL. Seen with OpenVINO 2026.4 and torch 2.13.
    """
    probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False, timeout=120)
    if probe.returncode == -signal.SIGILL:
        raise UserError(
            "precision bf16 must not be used on this machine: its processor announces matrix units that it may not "
            "use, and the process would die; use precision f32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16 first"
        )
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"])[-1]
        raise UserError(f"precision bf16 does not work on this machine, use f32: {last}")
