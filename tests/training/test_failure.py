import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clearsight.errors import (
    ClearsightError,
    ExportError,
    Fault,
    InvalidData,
    TrainingError,
    UserError,
    WeightsMissing,
)
from clearsight.training.trial.failure import describe_failure

LOG = Path("/runs/a_HD_0/trial.log")


def too_large_for_torch() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def too_large_for_numpy() -> None:
    np.empty(2**60, np.uint8)


@pytest.mark.parametrize("allocate", [too_large_for_torch, too_large_for_numpy])
def test_the_message_on_exhausted_memory_names_the_batch_and_the_remedy(allocate: object) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    reason, message = describe_failure(caught.value, 78, LOG)
    assert reason == "out_of_memory"
    assert "one batch of training_batch_size 78" in message
    assert "lower training_batch_size" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_every_message_on_exhausted_memory_is_recognised(error: Exception) -> None:
    assert describe_failure(error, None, LOG)[0] == "out_of_memory"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/runs/a_HD_0/checkpoints/last.safetensors"),
        ExportError("the package could not be written: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_a_reason_of_its_own(error: Exception) -> None:
    reason, message = describe_failure(error, 4, LOG)
    assert reason == "disk_full"
    assert "the disk of /runs/a_HD_0" in message
    assert "free some space, then resume the job" in message


def test_another_refusal_of_the_system_is_not_a_full_disk() -> None:
    assert describe_failure(OSError(errno.EIO, os.strerror(errno.EIO)), 4, LOG)[0] == "internal_error"


def test_opencv_without_memory_is_recognised_and_its_other_errors_are_not_memory() -> None:
    without_memory = cv2.error("Failed to allocate 9 bytes")
    without_memory.code = cv2.Error.StsNoMem
    assert describe_failure(without_memory, 4, LOG)[0] == "out_of_memory"
    with pytest.raises(cv2.error) as caught:
        cv2.resize(np.zeros((0, 0, 3), np.uint8), (2, 2))
    assert describe_failure(caught.value, 4, LOG)[0] == "internal_error"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidData("data", [Fault("BAD_DATA", "/data/annotations.jsonl:97", "must be text")]), "bad_label"),
        (InvalidData("data", [Fault("BAD_DATA", "training", "at most 5% may be unreadable")]), "bad_data"),
        (TrainingError("diverged", "the loss"), "diverged"),
        (WeightsMissing("no weights"), "weights_missing"),
        (ExportError("graphs differ"), "export_failed"),
        (UserError("layers_to_freeze"), "bad_request"),
        (ClearsightError("ours"), "internal_error"),
    ],
)
def test_errors_of_clearsight_have_a_reason_and_keep_their_message(error: Exception, reason: str) -> None:
    assert describe_failure(error, 8, LOG) == (reason, str(error))


def test_an_unknown_error_names_the_log() -> None:
    reason, message = describe_failure(ZeroDivisionError("division by zero"), 8, LOG)
    assert reason == "internal_error"
    assert message == f"ZeroDivisionError: division by zero; the traceback is in {LOG}"
