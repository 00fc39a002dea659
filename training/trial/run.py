"""One trial: `python -m clearsight.training.trial RUN_FOLDER`.

The steps: spec, options, data, network, loop, package. The process reads everything from `spec.json` and reports
everything through the run folder; it never imports mlflow. SIGINT and SIGTERM stop it at the next optimizer step with a
checkpoint (a second signal ends it at once); started again on the same folder it continues from that checkpoint.

Several processes of one trial (see `environment.launch`) run the same steps; only the first one writes.
"""

import json
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from clearsight import environment
from clearsight.errors import Conflict, ExportError, TrainingError
from clearsight.exporters.write import write_package
from clearsight.files import write_atomically
from clearsight.networks.weights import PretrainedRecord
from clearsight.runs.run_folder import RunFolder, RunStatus, now
from clearsight.tasks import Task
from clearsight.training.classification.trial import ClassificationTrial, classification_options
from clearsight.training.detection.trial import DetectionTrial, detection_options
from clearsight.training.engine.checkpoint import Checkpoints, Counters
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.hardware import choose_hardware
from clearsight.training.engine.intervals import MAX_IMAGES, exact_interval
from clearsight.training.engine.loop import Ending, TrainingRun, smallest_batch, train
from clearsight.training.engine.ranks import Ranks, joined
from clearsight.training.trial.data import Sets, TrialRecords, load_records, make_sets
from clearsight.training.trial.failure import describe_failure, is_out_of_memory
from clearsight.training.trial.options import TrialOptions, warnings_of
from clearsight.training.trial.reporter import Reporter
from clearsight.training.trial.spec import TrialSpec, read_spec
from clearsight.training.trial.task import TrialTask, ValidationPredictions

__all__ = ["EXIT_CODES", "main", "run_trial"]

log = logging.getLogger("clearsight.trial")


@dataclass(frozen=True, slots=True)
class _TrialKind:
    read_options: Callable[[TrialSpec], Any]
    """Options of all components: those of every task as `trial`, those of the task beside it."""
    make: Callable[[Any, TrialRecords], TrialTask[Any, Any]]
    """Makes the components from these options and the records."""


_CLASSIFICATION: Final = _TrialKind(classification_options, ClassificationTrial)
_DETECTION: Final = _TrialKind(detection_options, DetectionTrial)
_TRIAL_KINDS: Final[Mapping[Task, _TrialKind]] = MappingProxyType(
    {
        Task.MULTI_CLASS: _CLASSIFICATION,
        Task.MULTI_LABEL: _CLASSIFICATION,
        Task.DETECTION: _DETECTION,
        Task.SEGMENTATION: _DETECTION,
    }
)

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
    """Run or resume a trial; however it ends, its final status is in its run folder. Setting `stop` cancels it."""
    launch = environment.launch()
    if launch is not None and launch.rank > 0:
        return _run_to_end(folder, RunStatus(), stop, launch)
    with folder.own():
        before = folder.read_status()
        if before.status == "Completed":
            raise Conflict(f"the run {folder.run_id} must not be {before.status.lower()} to be started")
        return _run_to_end(folder, before, stop, launch)


def _run_to_end(
    folder: RunFolder, status: RunStatus, stop: threading.Event, launch: environment.Launch | None
) -> RunStatus:
    reporter = Reporter(folder, is_silent=launch is not None and launch.rank > 0)
    status = replace(
        status, status="Running", started_at=now(), ended_at=None, pid=os.getpid(), reason=None, message=None
    )
    try:
        reporter.status(status)
        reporter.event("started", pid=os.getpid())
        spec = read_spec(folder)
        logging.basicConfig(level=_log_level(spec.log_verbosity), format="%(asctime)s %(levelname)s %(message)s")
        kind = _TRIAL_KINDS[spec.task]
        options = kind.read_options(spec)
        with joined(launch) as ranks, _reproducible(options.trial.batches.seed, spec.deterministic):
            try:
                status = _run(ranks, folder, spec, options.trial, partial(kind.make, options), status, reporter, stop)
            except Exception as error:
                log.exception("the trial failed")
                failure = describe_failure(error, options.trial.batches.training_size, folder.log_file)
                reason, message = ranks.agree_on_failure(*failure)
                status = replace(status, status="Failed", reason=reason, message=message)
    except KeyboardInterrupt:
        status = replace(status, status="Canceled", reason="canceled", message="ended at once by a second signal")
    except Exception as error:
        log.exception("the trial failed")
        reason, message = describe_failure(error, None, folder.log_file)
        status = replace(status, status="Failed", reason=reason, message=message)
    status = replace(status, ended_at=now())
    reporter.status(status)
    with suppress(OSError):  # on a full disk the status alone says how it ended
        reporter.event("ended", status=status.status, reason=status.reason, message=status.message)
    return status


