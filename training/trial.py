"""One trial: `python -m clearsight.training.trial RUN_FOLDER`.

The story: spec, data, network, loop, package. The process is told everything by `spec.json` and tells everything
through the run folder; it never imports mlflow. SIGINT and SIGTERM stop it at the next optimizer step with a
checkpoint (a second signal ends it at once); started again on the same folder it goes on from there.
"""

import json
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

import numpy as np
import torch
from torch import nn

from clearsight.errors import (
    ClearsightError,
    Conflict,
    ExportError,
    InvalidData,
    TrainingError,
    UserError,
    WeightsMissing,
)
from clearsight.exporters.write import write_package
from clearsight.networks.registry import build_network, frozen_prefixes, spec_for
from clearsight.networks.weights import PretrainedRecord, load_pretrained
from clearsight.settings import ClassificationSettings
from clearsight.training.augment import Augmentation
from clearsight.training.checkpoint import Checkpoints, Counters, save_weights
from clearsight.training.early_stopping import EarlyStopping
from clearsight.training.hardware import choose_hardware
from clearsight.training.loop import Ending, LoopOptions, TrainingRun, train
from clearsight.training.losses import build_loss, class_weights
from clearsight.training.optimizer import OptimizerOptions, build_optimizer
from clearsight.training.run_folder import RunFolder, RunStatus, now
from clearsight.training.schedule import Schedule, StepDecay, WarmupCosine
from clearsight.training.trial_data import Sets, TrialRecords, load_records, make_sets
from clearsight.training.trial_spec import TrialSpec
from clearsight.workspace import write_atomically

__all__ = ["EXIT_CODES", "main", "run_trial"]

log = logging.getLogger("clearsight.trial")

EXIT_CODES: Final = {"Completed": 0, "Failed": 1, "Canceled": 130}

_PARITY_IMAGES: Final = 16


def main(args: Sequence[str]) -> int:
    """Run the trial of a run folder; return its exit code."""
    if len(args) != 1:
        sys.stderr.write("usage: python -m clearsight.training.trial RUN_FOLDER\n")
        return 2
    folder = RunFolder(Path(args[0]).absolute())
    try:
        with _stop_signals() as stop:
            status = run_trial(folder, stop)
    except Conflict as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return EXIT_CODES[status.status]


def run_trial(folder: RunFolder, stop: threading.Event) -> RunStatus:
    """Run or go on with a trial; every way it can end is a state of its folder. Setting `stop` cancels it."""
    with folder.own():
        return _run_owned(folder, stop)


def _run_owned(folder: RunFolder, stop: threading.Event) -> RunStatus:
    before = folder.read_status()
    if before.status == "Completed":
        raise Conflict(f"the run {folder.run_id} must not be {before.status.lower()} to be started")
    status = replace(
        before, status="Running", started_at=now(), ended_at=None, pid=os.getpid(), reason=None, message=None
    )
    folder.write_status(status)
    folder.append_event("started", pid=os.getpid())
    try:
        spec = TrialSpec.model_validate_json(folder.spec_file.read_text())
        logging.basicConfig(level=_log_level(spec.log_verbosity), format="%(asctime)s %(levelname)s %(message)s")
        with _reproducible(int(spec.value("random_seed")), spec.deterministic):
            status = _run(folder, spec, status, stop)
    except KeyboardInterrupt:
        status = replace(status, status="Canceled", reason="canceled", message="ended at once by a second signal")
    except Exception as error:
        log.exception("the trial failed")
        reason, message = _explain(error)
        status = replace(status, status="Failed", reason=reason, message=message)
    status = replace(status, ended_at=now())
    folder.write_status(status)
    folder.append_event("ended", status=status.status, reason=status.reason, message=status.message)
    return status


