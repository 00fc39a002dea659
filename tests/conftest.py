"""Fixtures that every test folder may use."""

import fcntl
import functools
import inspect
import json
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

# Before torch is imported, here and in child processes: the networks of the tests are small, and threads that wait
# for each other cost more than they give (the tests of exporters: 38 s of CPU with two threads, 22 s with one).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import yaml
from PIL import Image

from clearsight.documents.settings import (
    ClassificationSettings,
    RcnnSettings,
    SegmentationSettings,
    Settings,
    YoloSettings,
)
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task

DetectorPackages = Callable[[str], ModelPackage]

MadeOnce = Callable[[str, Callable[[Path], object]], Path]
CheckRows = Callable[[Callable[..., None], Iterable[Any]], None]

FRIDGE_LABELS = ("can", "carton", "milk_bottle", "water_bottle")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write the golden files anew instead of comparing with them"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what was logged fit for the way between the suite's processes: some tests log text that is not UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def check_rows() -> CheckRows:
    """Calls a check with each row of a table, and fails with all wrong rows at once.

    A check of several parameters gets a row's items, a check of one parameter the row itself.
    """

    def run(check: Callable[..., None], rows: Iterable[Any]) -> None:
        has_one = len(inspect.signature(check).parameters) == 1
        wrong, count = [], 0
        for row in rows:
            count += 1
            try:
                check(row) if has_one else check(*row)
            except (Exception, pytest.fail.Exception) as error:
                wrong.append(f"{row!r:.300}: {type(error).__name__}: {error}")
        assert count > 0
        assert not wrong, f"{len(wrong)} of {count} rows are wrong:\n" + "\n".join(wrong)

    return run


@pytest.fixture(scope="session", autouse=True)
def _heard_signals() -> None:
    """Under `nohup` and in the background of a script these are ignored, and so they would be by every child."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Makes a folder once per run, whichever of the suite's processes needs it first. Read only.

    `made_once(name, make)` calls `make(folder)` with an empty folder of that name and gives the folder back.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a folder below the run's
        shared = shared.parent
    shared = shared / "made_once"
    shared.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and weights, next to the repository; tests that need them skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not there")
    return folder


@pytest.fixture(scope="session")
def drawn_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty PNG images of 96 x 80 with gradients, blocks and noise, the same in every run."""
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
def tiny_package(made_once: MadeOnce, drawn_images: list[Path]) -> ModelPackage:
    """A multi-class package with random weights (MobileNetV2, 4 fridge classes, 64-pixel crops). Read only.

    Tests that change it copy it first. `train_artifacts/` lies beside it.
    """
    folder = made_once("tiny", lambda folder: _write(folder / "mlflow-model", Task.MULTI_CLASS, drawn_images))
    return ModelPackage.open(folder / "mlflow-model")


@pytest.fixture(scope="session")
def tiny_multilabel_package(made_once: MadeOnce, drawn_images: list[Path]) -> ModelPackage:
    """The same for a multi-label task."""
    name = "tiny_multilabel"
    folder = made_once(name, lambda folder: _write(folder / "mlflow-model", Task.MULTI_LABEL, drawn_images))
    return ModelPackage.open(folder / "mlflow-model")


def _write(target: Path, task: Task, images: list[Path]) -> ModelPackage:
    import torch  # seconds: only tests that ask for a package pay them

    from clearsight.exporters.write import write_package
    from clearsight.networks.families.table import build_network

    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network("mobilenetv2", len(FRIDGE_LABELS))
        # Real batch-norm statistics and a wide last layer, so that different images get different answers.
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
        parity_images=images,
        run_id="tiny_HD_0",
        pretrained={"source": "none", "file": None, "sha256": None, "tag": None, "licence": None},
        train_artifacts=target.parent / "train_artifacts",
        gate_bf16=False,  # two more processes, seconds
    )


@pytest.fixture(scope="session")
def detector_package(made_once: MadeOnce, drawn_images: list[Path]) -> DetectorPackages:
    """Gives the package of a small detector with random weights, four fridge classes; made once. Read only.

    `yolov5` is the nano size at 64 pixels, the R-CNN family has few proposals and images of 64 to 96 pixels.
    """

    @functools.cache  # to open a package is to hash its files
    def get(model_name: str) -> ModelPackage:
        folder = made_once(
            model_name, lambda folder: _write_detector(folder / "mlflow-model", model_name, drawn_images)
        )
        return ModelPackage.open(folder / "mlflow-model")

    return get


