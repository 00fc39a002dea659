"""One job at work: start the trial, follow it, mirror it, say how it ended. Taking a job up again is the same story.

This process owns the job's folder; it imports no torch. Whatever ends it, the trial notices and stops with a
checkpoint once it has begun to train, so a job can always be taken up.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from clearsight import environment
from clearsight.errors import ClearsightError, InvalidPackage
from clearsight.executor import Executor, ProcessIdentity, TaskSpec
from clearsight.runs.mlflow_mirror import BEST_CHILD_TAG, MlflowMirror
from clearsight.runs.outputs import copy_folder
from clearsight.runs.package import ModelPackage
from clearsight.runs.record import JobRecord, describe_job, how_to_resume, read_record, read_spec
from clearsight.runs.run_folder import EventReader, RunFolder, RunStatus, State, now
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.trial_ending import StoppedFor, last_lines, trial_ending
from clearsight.runs.workspace import Workspace

__all__ = ["CANCEL_GRACE_S", "run_job"]

CANCEL_GRACE_S: Final = 60.0
"""How long a trial may take to reach an optimizer step and write its checkpoint."""

_POLL_S: Final = 0.2
_TRIAL_ENVIRONMENT: Final = {
    # Threads that wait must sleep: beside any other load, spinning ones made a step of mobilenetv2 three times as slow
    # and cost four times the CPU (measured on two cores); on an idle machine there is no difference.
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace (PyTorch's notes)
}
_STATE_AT: Final[Mapping[str, State]] = {"started": "Preparing", "data": "Running", "exporting": "Finalizing"}
"""The job's state after an event of its trial."""

Listener = Callable[[Mapping[str, Any]], None]


def run_job(
    workspace: Workspace, name: str, executor: Executor, on_event: Listener, stop: StopRequests
) -> dict[str, Any]:
    """Run a job that this process owns to its end; return what `describe_job` says then.

    `on_event` hears every event of the trial from now on. A stop request cancels the trial, which keeps a checkpoint;
    the job is then `Canceled`. Raises `ClearsightError` when the run folder cannot be written.
    """
    record = read_record(workspace, name)
    try:
        return _JobAtWork(workspace, record, executor, on_event, stop).run()
    except OSError as error:
        raise ClearsightError(
            f"the run folder {workspace.runs / name} must be writable while a job runs, but: {error}; when that is "
            f"mended, {how_to_resume(workspace, record)}"
        ) from error


