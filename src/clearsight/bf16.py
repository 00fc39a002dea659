"""Whether this machine can compute in bfloat16: the flags of the processor, and whether an operation really works.

Some virtual machines announce matrix units (AMX) whose use the hypervisor does not allow: the first bfloat16 operation
then ends the process with SIGILL, which no exception handler sees. Seen with OpenVINO 2026.4 and torch 2.13 on a Xeon.
So an operation is tried in a process of its own before bfloat16 is used.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

__all__ = ["Bf16Fault", "find_bf16_fault", "has_bf16_units"]

_PROGRAMS: Final[Mapping[Literal["openvino", "torch"], str]] = {
    "openvino": """
import numpy, openvino, openvino.opset13 as ops
image = ops.parameter([-1, 16, 16, 16], openvino.Type.f32)
kernel = ops.constant(numpy.ones((32, 16, 3, 3), numpy.float32))
model = openvino.Model([ops.convolution(image, kernel, [1, 1], [0, 0], [0, 0], [1, 1])], [image])
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
assert compiled(numpy.ones((1, 16, 16, 16), numpy.float32))[0].flat[0] == 144
""",
    "torch": """
import torch
square = torch.ones(64, 64, dtype=torch.bfloat16)
assert (square @ square)[0, 0] == 64
""",
}

_TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Bf16Fault:
    """How the operation failed."""

    is_illegal_instruction: bool
    message: str
    """Last line of the standard error, or the exit status."""


@cache
def find_bf16_fault(runtime: Literal["openvino", "torch"]) -> Bf16Fault | None:
    """Try a bfloat16 operation of a runtime on the processor, once per process (1 to 3 s); None when it works."""
    probe = subprocess.run(
        [sys.executable, "-c", _PROGRAMS[runtime]], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if probe.returncode == 0:
        return None
    message = (probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"])[-1]
    return Bf16Fault(probe.returncode == -signal.SIGILL, message)


def has_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor announces instructions that multiply bf16 matrices (x86: AMX or AVX512-BF16)."""
    try:
        return re.search(r"^flags\s*:.*\b(amx_bf16|avx512_bf16)\b", cpuinfo.read_text(), re.MULTILINE) is not None
    except OSError:  # not Linux
        return False