def _write_detector(target: Path, model_name: str, images: list[Path]) -> ModelPackage:
    from dataclasses import asdict

    import torch

    from clearsight.exporters.write import write_package
    from clearsight.networks.families.rcnn.options import RcnnOptions
    from clearsight.networks.families.table import build_network

    options = RcnnOptions(proposals_before_nms=16, proposals=4)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        architecture = {"model_size": "nano", "options": asdict(options)}
        network = build_network(model_name, len(FRIDGE_LABELS), architecture=architecture)
        # Answers that differ from place to place, with scores between 0 and 1.
        for name, module in network.named_modules():
            if hasattr(module, "downsample"):  # else answers of random weights explode
                torch.nn.init.constant_((module.bn3 if hasattr(module, "bn3") else module.bn2).weight, 0.2)
            if name.endswith("cls_logits") and model_name.startswith("retinanet"):
                torch.nn.init.normal_(module.weight, std=0.1)
                torch.nn.init.zeros_(module.bias)
            if name.endswith("cls_score"):
                torch.nn.init.normal_(module.weight, std=0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        if model_name == "yolov5":
            with torch.no_grad():
                blocks = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4), 64)
                network.train()(blocks + 0.1 * torch.randn(8, 3, 64, 64))
                for convolution in network.head.modules():
                    if isinstance(convolution, torch.nn.Conv2d):
                        torch.nn.init.normal_(convolution.weight, std=0.1)
                        torch.nn.init.zeros_(convolution.bias)
    small = {"min_size": 64, "max_size": 96, "box_score_thresh": 0.05, "box_detections_per_img": 6}
    settings: Settings = RcnnSettings(**small)
    if model_name == "yolov5":
        settings = YoloSettings(img_size=64, model_size="nano", box_score_thresh=0.05)
    elif model_name.startswith("maskrcnn"):
        settings = SegmentationSettings(**small)
    return write_package(
        target,
        task=Task.SEGMENTATION if model_name.startswith("maskrcnn") else Task.DETECTION,
        model_name=model_name,
        labels=FRIDGE_LABELS,
        network=network,
        settings=settings,
        parity_images=images[:2],
        run_id="tiny_HD_0",
        pretrained={"source": "none", "file": None, "sha256": None, "tag": None, "licence": None},
    )


MLTABLE = """paths:
  - file: ./annotations.jsonl
transformations:
  - read_json_lines: {encoding: utf8, invalid_lines: error}
  - convert_column_types:
      - {columns: image_url, column_type: stream_info}
"""

TEXTURES = ("dots", "checks", "columns", "rows")


def _texture(name: str, random: np.random.Generator) -> np.ndarray:
    """A 72 x 72 image of one texture in two random colours, with noise: uint8 (72, 72, 3)."""
    y, x = np.mgrid[0:72, 0:72] + int(random.integers(0, 12))
    masks = {
        "rows": y % 12 < 6,
        "columns": x % 12 < 6,
        "checks": (y // 6 + x // 6) % 2 == 0,
        "dots": (y % 12 - 6) ** 2 + (x % 12 - 6) ** 2 < 9,
    }
    dark, light = random.integers(0, 110, 3), random.integers(140, 256, 3)
    image_HWC = np.where(masks[name][..., None], light, dark) + random.normal(0, 8, (72, 72, 3))
    return np.clip(image_HWC, 0, 255).astype(np.uint8)


def _write_table(folder: Path, names: list[list[str]], multi_label: bool, random: np.random.Generator) -> None:
    import cv2  # only tests that train pay its import

    folder.mkdir(parents=True)
    (folder / "MLTable").write_text(MLTABLE)
    with (folder / "annotations.jsonl").open("w") as lines:
        for index, labels in enumerate(names):
            halves = [_texture(name, random) for name in labels] or [np.full((72, 72, 3), 128, np.uint8)]
            cv2.imwrite(str(folder / f"{index}.png"), np.concatenate(halves, axis=1))
            label = labels if multi_label else labels[0]
            lines.write(json.dumps({"image_url": f"{index}.png", "label": label}) + "\n")


@pytest.fixture(scope="session")
def texture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 small images of four textures, multi-class: a data folder with label file and MLTable. Read only."""
    folder = tmp_path_factory.mktemp("textures") / "data"
    names = [[TEXTURES[index % 4]] for index in range(96)]
    _write_table(folder, names, multi_label=False, random=np.random.default_rng(5))
    return folder


@pytest.fixture(scope="session")
def texture_pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of zero to two textures side by side, multi-label. Read only."""
    folder = tmp_path_factory.mktemp("pairs") / "data"
    pairs = [[], ["dots"], ["dots", "rows"], ["columns"]]
    _write_table(folder, [pairs[index % 4] for index in range(24)], multi_label=True, random=np.random.default_rng(6))
    return folder


WriteJob = Callable[..., Path]


@pytest.fixture(scope="session")
def write_job() -> WriteJob:
    """Writes `job.yml` of a small job without pretrained weights into a folder; keywords are training parameters."""

    def write(folder: Path, data: Path, **parameters: Any) -> Path:
        document = {
            "type": "automl",
            "task": "image_classification",
            "experiment_name": "textures",
            "target_column_name": "label",
            "training_data": {"type": "mltable", "path": os.path.relpath(data, folder)},
            "validation_data_size": 0.25,
            "tags": {"team": "vision"},
            "outputs": {"best_model": {"type": "mlflow_model", "path": "copy"}},
            "training_parameters": {
                "model_name": "resnet18",
                "training_crop_size": 64,
                "validation_crop_size": 64,
                "validation_resize_size": 72,
                "training_batch_size": 8,
                "momentum": 0.5,
                "warmup_cosine_lr_warmup_epochs": 0,
                "random_seed": 1,
                "advanced_settings": {"x_pretrained": False, "x_min_crop_scale": 0.5},
                **parameters,
            },
        }
        file = folder / "job.yml"
        file.write_text(yaml.safe_dump(document))
        return file

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")
