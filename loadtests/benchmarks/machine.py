"""The machine of a benchmark: processor flags that decide which runtime is fast, and versions."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["describe_machine"]

PACKAGES = ("clearsight", "torch", "torchvision", "onnxruntime-gpu", "openvino", "torchserve", "aiohttp", "httptools",
            "uvloop", "pillow", "simplejpeg", "opencv-python-headless", "scikit-image", "captum",
            "saliency")  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def describe_machine() -> dict[str, str]:
    """Cores, processor, the flags that matter, Python and package versions."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    present = fields.get("flags", "").split()
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": fields.get("model name", platform.processor()),
        "flags": " ".join(flag for flag in FLAGS if flag in present),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
