"""The loop on a network of two thousand parameters, with everything a real one has: batch norm, dropout, momentum."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import TrainingError, UserError
from clearsight.tasks import Task
from clearsight.training.classification.augmentation import Augmentation
from clearsight.training.classification.datasets import EvaluationSet, ImageCache, TrainingSet, encode_targets
from clearsight.training.classification.losses import build_loss
from clearsight.training.classification.objective import ClassificationObjective
from clearsight.training.data.table import class_names, load_table
from clearsight.training.engine.batch_stream import BatchOptions
from clearsight.training.engine.checkpoint import Checkpoints, Counters
from clearsight.training.engine.early_stopping import EarlyStopping, EarlyStoppingOptions
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.loop import LoopOptions, TrainingRun, smallest_batch, train
from clearsight.training.engine.objective import Evaluation
from clearsight.training.engine.optimizer import OptimizerOptions, build_optimizer
from clearsight.training.engine.ranks import Ranks
from clearsight.training.engine.schedule import StepDecay, WarmupCosine

CPU = Hardware(torch.device("cpu"), None, "test", 1)


@dataclass
class Recorder:
    passes: list[dict[str, float]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)

    def progress(self, counters: Counters, num_batches: int, loss: float, learning_rate: float) -> None:
        self.learning_rates.append(learning_rate)

    def evaluated(self, counters: Counters, evaluation: Evaluation, improved: bool) -> None:
        self.passes.append(dict(evaluation.metrics))

    def keep_weights(self, network: nn.Module, epoch: int) -> None:
        self.kept.append(epoch)


class RaiseAfter:
    """Raises at the n-th call."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("pulled the plug")
        return False


class StopAfter:
    """Asks the run to stop from the n-th call on."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def tiny_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(12, 4),
    )


class _Constant(nn.Module):
    """Outputs its only weight in the first of four columns, whatever its input."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.eye(4)[:1].expand(len(images_NCHW), 4)


@pytest.fixture
def make_run(texture_folder: Path, tmp_path: Path) -> Callable[..., TrainingRun]:
    """Makes runs that differ in what is given; every run has its own checkpoint folder unless told otherwise."""
    table = load_table(texture_folder, Task.MULTI_CLASS, "label", {})
    classes = class_names(table)
    parts = table.records[:48], table.records[48:72]
    images = ImageCache([record.image for record in parts[0]], 1000, 10**9)
    settings = ClassificationSettings(valid_resize_size=36, valid_crop_size=32)
    validation_files = [record.image for record in parts[1]]
    targets = [encode_targets(part, classes, Task.MULTI_CLASS) for part in parts]
    made = 0

    def make(
        folder: Path | None = None,
        seed: int = 0,
        optimizer: str = "sgd",
        should_stop: Callable[[], bool] = lambda: False,
        hardware: Hardware = CPU,
        early_stopping: EarlyStopping | None = None,
        frozen: tuple[str, ...] = (),
        batch_size: int = 8,
        **options: int,
    ) -> TrainingRun:
        nonlocal made
        made += 1
        torch.manual_seed(seed)
        network = tiny_network().to(memory_format=torch.channels_last)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen or ("\0",)))
        training = TrainingSet(images, targets[0], Augmentation(32), BatchOptions(batch_size, seed))
        loop = LoopOptions(**{"num_epochs": 3, "learning_rate": 0.05, "seed": seed, **options})
        return TrainingRun(
            objective=ClassificationObjective(
                Task.MULTI_CLASS,
                build_loss(Task.MULTI_CLASS, None),
                EvaluationSet(validation_files, targets[1], settings, 16, 10**9),
                settings.mean,
                settings.std,
                hardware,
            ),
            network=network,
            optimizer=build_optimizer(network.parameters(), OptimizerOptions(optimizer, loop.learning_rate)),
            schedule=WarmupCosine(loop.num_epochs, 1),
            training=training,
            early_stopping=early_stopping or EarlyStopping(),
            options=loop,
            hardware=hardware,
            frozen_prefixes=frozen,
            checkpoints=Checkpoints(folder or tmp_path / str(made)),
            listener=Recorder(),
            should_stop=should_stop,
        )

    return make


