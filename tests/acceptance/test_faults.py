"""Fault scenarios of `loadtests/faults`, on a real server. Each asserts what must hold by itself.

These are the ones that no other test shows; `python -m loadtests.faults` runs all of them.
"""

from pathlib import Path

import pytest

from clearsight.runs.package import ModelPackage
from loadtests.faults.scenarios import SCENARIOS


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["crash-of-the-server", "take-over", "take-over-after-an-upgrade", "killed-servers"])
def test_nothing_is_lost_and_everything_comes_back(
    name: str, tiny_package: ModelPackage, drawn_images: list[Path]
) -> None:
    SCENARIOS[name](tiny_package.root, drawn_images[0])
