"""The fault scenarios of `loadtests/faults`, on a real server. Each asserts what must hold by itself."""

from pathlib import Path

import pytest

from clearsight.runs.package import ModelPackage
from loadtests.faults.scenarios import SCENARIOS


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "killed-workers"])
def test_nothing_is_lost_and_everything_comes_back(
    name: str, tiny_package: ModelPackage, drawn_images: list[Path]
) -> None:
    """The death of workers is part of `test_safe_rollout.py`."""
    SCENARIOS[name](tiny_package.root, drawn_images[0])