class _JobAtWork:
    """What belongs together while a job runs."""

    def __init__(
        self, workspace: Workspace, record: JobRecord, executor: Executor, on_event: Listener, stop: StopRequests
    ) -> None:
        self._record = record
        self._executor = executor
        self._on_event = on_event
        self._stop = stop
        self._job = RunFolder(workspace.runs / record.name)
        self._trial = RunFolder(workspace.runs / record.trials[0])
        self._reader = EventReader(self._trial)
        self._mirror = MlflowMirror(workspace, record.experiment_name)
        self._workspace = workspace
        self._status = RunStatus()

    def run(self) -> dict[str, Any]:
        self._status = replace(
            self._job.read_status(), status="Starting", pid=os.getpid(), process=ProcessIdentity.of(os.getpid())
        )
        self._status = replace(self._status, started_at=self._status.started_at or now())
        self._job.write_status(self._status)
        self._start_mirror(exists_ok=self._job.events_file.exists())
        self._job.append_event("attempt", pid=os.getpid())
        for _ in self._reader.new():  # those of earlier attempts were told then
            pass
        stopped_for: StoppedFor | None = None
        if self._trial.read_status().status != "Completed":  # its job may have been lost right after it
            code, stopped_for = self._follow(self._submit())
            self._publish_new_events()
            self._conclude_trial(code, stopped_for)
        self._copy_best_model()
        self._end(stopped_for)
        return describe_job(self._workspace, self._record.name)

    def _start_mirror(self, exists_ok: bool) -> None:
        spec = read_spec(self._trial)
        tags = {key: value or "" for key, value in self._record.tags.items()}
        self._mirror.start_run(self._job, tags, {}, exists_ok=exists_ok)
        params = {name: str(one.value) for name, one in spec.hyperparameters.items() if one.value is not None}
        model_name = {"model_name": str(spec.value("model_name"))}
        self._mirror.start_run(self._trial, model_name, params, parent=self._record.name, exists_ok=exists_ok)

    def _submit(self) -> str:
        record = self._record
        variables = {name: value or "" for name, value in record.environment_variables.items()}
        threads = {}
        if record.num_processes > 1 and environment.num_threads() is None:
            threads = {"OMP_NUM_THREADS": str(max(1, _num_cores() // record.num_processes))}
        task = TaskSpec(
            "clearsight.training.trial",
            (str(self._trial.root),),
            self._trial.log_file,
            {**_TRIAL_ENVIRONMENT, **threads, **variables},
            record.num_processes,
        )
        return self._executor.submit(task)

    def _follow(self, task_id: str) -> tuple[int, StoppedFor | None]:
        """Wait for the end of the trial; stop it when asked to or when the time is over. Its code, and why."""
        deadline = time.monotonic() + 60 * self._record.timeout_minutes
        stopped_for: StoppedFor | None = None
        try:
            while not (ended := self._executor.wait(_POLL_S)):
                self._publish_new_events()
                if stopped_for is None and (self._stop.is_asked or time.monotonic() > deadline):
                    stopped_for = "canceled" if self._stop.is_asked else "timeout"
                    self._executor.cancel(task_id, CANCEL_GRACE_S)
                    self._set_state("CancelRequested")
                    self._publish("canceling", reason=stopped_for)
                if self._stop.is_urgent:
                    self._executor.cancel(task_id, 0)
        except BaseException:
            self._executor.cancel(task_id, CANCEL_GRACE_S)
            while not self._executor.wait(_POLL_S):
                pass
            raise
        return ended[0].code, stopped_for

    def _publish_new_events(self) -> None:
        for event in self._reader.new():
            if event["kind"] == "evaluated":
                self._mirror.log_metrics(self._trial.run_id, event["metrics"], event["epoch"])
            if event["kind"] in _STATE_AT:
                self._set_state(_STATE_AT[event["kind"]])
            self._on_event(event)

    def _publish(self, kind: str, **fields: Any) -> None:
        """An event of the job itself: kept, so that `job stream` shows it, and told."""
        self._job.append_event(kind, **fields)
        self._on_event({"kind": kind, **fields})

    def _set_state(self, state: State) -> None:
        if self._status.status not in (state, "CancelRequested"):
            self._status = replace(self._status, status=state)
            self._job.write_status(self._status)

    def _conclude_trial(self, code: int, stopped_for: StoppedFor | None) -> None:
        said = self._trial.read_status()
        status = trial_ending(said, self._trial, code, stopped_for)
        if status == said:
            return
        self._trial.write_status(status)
        if status.status == "Failed":
            self._publish("log", file=str(self._trial.log_file), lines=last_lines(self._trial.log_file))

    def _copy_best_model(self) -> None:
        target = self._record.best_model_path
        if self._trial.read_status().status != "Completed" or target is None or self._is_copied(target):
            return
        try:
            copy_folder(self._trial.package, target)
        except OSError as error:
            self._publish("warning", message=f"outputs.best_model could not be written: {error}")

    def _is_copied(self, target: Path) -> bool:
        """Whether the copy was made before an interruption."""
        try:
            return target.is_dir() and ModelPackage.open(target).run_id == self._trial.run_id
        except InvalidPackage:
            return False

    def _end(self, stopped_for: StoppedFor | None) -> None:
        trial = self._trial.read_status()
        state, reason, message = trial.status, trial.reason, trial.message
        if stopped_for == "timeout" and state == "Canceled":  # no trial completed in time
            state = "Failed"
            message = f"limits.timeout_minutes, {self._record.timeout_minutes}, were over: {message}"
        self._status = replace(
            self._status,
            status=state,
            ended_at=now(),
            reason=reason,
            message=message,
            best_epoch=trial.best_epoch,
            metrics=trial.metrics,
        )
        best = {BEST_CHILD_TAG: self._trial.run_id} if state == "Completed" else {}
        self._mirror.end_run(self._trial.run_id, trial.status, trial.ended_at, {})
        self._mirror.end_run(self._job.run_id, state, self._status.ended_at, best)
        failure = self._mirror.close()
        if failure is not None:
            self._publish("warning", message=f"the run folder is complete, but its MLflow mirror is not: {failure}")
        self._job.write_status(self._status)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