def passes(run: TrainingRun) -> list[dict[str, float]]:
    return run.listener.passes


def test_equal_seeds_give_equal_metrics_and_other_seeds_others(make_run: Callable[..., TrainingRun]) -> None:
    runs = []
    for seed in (0, 0, 1):
        runs.append(make_run(seed=seed))
        assert train(runs[-1]) == "all_epochs"
    assert passes(runs[0]) == passes(runs[1])
    assert passes(runs[0]) != passes(runs[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [0, 4, 9])
def test_a_stopped_run_resumes_as_if_it_had_not_been_stopped(
    make_run: Callable[..., TrainingRun], tmp_path: Path, steps: int, optimizer: str
) -> None:
    whole = make_run(optimizer=optimizer)
    train(whole)
    stopped = make_run(tmp_path / "checkpoints", optimizer=optimizer, should_stop=StopAfter(steps))
    assert train(stopped) == "canceled"
    assert stopped.counters.step == steps
    resumed = make_run(tmp_path / "checkpoints", optimizer=optimizer)
    torch.manual_seed(99)
    assert train(resumed) == "all_epochs"
    assert passes(stopped) + passes(resumed) == passes(whole)
    assert resumed.counters == whole.counters


def test_the_best_weights_are_those_of_the_best_pass(make_run: Callable[..., TrainingRun], tmp_path: Path) -> None:
    run = make_run(tmp_path / "checkpoints", num_epochs=5)
    train(run)
    accuracies = [one["accuracy"] for one in passes(run)]
    assert run.counters.best_epoch == int(np.argmax(accuracies))
    assert run.counters.best_metric == max(accuracies)
    assert [file.name for file in (tmp_path / "checkpoints").glob("best_*")] == [
        f"best_{run.counters.best_epoch:04}.safetensors"
    ]
    again = make_run(tmp_path / "other", num_epochs=run.counters.best_epoch + 1)
    again.schedule = run.schedule
    train(again)
    run.checkpoints.load_best(run.network, run.counters.best_epoch)
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(run.network.state_dict()[name], tensor)


def test_accumulated_batches_make_one_step_and_the_rest_steps_too(make_run: Callable[..., TrainingRun]) -> None:
    run = make_run(num_epochs=1, accumulation=4)
    assert run.training.num_batches == 6
    train(run)
    assert run.counters.step == 2


def test_accumulating_is_one_large_batch_when_nothing_depends_on_the_batch(
    make_run: Callable[..., TrainingRun],
) -> None:
    states = []
    for accumulation, batch_size in ((1, 48), (6, 8)):
        run = make_run(num_epochs=1, accumulation=accumulation, batch_size=batch_size)
        torch.manual_seed(5)
        run.network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32 * 3, 4))
        run.optimizer = build_optimizer(run.network.parameters(), OptimizerOptions("sgd", 0.01))
        run.schedule = WarmupCosine(1)
        train(run)
        states.append(run.network[1].weight.detach())
    assert torch.allclose(*states, atol=1e-6)


def test_validation_happens_every_nth_epoch_and_after_the_last(make_run: Callable[..., TrainingRun]) -> None:
    run = make_run(num_epochs=5, evaluation_frequency=2)
    train(run)
    assert len(passes(run)) == 3


def test_weights_are_kept_every_nth_epoch(make_run: Callable[..., TrainingRun]) -> None:
    run = make_run(num_epochs=5, checkpoint_frequency=2)
    train(run)
    assert run.listener.kept == [1, 3]


def test_a_metric_that_does_not_rise_ends_the_run(make_run: Callable[..., TrainingRun]) -> None:
    run = make_run(
        num_epochs=9,
        learning_rate=0.0,
        early_stopping=EarlyStopping(EarlyStoppingOptions(delay=1, patience=2)),
        frozen=("1.",),
    )
    assert train(run) == "early_stopping"
    assert len(passes(run)) == 3
    assert run.counters.best_epoch == 2  # all are equal, the last pass has the lowest loss


