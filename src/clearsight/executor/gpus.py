"""Counts the GPUs that a process of this machine can use, without importing torch, which takes seconds."""

import re
import shutil
import subprocess
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Final

from clearsight import environment

__all__ = ["count_gpus"]

_DRIVER: Final = Path("/proc/driver/nvidia/gpus")
_LISTED: Final = re.compile(r"^GPU \d+:", re.MULTILINE)


def count_gpus() -> int:
    """Number of NVIDIA GPUs that `CUDA_VISIBLE_DEVICES` leaves visible; 0 when the installed torch cannot use any.

    CUDA's own rule for that variable holds: everything after the first index that does not exist is invisible.
    """
    if not _torch_knows_cuda():
        return 0
    num_present = _num_present()
    visible = environment.visible_gpus()
    if visible is None:
        return num_present
    exist = (int(name) < num_present if name.isdigit() else name.startswith(("GPU-", "MIG-")) for name in visible)
    return min(num_present, sum(1 for _ in takewhile(bool, exist)))


def _num_present() -> int:
    if _DRIVER.is_dir():
        return sum(1 for _ in _DRIVER.iterdir())
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):  # without an answer of the driver, no GPU can be used
        return 0
    return len(_LISTED.findall(listing))


def _torch_knows_cuda() -> bool:
    """Builds without CUDA say so in their version: `2.13.0+cpu`."""
    try:
        return not metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False