def _run(folder: RunFolder, spec: TrialSpec, status: RunStatus, stop: threading.Event) -> RunStatus:
    records = load_records(spec)
    if records.split is not None:
        write_atomically(folder.outputs / "split.json", json.dumps(records.split))
    model_name = str(spec.value("model_name"))
    network = build_network(model_name, len(records.classes))
    pretrained = load_pretrained(network, model_name, spec.weights_dir, spec.pretrained)
    prefixes = frozen_prefixes(model_name, int(spec.value("layers_to_freeze")))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes or ("\0",)))
    settings = _settings(spec)
    hardware = choose_hardware(network)
    folder.append_event("hardware", **hardware.to_document())
    folder.append_event("weights", **pretrained.to_document())
    seed = int(spec.value("random_seed"))
    augmentation = Augmentation(crop_size=int(spec.value("training_crop_size")), scale=(spec.min_crop_scale, 1.0))
    sets = make_sets(records, spec, settings, augmentation, seed, hardware.num_threads, stop.is_set)
    for warning in (*records.warnings, *sets.warnings):
        folder.append_event("warning", message=warning)
    folder.append_event(
        "data",
        num_training=len(sets.training_records),
        num_validation=len(sets.validation_records),
        classes=records.classes,
        num_batches=sets.training.num_batches,
    )
    network = network.to(hardware.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = TrainingRun(
        task=spec.task,
        network=network,
        optimizer=build_optimizer(network.parameters(), _optimizer_options(spec)),
        schedule=_schedule(spec, sets),
        loss=build_loss(spec.task, _class_weights(spec, records, sets)).to(hardware.device),
        training=sets.training,
        validation=sets.validation,
        early_stopping=_early_stopping(spec),
        options=_loop_options(spec),
        hardware=hardware,
        mean=settings.mean,
        std=settings.std,
        frozen_prefixes=prefixes,
        checkpoints=Checkpoints(folder.checkpoints),
        listener=_Listener(folder, spec.task.primary_metric),
        should_stop=stop.is_set,
    )
    ending = train(run)
    status = replace(status, best_epoch=run.counters.best_epoch, metrics=_best_metrics(folder, run.counters))
    if ending == "canceled":
        message = f"stopped in epoch {run.counters.epoch + 1} at step {run.counters.step}; the checkpoint is kept"
        return replace(status, status="Canceled", reason="canceled", message=message)
    folder.append_event("exporting", best_epoch=run.counters.best_epoch)
    _export(folder, spec, run, records, sets, settings, pretrained)
    return replace(status, status="Completed", reason=ending, message=_ending_message(ending, run))


def _export(
    folder: RunFolder,
    spec: TrialSpec,
    run: TrainingRun,
    records: TrialRecords,
    sets: Sets,
    settings: ClassificationSettings,
    pretrained: PretrainedRecord,
) -> None:
    if run.counters.best_epoch is None:
        raise TrainingError("no_validation", "a trial must have validated at least once before it can be exported")
    run.checkpoints.load_best(run.network, run.counters.best_epoch)
    files = [record.image for record in sets.validation_records]
    files += [record.image for record in sets.training_records][: max(0, _PARITY_IMAGES - len(files))]
    write_package(
        folder.package,
        task=spec.task,
        model_name=str(spec.value("model_name")),
        labels=records.classes,
        network=run.network,
        settings=settings,
        parity_images=files,
        run_id=spec.run_id,
        pretrained=pretrained.to_document(),
        train_artifacts=folder.train_artifacts,
        enable_onnx_normalization=bool(spec.value("enable_onnx_normalization")),
    )


class _Listener:
    """Writes what the loop tells into the run folder."""

    def __init__(self, folder: RunFolder, primary_metric: str) -> None:
        self._folder = folder
        self._primary_metric = primary_metric

    def progress(self, counters: Counters, num_batches: int, loss: float, learning_rate: float) -> None:
        self._folder.append_event(
            "progress",
            epoch=counters.epoch,
            batch=counters.batch,
            num_batches=num_batches,
            step=counters.step,
            loss=loss,
            learning_rate=learning_rate,
        )

    def evaluated(self, counters: Counters, metrics: Mapping[str, float], improved: bool) -> None:
        self._folder.append_metrics(counters.epoch, counters.step, dict(metrics))
        self._folder.append_event("evaluated", epoch=counters.epoch, improved=improved, metrics=dict(metrics))
        log.info("epoch %d: %s %.4f", counters.epoch + 1, self._primary_metric, metrics[self._primary_metric])

    def keep_weights(self, network: nn.Module, epoch: int) -> None:
        save_weights(self._folder.outputs / "checkpoints" / f"model_{epoch}.safetensors", network)


def _settings(spec: TrialSpec) -> ClassificationSettings:
    network = spec_for(str(spec.value("model_name")))
    return ClassificationSettings(
        valid_resize_size=int(spec.value("validation_resize_size")),
        valid_crop_size=int(spec.value("validation_crop_size")),
        mean=network.mean,
        std=network.std,
        interpolation=network.interpolation,
    )


def _optimizer_options(spec: TrialSpec) -> OptimizerOptions:
    return OptimizerOptions(
        name=spec.value("optimizer"),
        learning_rate=float(spec.value("learning_rate")),
        weight_decay=float(spec.value("weight_decay")),
        momentum=float(spec.value("momentum")),
        nesterov=bool(spec.value("nesterov")),
        beta1=float(spec.value("beta1")),
        beta2=float(spec.value("beta2")),
        ams_gradient=bool(spec.value("ams_gradient")),
    )


def _schedule(spec: TrialSpec, sets: Sets) -> Schedule:
    steps_per_epoch = -(-sets.training.num_batches // int(spec.value("gradient_accumulation_step")))
    if spec.value("learning_rate_scheduler") == "step":
        gamma, step_size = float(spec.value("step_lr_gamma")), int(spec.value("step_lr_step_size"))
        return StepDecay(steps_per_epoch, gamma, step_size)
    return WarmupCosine(
        steps_per_epoch,
        num_epochs=int(spec.value("number_of_epochs")),
        warmup_epochs=int(spec.value("warmup_cosine_lr_warmup_epochs")),
        cycles=float(spec.value("warmup_cosine_lr_cycles")),
    )


def _early_stopping(spec: TrialSpec) -> EarlyStopping:
    return EarlyStopping(
        enabled=bool(spec.value("early_stopping")),
        delay=int(spec.value("early_stopping_delay")),
        patience=int(spec.value("early_stopping_patience")),
    )


def _loop_options(spec: TrialSpec) -> LoopOptions:
    frequency = spec.value("checkpoint_frequency")
    return LoopOptions(
        num_epochs=int(spec.value("number_of_epochs")),
        accumulation=int(spec.value("gradient_accumulation_step")),
        learning_rate=float(spec.value("learning_rate")),
        evaluation_frequency=int(spec.value("evaluation_frequency")),
        checkpoint_frequency=None if frequency is None else int(frequency),
    )


def _class_weights(spec: TrialSpec, records: TrialRecords, sets: Sets) -> np.ndarray | None:
    counts = [sum(name in record.labels for record in sets.training_records) for name in records.classes]
    return class_weights(counts, len(sets.training_records), int(spec.value("weighted_loss")))


def _best_metrics(folder: RunFolder, counters: Counters) -> dict[str, float]:
    passes = {one["epoch"]: one["metrics"] for one in folder.read_metrics()}
    return dict(passes[counters.best_epoch]) if counters.best_epoch is not None else {}


def _ending_message(ending: Ending, run: TrainingRun) -> str:
    if ending == "all_epochs":
        return f"all {run.options.num_epochs} epochs are done"
    stale = run.early_stopping.num_stale
    return f"{run.task.primary_metric} did not rise in {stale} validation passes (early stopping)"


def _explain(error: Exception) -> tuple[str, str]:
    """A reason for programs and one line for people."""
    match error:
        case TrainingError():
            return error.reason, str(error)
        case InvalidData():
            return "bad_data", str(error)
        case WeightsMissing():
            return "weights_missing", str(error)
        case ExportError():
            return "export_failed", str(error)
        case UserError():
            return "bad_request", str(error)
        case ClearsightError():
            return "internal_error", str(error)
        case torch.OutOfMemoryError() | MemoryError():
            return (
                "out_of_memory",
                f"the memory must hold one batch, but it does not; lower training_batch_size ({error})",
            )
        case _:
            return "internal_error", f"{type(error).__name__}: {error}; the traceback is in trial.log"


def _log_level(verbosity: str) -> int:
    return logging.INFO if verbosity == "not_set" else int(logging.getLevelNamesMapping()[verbosity.upper()])


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second raises KeyboardInterrupt."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reproducible(seed: int, deterministic: bool) -> Iterator[None]:
    """Seed Python, NumPy and torch; with `deterministic`, kernels whose result does not vary."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Filling every new tensor guards against reading memory before writing it, at 30 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
