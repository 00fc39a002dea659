"""Fixtures that every test folder may use."""

import os
from pathlib import Path

# Before torch is imported, here and in child processes: the networks of the tests are small, and threads that wait
# for each other cost more than they give (the tests of exporters: 38 s of CPU with two threads, 22 s with one).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from clearsight.package import ModelPackage
from clearsight.settings import ClassificationSettings
from clearsight.tasks import Task

FRIDGE_LABELS = ("can", "carton", "milk_bottle", "water_bottle")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and weights, next to the repository; tests that need them skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not there")
    return folder


@pytest.fixture(scope="session")
def drawn_pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty PNG pictures of 96 x 80 with gradients, blocks and noise, the same in every run."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(7)
    rows, columns = np.mgrid[0:80, 0:96]
    files = []
    for index in range(20):
        image_HWC = np.stack([rows * 3 % 256, columns * (index + 1) % 256, (rows + columns) % 256], axis=-1)
        image_HWC[20:60, 10 + 2 * index : 50 + 2 * index] = random.integers(0, 256, 3)
        image_HWC = np.clip(image_HWC + random.normal(0, 12, image_HWC.shape), 0, 255).astype(np.uint8)
        file = folder / f"{index:02}.png"
        Image.fromarray(image_HWC).save(file)
        files.append(file)
    return files


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory, drawn_pictures: list[Path]) -> ModelPackage:
    """A multi-class package with random weights (MobileNetV2, 4 fridge classes, 64-pixel crops). Read only.

    Tests that change it copy it first. `train_artifacts/` lies beside it.
    """
    return _write(tmp_path_factory.mktemp("tiny") / "mlflow-model", Task.MULTI_CLASS, drawn_pictures)


@pytest.fixture(scope="session")
def tiny_multilabel_package(tmp_path_factory: pytest.TempPathFactory, drawn_pictures: list[Path]) -> ModelPackage:
    """The same for a multi-label task."""
    return _write(tmp_path_factory.mktemp("tiny_multilabel") / "mlflow-model", Task.MULTI_LABEL, drawn_pictures)


def _write(target: Path, task: Task, pictures: list[Path]) -> ModelPackage:
    import torch  # seconds: only tests that ask for a package pay them

    from clearsight.exporters.write import write_package
    from clearsight.networks.registry import build_network

    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network("mobilenetv2", len(FRIDGE_LABELS))
        # Real batch-norm statistics and a wide last layer, so that different pictures get different answers.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            network.train()(torch.randn(8, 3, 64, 64))
            network.classifier[1].weight.mul_(8)
    return write_package(
        target,
        task=task,
        model_name="mobilenetv2",
        labels=FRIDGE_LABELS,
        network=network,
        settings=ClassificationSettings(valid_resize_size=72, valid_crop_size=64),
        parity_images=pictures,
        run_id="tiny_HD_0",
        pretrained={"source": "none", "file": None, "sha256": None, "tag": None, "licence": None},
        train_artifacts=target.parent / "train_artifacts",
        gate_bf16=False,  # two more processes, seconds
    )
