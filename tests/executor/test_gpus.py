"""GPUs are counted without torch, by the rules of CUDA."""

from pathlib import Path

import pytest

from clearsight.executor import count_gpus


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver's folder without GPUs, and a torch that knows CUDA."""
    folder = tmp_path / "gpus"
    folder.mkdir()
    monkeypatch.setattr("clearsight.executor.gpus._DRIVER", folder)
    monkeypatch.setattr("clearsight.executor.gpus.metadata.version", lambda name: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def add_gpus(driver: Path, count: int) -> None:
    for index in range(count):
        (driver / f"0000:0{index}:00.0").mkdir()


def test_a_driver_without_gpus_counts_none(driver: Path) -> None:
    assert count_gpus() == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("2", 1),
        ("0, 1", 2),
        ("0,9,1", 1),  # CUDA's rule: everything after an index that does not exist is invisible
        ("GPU-5ad4,GPU-77b1", 2),
    ],
)
def test_only_visible_gpus_count(
    driver: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: int
) -> None:
    add_gpus(driver, 4)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == expected


def test_a_torch_without_cuda_uses_none(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_gpus(driver, 1)
    monkeypatch.setattr("clearsight.executor.gpus.metadata.version", lambda name: "2.13.0+cpu")
    assert count_gpus() == 0


def test_the_drivers_program_is_asked_where_it_has_no_folder(
    driver: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver.rmdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() == 0
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: GPU-1)'\necho '  MIG 1g: (UUID: MIG-2)'\necho 'GPU 1: Y'\n")
    program.chmod(0o755)
    assert count_gpus() == 2
    program.write_text("#!/bin/sh\necho failed\nexit 9\n")
    assert count_gpus() == 0
