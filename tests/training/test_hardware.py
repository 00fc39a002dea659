from pathlib import Path

import pytest
import torch
from torch import nn

from clearsight.errors import UserError
from clearsight.training.engine import hardware
from clearsight.training.engine.hardware import Hardware, choose_hardware, is_dense, usable_memory_bytes


def test_a_network_with_a_depthwise_convolution_is_not_dense() -> None:
    assert is_dense(nn.Linear(2, 2))
    assert is_dense(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=2)))
    assert not is_dense(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)))


def test_only_float16_scales_the_loss() -> None:
    precisions = (None, torch.bfloat16, torch.float16)
    scalers = [Hardware(torch.device("cpu"), one, "test", 1).gradient_scaler() for one in precisions]
    assert [scaler.is_enabled() for scaler in scalers] == [False, False, True]


def test_the_limit_of_a_container_counts_as_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent, limit = tmp_path / "absent", tmp_path / "memory.max"
    monkeypatch.setattr(hardware, "_MEMORY_LIMITS", (absent, limit))
    machine = usable_memory_bytes()
    limit.write_text("max\n")
    assert usable_memory_bytes() == machine
    limit.write_text("1048576\n")
    assert usable_memory_bytes() == 1048576
    limit.write_text(f"{2**63}\n")  # the value of cgroup v1 without a limit
    assert usable_memory_bytes() == machine


def test_processes_share_the_cores_unless_the_environment_sets_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    network = nn.Conv2d(4, 4, 3, groups=4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [choose_hardware(network, 0, count).num_threads for count in (1, 2, 4, 8)] == [6, 3, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert choose_hardware(network, 0, 2).num_threads == 5


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="there are 2 and this is process 3"):
        choose_hardware(nn.Linear(2, 2), local_rank=2, num_processes=3)
