"""Why a trial failed: a reason that programs can compare, and one line for people."""

import re
from pathlib import Path
from typing import Final

import cv2
import torch

from clearsight.errors import (
    ClearsightError,
    ExportError,
    InvalidData,
    TrainingError,
    UserError,
    WeightsMissing,
)
from clearsight.files import is_disk_full

__all__ = ["describe_failure", "is_out_of_memory"]

_OUT_OF_MEMORY: Final = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
"""Words of the RuntimeErrors by which torch says that memory is exhausted."""

_ROW: Final = re.compile(r":[0-9]+$")


def describe_failure(error: BaseException, batch_size: int | None, log_file: Path) -> tuple[str, str]:
    """Reason and message of an exception that ended a trial. `batch_size`: None when it is not known yet."""
    if is_out_of_memory(error):
        batch = "" if batch_size is None else f" of training_batch_size {batch_size}"
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        message = f"the memory must hold one batch{batch}, but it does not; lower training_batch_size ({first_line})"
        return "out_of_memory", message
    if is_disk_full(error):
        message = f"the disk of {log_file.parent} must hold checkpoints and packages, but it is full; free some space"
        return "disk_full", f"{message}, then resume the job ({error})"
    match error:
        case TrainingError():
            return error.reason, str(error)
        case InvalidData():
            is_label = any(_ROW.search(fault.target) for fault in error.faults)
            return "bad_label" if is_label else "bad_data", str(error)
        case WeightsMissing():
            return "weights_missing", str(error)
        case ExportError():
            return "export_failed", str(error)
        case UserError():
            return "bad_request", str(error)
        case ClearsightError():
            return "internal_error", str(error)
        case _:
            return "internal_error", f"{type(error).__name__}: {error}; the traceback is in {log_file}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the memory of the machine or of the GPU was exhausted.

    A process that the kernel kills for its memory gets no exception; its parent process reports that.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, cv2.error):
        return int(error.code) == cv2.Error.StsNoMem
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
