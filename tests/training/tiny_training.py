"""A program for tests: train a network of two thousand parameters, alone or as one of several processes.

Run it by `runpy` with a global OPTIONS: the fields of `Options`. The first process writes `result.json` into the
folder: how it ended, the validation passes, and the sha256 of the weights.
"""

import hashlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clearsight import environment
from clearsight.documents.settings import ClassificationSettings
from clearsight.tasks import Task
from clearsight.training.classification.augmentation import Augmentation
from clearsight.training.classification.datasets import EvaluationSet, ImageCache, TrainingSet, encode_targets
from clearsight.training.classification.losses import build_loss
from clearsight.training.classification.objective import ClassificationObjective
from clearsight.training.data.table import class_names, load_table
from clearsight.training.engine import loop
from clearsight.training.engine.batch_stream import BatchOptions
from clearsight.training.engine.checkpoint import Checkpoints
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.objective import Evaluation
from clearsight.training.engine.optimizer import OptimizerOptions, build_optimizer
from clearsight.training.engine.ranks import joined
from clearsight.training.engine.schedule import WarmupCosine


@dataclass
class Options:
    data: str
    folder: str
    """Folder of checkpoints and result."""
    variables: dict[str, str]
    """Of the environment."""
    task: str = "image_classification"
    num_training: int = 16
    batch_size: int = 4
    num_epochs: int = 2
    accumulation: int = 1
    num_workers: int = 0
    depends_on_batch: bool = True
    """Whether the network has batch norm and dropout."""
    stop_at: int | None = None
    """Step at which the last process, and no other one, is asked to stop."""
    die_at: int | None = None
    """Step at which the last process kills itself."""


class Listener:
    def __init__(self) -> None:
        self.passes: list[dict[str, float]] = []

    def progress(self, *args: object) -> None: ...

    def evaluated(self, counters: object, evaluation: Evaluation, improved: bool) -> None:
        self.passes.append(evaluation.metrics)

    def keep_weights(self, *args: object) -> None: ...


def tiny_network(num_classes: int, depends_on_batch: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2),
        nn.BatchNorm2d(12) if depends_on_batch else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2 if depends_on_batch else 0.0),
        nn.Linear(12, num_classes),
    )


def main(options: Options) -> None:
    os.environ.update(options.variables)
    torch.set_num_threads(1)
    loop._CHECKPOINT_S, loop._CHECKPOINT_SHARE = 0.0, float("inf")  # a checkpoint before each step
    task = Task(options.task)
    table = load_table(Path(options.data), task, "label", {})
    classes = class_names(table)
    training, validation = table.records[: options.num_training], table.records[-7:]
    settings = ClassificationSettings(valid_resize_size=36, valid_crop_size=32)
    listener, hardware = Listener(), Hardware(torch.device("cpu"), None, "test", 1)
    with joined(environment.launch()) as ranks:
        torch.manual_seed(0)
        network = tiny_network(len(classes), options.depends_on_batch).to(memory_format=torch.channels_last)
        images = ImageCache([record.image for record in training], 1000, 10**9)
        targets = [encode_targets(part, classes, task) for part in (training, validation)]
        data = TrainingSet(
            images,
            targets[0],
            Augmentation(32),
            BatchOptions(options.batch_size, num_workers=options.num_workers),
            rank=ranks.rank,
            num_ranks=ranks.size,
        )
        is_last = ranks.rank == ranks.size - 1

        def should_stop() -> bool:
            if is_last and run.counters.step == options.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return is_last and run.counters.step == options.stop_at

        run = loop.TrainingRun(
            objective=ClassificationObjective(
                task,
                build_loss(task, np.linspace(0.5, 2, len(classes)) if task is Task.MULTI_LABEL else None),
                EvaluationSet([one.image for one in validation], targets[1], settings, 16, 10**9),
                settings.mean,
                settings.std,
                hardware,
            ),
            network=network,
            optimizer=build_optimizer(network.parameters(), OptimizerOptions("sgd", 0.05)),
            schedule=WarmupCosine(options.num_epochs, 1),
            training=data,
            early_stopping=EarlyStopping(),
            options=loop.LoopOptions(options.num_epochs, options.accumulation, learning_rate=0.05),
            hardware=hardware,
            frozen_prefixes=(),
            checkpoints=Checkpoints(Path(options.folder)),
            listener=listener,
            should_stop=should_stop,
            ranks=ranks,
        )
        ending = loop.train(run)
        if ranks.is_first:
            state = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
            result = {
                "ending": ending,
                "step": run.counters.step,
                "passes": listener.passes,
                "weights": hashlib.sha256(state).hexdigest(),
            }
            (Path(options.folder) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Options(**OPTIONS))  # noqa: F821
