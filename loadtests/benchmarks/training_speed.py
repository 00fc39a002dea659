"""Training steps of Clearsight's loop against a plain one: torchvision's transforms, a DataLoader, SGD in float32.

Both train the same network from the same weights on the same files, with the same batches, threads and number of
workers, and take turns. A pass counts the steps after the first ones, which start the workers; the cache of decoded
images is filled before, as it is after the first epoch of a job. Where a job would choose bfloat16, Clearsight's loop
runs in that too.
"""

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from clearsight.catalogue.models import find_row
from clearsight.documents.settings import ClassificationSettings
from clearsight.networks.families.table import build_network
from clearsight.tasks import Task
from clearsight.training.classification.augmentation import Augmentation
from clearsight.training.classification.datasets import EvaluationSet, ImageCache, TrainingSet
from clearsight.training.classification.losses import build_loss
from clearsight.training.classification.objective import ClassificationObjective
from clearsight.training.engine.batch_stream import BatchOptions
from clearsight.training.engine.checkpoint import Checkpoints
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.hardware import Hardware, choose_hardware
from clearsight.training.engine.loop import LoopOptions, TrainingRun, train
from clearsight.training.engine.optimizer import OptimizerOptions, build_optimizer
from clearsight.training.engine.schedule import StepDecay

__all__ = ["TrainingRow", "measure_training"]

MODELS = ("resnet18", "resnet50", "mobilenetv2")
CROP_SIZE = 224
BATCH_SIZE = 16
NUM_CLASSES = 4
LEARNING_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
WARM_UP_STEPS = 2
STEPS = 4


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """Medians of passes, images/s."""

    model: str
    precision: str
    threads: int
    workers: int
    ours_images_per_s: float
    reference_images_per_s: float
    ratio: float


def measure_training(images: list[bytes], passes: int) -> list[TrainingRow]:
    """Time both loops on `images` (JPEG)."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    num_workers = min(4, len(os.sched_getaffinity(0)) - 1)  # what a job gets by default
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = _as_files(images, Path(folder))
            return [row for name in MODELS for row in _measure(name, files, num_workers, passes)]
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _as_files(images: list[bytes], folder: Path) -> list[Path]:
    files = [folder / f"{index}.jpg" for index in range(len(images))]
    for file, data in zip(files, images, strict=True):
        file.write_bytes(data)
    needed = (WARM_UP_STEPS + STEPS + 2) * BATCH_SIZE  # both loops prefetch beyond the steps that count
    return [files[index % len(files)] for index in range(needed)]


def _measure(model_name: str, files: list[Path], num_workers: int, passes: int) -> Iterable[TrainingRow]:
    torch.manual_seed(0)
    network = build_network(model_name, NUM_CLASSES)
    chosen = choose_hardware(network)
    if chosen.device.type != "cpu":
        raise SystemExit("this benchmark compares loops on the processor; hide the GPU (CUDA_VISIBLE_DEVICES=)")
    plain = Hardware(chosen.device, None, "compared", chosen.num_threads)
    targets = np.arange(len(files), dtype=np.int64) % NUM_CLASSES
    images = ImageCache(files, Augmentation(CROP_SIZE).largest_useful_side, 10**10)
    for index in range(len(files)):
        images[index]

    ways: dict[str, Callable[[nn.Module], float]] = {
        "reference": lambda start: _reference_rate(start, files, targets, num_workers),
        "float32": lambda start: _our_rate(start, model_name, images, files, targets, num_workers, plain),
    }
    if chosen.autocast is not None:
        precision = str(chosen.autocast).removeprefix("torch.")
        ways[precision] = lambda start: _our_rate(start, model_name, images, files, targets, num_workers, chosen)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(passes):
        for name, way in ways.items():
            rates[name].append(way(copy.deepcopy(network)))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    reference = medians.pop("reference")
    for precision, ours in medians.items():
        yield TrainingRow(
            model_name, precision, chosen.num_threads, num_workers, ours, reference, ratio=ours / reference
        )


class _Stopwatch:
    """Records the time of each step; the call returns True after the last step that counts."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def __call__(self) -> bool:
        self._times.append(time.perf_counter())
        return len(self._times) > WARM_UP_STEPS + STEPS

    @property
    def images_per_s(self) -> float:
        return STEPS * BATCH_SIZE / (self._times[WARM_UP_STEPS + STEPS] - self._times[WARM_UP_STEPS])


def _our_rate(
    network: nn.Module,
    model_name: str,
    images: ImageCache,
    files: list[Path],
    targets: np.ndarray,
    num_workers: int,
    hardware: Hardware,
) -> float:
    spec = find_row(model_name)
    stopwatch = _Stopwatch()
    network = network.to(memory_format=torch.channels_last)
    batches = BatchOptions(BATCH_SIZE, num_workers=num_workers)
    options = OptimizerOptions("sgd", LEARNING_RATE, WEIGHT_DECAY, MOMENTUM)
    with tempfile.TemporaryDirectory() as folder:
        train(
            TrainingRun(
                objective=ClassificationObjective(
                    Task.MULTI_CLASS,
                    build_loss(Task.MULTI_CLASS, None),
                    EvaluationSet(files[:1], targets[:1], ClassificationSettings(), 1, 0),
                    spec.mean,
                    spec.std,
                    hardware,
                ),
                network=network,
                optimizer=build_optimizer(network.parameters(), options),
                schedule=StepDecay(),
                training=TrainingSet(images, targets, Augmentation(CROP_SIZE), batches),
                early_stopping=EarlyStopping(),
                options=LoopOptions(num_epochs=1, learning_rate=LEARNING_RATE),
                hardware=hardware,
                frozen_prefixes=(),
                checkpoints=Checkpoints(Path(folder)),
                listener=_NoListener(),
                should_stop=stopwatch,
            )
        )
    return stopwatch.images_per_s


class _NoListener:
    """Ignores all events."""

    def progress(self, *event: object) -> None: ...

    def evaluated(self, *event: object) -> None: ...

    def keep_weights(self, *event: object) -> None: ...


class _Files(Dataset[tuple[torch.Tensor, int]]):
    """Opens and transforms one file per item, as torchvision's `ImageFolder` does."""

    def __init__(self, files: list[Path], targets: np.ndarray) -> None:
        self._files = files
        self._targets = targets
        self._transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(CROP_SIZE),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
                transforms.ToTensor(),
                transforms.Normalize(ClassificationSettings().mean, ClassificationSettings().std),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self._files[index]) as image:
            return self._transform(image.convert("RGB")), int(self._targets[index])


def _reference_rate(network: nn.Module, files: list[Path], targets: np.ndarray, num_workers: int) -> float:
    loader = DataLoader(_Files(files, targets), BATCH_SIZE, shuffle=True, num_workers=num_workers)
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    criterion = nn.CrossEntropyLoss()
    stopwatch = _Stopwatch()
    network.train()
    for images, labels in loader:
        if stopwatch():
            break
        loss = criterion(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return stopwatch.images_per_s