def test_frozen_layers_keep_weights_and_statistics(make_run: Callable[..., TrainingRun]) -> None:
    run = make_run(num_epochs=1, frozen=("0.", "1."))
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    train(run)
    changed = {name for name, tensor in run.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"3.weight", "3.bias", "8.weight", "8.bias"}


def test_a_batch_needs_two_images_where_batch_norm_learns() -> None:
    assert smallest_batch(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), ()) == 1
    assert smallest_batch(tiny_network(), ()) == 2
    assert smallest_batch(tiny_network(), ("0.", "1.")) == 1


def test_float16_scales_the_loss_and_goes_on_with_the_same_scale(
    make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    """A scale that starts at 65536 is halved by each step whose gradients overflow; such a step changes nothing."""
    half = Hardware(torch.device("cpu"), torch.float16, "test", 1)
    whole = make_run(hardware=half)
    train(whole)
    stopped = make_run(tmp_path / "checkpoints", hardware=half, should_stop=StopAfter(5))
    train(stopped)
    with safe_open(stopped.checkpoints.last_file, framework="np") as checkpoint:
        scaler = json.loads(checkpoint.metadata()["scaler"])
    assert scaler["scale"] >= 1.0
    assert scaler["_growth_tracker"] > 0
    resumed = make_run(tmp_path / "checkpoints", hardware=half)
    train(resumed)
    assert passes(stopped) + passes(resumed) == passes(whole)


def test_a_long_epoch_is_saved_within(
    make_run: Callable[..., TrainingRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearsight.training.engine.loop._CHECKPOINT_S", 0.0)
    monkeypatch.setattr("clearsight.training.engine.loop._CHECKPOINT_SHARE", float("inf"))
    broken = make_run(tmp_path / "checkpoints", should_stop=RaiseAfter(4))
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train(broken)
    whole, resumed = make_run(), make_run(tmp_path / "checkpoints")
    train(whole)
    train(resumed)
    assert 0 < resumed.training.num_batches - 4 < resumed.training.num_batches
    for ours, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def _flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])  # of a tensor: the file is as readable as before


def _without_counters(content: bytes) -> bytes:
    return content.replace(b'"counters"', b'"countess"').replace(b'"sha256"', b'"sha255"')


DAMAGES = [_flip_last_bit, _without_counters, lambda content: content[:-1], lambda _: b"", lambda _: b"text" * 100]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_training_goes_on_from_the_best_weights(
    damage: Callable[[bytes], bytes], make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    before = make_run(folder, num_epochs=4, should_stop=StopAfter(6 * 3 + 2))
    train(before)
    best, last = before.counters.best_epoch, before.checkpoints.last_file
    last.write_bytes(damage(last.read_bytes()))
    warnings: list[str] = []
    resumed = make_run(folder, num_epochs=4, should_stop=StopAfter(0))
    resumed.checkpoints = Checkpoints(folder, warnings.append)
    assert train(resumed) == "canceled"
    [warning] = warnings
    assert f"the checkpoint {last} is damaged" in warning
    assert f"best_{best:04}.safetensors" in warning
    for name, tensor in load_file(before.checkpoints.best_file(best)).items():
        assert torch.equal(resumed.network.state_dict()[name], tensor)
    assert (resumed.counters.epoch, resumed.counters.step, resumed.counters.batch) == (best + 1, 6 * (best + 1), 0)
    assert resumed.counters.best_metric == before.counters.best_metric
    ended = make_run(folder, num_epochs=4)  # the stopped run wrote a new checkpoint
    assert train(ended) == "all_epochs"
    assert (ended.counters.step, len(passes(ended))) == (24, 3 - best)


def test_without_a_whole_checkpoint_the_way_out_does_not_lead_back(
    make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    run = make_run(folder, num_epochs=1)
    train(run)
    best = run.checkpoints.best_file(0)
    best.write_bytes(_flip_last_bit(best.read_bytes()))
    with pytest.raises(TrainingError, match=f"{best.name} is damaged .*; copy .* or delete {folder}") as caught:
        run.checkpoints.load_best(run.network, 0)
    assert caught.value.reason == "bad_checkpoint"
    run.checkpoints.last_file.write_bytes(b"")
    with pytest.raises(TrainingError, match=f"last.* is damaged .*{best.name} is damaged .* or delete {folder}"):
        train(make_run(folder, num_epochs=2))
    shutil.rmtree(folder)
    assert train(make_run(folder, num_epochs=1)) == "all_epochs"


def test_a_checkpoint_of_an_earlier_version_without_a_checksum_resumes(
    make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    whole, stopped = make_run(), make_run(tmp_path / "checkpoints", should_stop=StopAfter(9))
    train(whole)
    train(stopped)
    file = stopped.checkpoints.last_file
    with safe_open(file, framework="pt") as checkpoint:
        metadata = {name: text for name, text in checkpoint.metadata().items() if name != "sha256"}
    save_file(load_file(file), file, metadata)
    resumed = make_run(tmp_path / "checkpoints")
    train(resumed)
    assert passes(stopped) + passes(resumed) == passes(whole)


def test_a_run_resumes_only_with_as_many_processes(make_run: Callable[..., TrainingRun], tmp_path: Path) -> None:
    train(make_run(tmp_path / "checkpoints", should_stop=StopAfter(2)))
    run = make_run(tmp_path / "checkpoints")
    run.ranks = Ranks(0, 0, 2)
    with pytest.raises(UserError, match="as many processes as it began with, 1, but got 2"):
        train(run)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_epoch_and_step(make_run: Callable[..., TrainingRun]) -> None:
    """Six steps an epoch; the loss of the ninth is made infinite, whatever the later losses are."""
    run = make_run()
    loss, calls = run.objective.loss, 0

    def explode(logits_NK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(logits_NK, targets) * (float("inf") if calls == 9 else 1.0)

    run.objective.loss = explode
    with pytest.raises(TrainingError, match=r"loss .* in epoch 2 at step 9; lower learning_rate") as caught:
        train(run)
    assert caught.value.reason == "diverged"


def test_answers_that_are_not_finite_end_the_run_too(make_run: Callable[..., TrainingRun]) -> None:
    """The last step of an epoch may break the weights after a finite loss."""
    run = make_run(num_epochs=1)

    def spoil(*args: object) -> None:
        if run.counters.step == 5:
            run.network[8].bias.data.fill_(float("nan"))

    run.optimizer.register_step_post_hook(spoil)
    with pytest.raises(TrainingError, match=r"answers .* in epoch 1 at step 6") as caught:
        train(run)
    assert caught.value.reason == "diverged"


def test_each_loss_counts_a_share_of_the_step_also_in_the_rest_of_an_epoch(
    make_run: Callable[..., TrainingRun],
) -> None:
    """Six batches in groups of four: the rest, two batches, steps by the sum of two quarters of a gradient."""
    run = make_run(num_epochs=1, accumulation=4, learning_rate=0.01)
    weight = nn.Parameter(torch.zeros(1))
    run.network = _Constant(weight)
    run.objective.loss = lambda logits_NK, targets: (
        logits_NK.sum() / len(targets)
    )  # its gradient is 1 whatever the batch
    run.optimizer = torch.optim.SGD([weight], lr=1.0)
    run.schedule = StepDecay()
    positions = []
    run.optimizer.register_step_post_hook(lambda *args: positions.append(weight.item()))
    train(run)
    assert positions == pytest.approx([-0.01 * 4 / 4, -0.01 * (4 / 4 + 2 / 4)])


def test_the_metrics_of_a_pass_include_those_of_training(make_run: Callable[..., TrainingRun]) -> None:
    run = make_run(num_epochs=1)
    train(run)
    [one] = passes(run)
    assert {"accuracy", "log_loss", "accuracy_train", "log_loss_train", "training_loss"} <= one.keys()
    assert one["training_loss"] == pytest.approx(one["log_loss_train"])
