"""Whether this machine can compute in bfloat16: tried before it is believed."""

import subprocess
import sys
from functools import cache

import torch

from clearsight.errors import UserError

__all__ = ["require_bfloat16"]


def require_bfloat16(device: torch.device) -> None:
    """Raise `UserError` where bfloat16 does not work on `device`; on a processor a process of its own tries it."""
    works = torch.cuda.is_bf16_supported() if device.type == "cuda" else _processor_works()
    if not works:
        raise UserError(
            "explanations in bfloat16 need a processor or GPU that computes in it, but trying it failed here; "
            "use float32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 (slower, but works on such a machine)"
        )


@cache
def _processor_works() -> bool:
    """Some virtual machines announce matrix units (AMX) whose use is an illegal instruction: nothing can catch that.

    Seen with torch 2.13 on a Xeon under a hypervisor.
    """
    probe = "import torch; square = torch.ones(64, 64, dtype=torch.bfloat16); assert (square @ square)[0, 0] == 64"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0
