"""Device and precision of a trial: chosen once, recorded in the run.

bfloat16 pays on processors with matrix units and for dense networks only. Training images/s at 224, one thread of a
Xeon with AMX, batch 16: resnet18 10.5 in float32, 28.6 in bfloat16; mobilenetv2, whose convolutions are depthwise,
15.1 and 14.8. Vector instructions alone do not pay: with avx512_bf16 and the matrix units hidden
(`ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16`), resnet18 ran at 0.75, resnet50 at 0.81 and ViT-B/16 at 0.59 of float32's speed,
so a processor whose matrix units do not work stays in float32. Channels-last memory gained up to 1.7x on both and lost
nowhere, so it is always used.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import torch
from torch import nn

from clearsight import environment
from clearsight.bf16 import find_bf16_fault
from clearsight.errors import UserError

__all__ = ["Hardware", "choose_hardware", "is_dense", "usable_memory_bytes"]


_MEMORY_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Hardware:
    """Device and precision of the training pass. Evaluation always runs in float32, like the package."""

    device: torch.device
    autocast: torch.dtype | None
    """Reduced precision of the training pass; None: float32."""
    reason: str
    """Why this precision was chosen."""
    num_threads: int

    def training_pass(self) -> AbstractContextManager[object]:
        """The context in which the forward pass of training runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients of float16 from becoming zero; does nothing in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast is torch.float16)

    def to_document(self) -> dict[str, str | int]:
        """Plain data for the run's events."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        precision = "float32" if self.autocast is None else str(self.autocast).removeprefix("torch.")
        return {"device": device, "precision": precision, "reason": self.reason, "num_threads": self.num_threads}


def choose_hardware(network: nn.Module, local_rank: int = 0, num_processes: int = 1) -> Hardware:
    """Take this process's GPU if there are any, else the processor; set the number of threads.

    Threads: `OMP_NUM_THREADS`, else this process's share of the usable cores.
    """
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = environment.num_threads() or max(1, num_cores // num_processes)
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(0)  # its own pool would compete with torch's; images are spread over threads of ours
    if torch.cuda.is_available():
        return _on_gpu(local_rank, num_threads)
    autocast, reason = _cpu_precision(network)
    return Hardware(torch.device("cpu"), autocast, reason, num_threads)


def _on_gpu(local_rank: int, num_threads: int) -> Hardware:
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"each process must have a GPU of its own, but there are {torch.cuda.device_count()} and this is process "
            f"{local_rank + 1}; lower the number of processes"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Hardware(device, torch.bfloat16, "the GPU computes in bfloat16", num_threads)
    return Hardware(device, torch.float16, "the GPU has no units for bfloat16: float16 with scaled losses", num_threads)


def _cpu_precision(network: nn.Module) -> tuple[torch.dtype | None, str]:
    """Precision of training on the processor, and why."""
    if not torch.cpu._is_amx_tile_supported():
        return None, "no matrix units"
    if not is_dense(network):
        return None, "depthwise convolutions gain nothing"
    if find_bf16_fault("torch") is not None:
        return None, "the processor announces matrix units, but using them ends the process"
    return torch.bfloat16, "the processor has matrix units and the network is dense"


def is_dense(network: nn.Module) -> bool:
    """Whether no convolution is depthwise."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return not any(module.groups == module.in_channels > 1 for module in convolutions)


def usable_memory_bytes() -> int:
    """Memory that this process may use: that of the machine, or less in a container with a limit (cgroup v2 or v1)."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _MEMORY_LIMITS:
        try:
            memory = min(memory, int(file.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return memory
