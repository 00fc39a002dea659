"""Where a trial runs and in which precision: chosen once, recorded in the run.

bfloat16 pays on processors with matrix units and for dense networks only. Training images/s at 224, one thread of a
Xeon with AMX, batch 16: resnet18 10.5 in float32, 28.6 in bfloat16; mobilenetv2, whose convolutions are depthwise,
15.1 and 14.8. Channels-last memory gained up to 1.7x on both and lost nowhere, so it is always used.
"""

import os
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import cv2
import torch
from torch import nn

from clearsight import environment

__all__ = ["Hardware", "choose_hardware", "is_dense"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """Device and precision of the training pass. Evaluation is always float32, as the package is."""

    device: torch.device
    autocast: torch.dtype | None
    """None: float32."""
    reason: str
    """Why this precision."""
    num_threads: int

    def training_pass(self) -> AbstractContextManager[object]:
        """The context in which the forward pass of training runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def to_document(self) -> dict[str, str | int]:
        """Plain data for the run's events."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        precision = "float32" if self.autocast is None else str(self.autocast).removeprefix("torch.")
        return {"device": device, "precision": precision, "reason": self.reason, "num_threads": self.num_threads}


def choose_hardware(network: nn.Module) -> Hardware:
    """Take the first GPU, else the processor; set the number of threads: `OMP_NUM_THREADS`, else the usable cores."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = environment.num_threads() or num_cores
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(0)  # its own pool would compete with torch's; pictures are spread over threads of ours
    if torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported()
        reason = "the GPU computes in bfloat16" if has_bf16 else "the GPU has no bfloat16"
        return Hardware(torch.device("cuda", 0), torch.bfloat16 if has_bf16 else None, reason, num_threads)
    autocast: torch.dtype | None
    reason, autocast = "the processor has matrix units and the network is dense", torch.bfloat16
    if not torch.cpu._is_amx_tile_supported():
        reason, autocast = "no matrix units", None
    elif not is_dense(network):
        reason, autocast = "depthwise convolutions gain nothing", None
    elif not _matrix_units_work():
        reason, autocast = "the processor announces matrix units, but using them ends the process", None
    return Hardware(torch.device("cpu"), autocast, reason, num_threads)


@cache
def _matrix_units_work() -> bool:
    """Try a bfloat16 product in a process of its own.

    Some virtual machines announce matrix units (AMX) and pass no tile state on: the first use is an illegal
    instruction, which no exception handler sees. Seen with torch 2.13 on a Xeon under a hypervisor.
    """
    probe = "import torch; square = torch.ones(64, 64, dtype=torch.bfloat16); assert (square @ square)[0, 0] == 64"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0


def is_dense(network: nn.Module) -> bool:
    """Whether no convolution is depthwise."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return not any(module.groups == module.in_channels > 1 for module in convolutions)