def _run(
    ranks: Ranks,
    folder: RunFolder,
    spec: TrialSpec,
    options: TrialOptions,
    make_task: Callable[[TrialRecords], TrialTask[Any, Any]],
    status: RunStatus,
    reporter: Reporter,
    stop: threading.Event,
) -> RunStatus:
    records = load_records(spec)
    if records.split is not None and ranks.is_first:
        write_atomically(folder.outputs / "split.json", json.dumps(records.split))
    task = make_task(records)
    network = task.network
    pretrained = task.load_weights(ranks.is_first)
    for name, parameter in network.named_parameters():
        if name.startswith(task.frozen_prefixes):
            parameter.requires_grad_(False)
    hardware = choose_hardware(network, ranks.local_rank, ranks.size)
    reporter.event("hardware", **hardware.to_document(), num_processes=ranks.size)
    if pretrained is not None:
        reporter.event("weights", **pretrained.to_document())
        if pretrained.notice is not None:
            reporter.event("warning", message=pretrained.notice)
    smallest = smallest_batch(network, task.frozen_prefixes)
    sets = make_sets(records, task, smallest, hardware.num_threads, folder.root, stop.is_set, ranks)
    for warning in (*sets.warnings, *warnings_of(options)):
        reporter.event("warning", message=warning)
    reporter.event(
        "data",
        num_training=len(sets.training_records),
        num_validation=len(sets.validation_records),
        classes=records.classes,
        num_batches=sets.training.num_batches,
    )
    objective = task.objective(sets, hardware, ranks, reporter.event)
    network.to(hardware.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = TrainingRun(
        objective=objective,
        network=network,
        optimizer=task.optimizer(ranks.size),
        schedule=options.schedule,
        training=sets.training,
        early_stopping=EarlyStopping(options.early_stopping),
        options=options.loop,
        hardware=hardware,
        frozen_prefixes=task.frozen_prefixes,
        checkpoints=Checkpoints(folder.checkpoints, lambda message: reporter.event("warning", message=message)),
        listener=reporter,
        should_stop=stop.is_set,
        average=task.average(options.loop.steps_per_epoch(sets.training.num_batches) * options.loop.num_epochs),
        ranks=ranks,
    )
    ending = train(run)
    metrics, num_validation = _best_metrics(folder, run.counters), len(sets.validation_records)
    status = replace(
        status,
        best_epoch=run.counters.best_epoch,
        metrics=metrics,
        num_validation_images=num_validation,
        intervals_95={"accuracy": exact_interval(metrics["accuracy"], num_validation)} if "accuracy" in metrics else {},
    )
    if ending == "canceled":
        message = f"stopped in epoch {run.counters.epoch + 1} at step {run.counters.step}; the checkpoint is kept"
        return replace(status, status="Canceled", reason="canceled", message=message)
    if pretrained is not None:
        reporter.event("exporting", best_epoch=run.counters.best_epoch)
        _export(folder, spec, options, run, records, sets, task, pretrained)
        predictions = task.predict_validation(run.objective)
        _draw_charts(folder, predictions, reporter)
        if num_validation <= MAX_IMAGES:
            status = replace(status, intervals_95={**status.intervals_95, **predictions.intervals()})
    return replace(status, status="Completed", reason=ending, message=_ending_message(ending, run))


def _export(
    folder: RunFolder,
    spec: TrialSpec,
    options: TrialOptions,
    run: TrainingRun[Any],
    records: TrialRecords,
    sets: Sets[Any, Any],
    task: TrialTask[Any, Any],
    pretrained: PretrainedRecord,
) -> None:
    if run.counters.best_epoch is None:
        raise TrainingError("no_validation", "a trial must have validated at least once before it can be exported")
    run.checkpoints.load_best(run.network, run.counters.best_epoch)
    files = [record.image for record in sets.validation_records]
    files += [record.image for record in sets.training_records][: max(0, _PARITY_IMAGES - len(files))]
    with _as_export_error():
        write_package(
            folder.package,
            task=spec.task,
            model_name=options.model.name,
            labels=records.classes,
            network=run.network,
            settings=task.settings,
            parity_images=files,
            run_id=spec.run_id,
            pretrained=pretrained.to_document(),
            train_artifacts=folder.train_artifacts,
            enable_onnx_normalization=options.model.enable_onnx_normalization,
        )


def _draw_charts(folder: RunFolder, predictions: ValidationPredictions, reporter: Reporter) -> None:
    """Draw the charts of the best weights; an error in drawing is a warning, since the package is complete."""
    try:
        predictions.draw_charts(folder.metrics)
    except Exception as error:  # whatever matplotlib and fonts raise
        log.exception("the charts could not be drawn")
        reporter.event("warning", message=f"the charts could not be drawn: {type(error).__name__}: {error}")


@contextmanager
def _as_export_error() -> Iterator[None]:
    """Turn every error of an exporter into `ExportError`, except for out of memory, whose remedy is another one."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ExportError(f"the package could not be written: {type(error).__name__}: {error}") from error


def _best_metrics(folder: RunFolder, counters: Counters) -> dict[str, float]:
    passes = {one["epoch"]: one["metrics"] for one in folder.read_metrics()}
    return dict(passes[counters.best_epoch]) if counters.best_epoch in passes else {}


def _ending_message(ending: Ending, run: TrainingRun[Any]) -> str:
    if ending == "all_epochs":
        return f"all {run.options.num_epochs} epochs are done"
    stale = run.early_stopping.num_stale
    return f"{run.objective.primary_metric} did not rise in {stale} validation passes (early stopping)"


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
    # The fastest kernels of cuDNN, found by trying, may differ from run to run.
    torch.backends.cudnn.benchmark = not deterministic
    # Filling every new tensor guards against reading memory before writing it, at 30 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
