"""Refuse bfloat16 explanations on a machine that cannot compute in bfloat16."""

import torch

from clearsight.bf16 import find_bf16_fault
from clearsight.errors import UserError

__all__ = ["require_bfloat16"]


def require_bfloat16(device: torch.device) -> None:
    """Raise `UserError` where bfloat16 does not work on `device`; on a processor a separate process tries it."""
    works = torch.cuda.is_bf16_supported() if device.type == "cuda" else find_bf16_fault("torch") is None
    if not works:
        raise UserError(
            "explanations in bfloat16 need a processor or GPU that computes in it, but trying it failed here; "
            "use float32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 (slower, but works on such a machine)"
        )
