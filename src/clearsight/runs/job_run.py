"""One running job: start its trials, follow them, mirror them into MLflow, and write how the job ended.

A resumed job runs through the same steps; trials that are completed are not run again. The process holds the lock of
the job's run folder and does not import torch. However this process ends, its trials notice it and stop, with a
checkpoint once they train, so a job can always be resumed.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from clearsight.errors import ClearsightError, InvalidPackage
from clearsight.executor import Executor, ProcessIdentity
from clearsight.files import is_disk_full
from clearsight.runs.describe import describe_job, how_to_resume
from clearsight.runs.kinds import JOB_KINDS
from clearsight.runs.mlflow_mirror import BEST_CHILD_TAG, MlflowMirror
from clearsight.runs.outputs import copy_folder
from clearsight.runs.package import ModelPackage
from clearsight.runs.record import JobRecord, read_record
from clearsight.runs.run_folder import RunFolder, RunStatus, State, now
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.trial_ending import StopReason, log_tail
from clearsight.runs.trial_run import TrialRun
from clearsight.runs.trials import best_trial, trial_folders
from clearsight.runs.workspace import Workspace

__all__ = ["CANCEL_GRACE_S", "JobRun", "run_job"]

CANCEL_GRACE_S: Final = 60.0
"""Seconds that a trial gets to reach an optimizer step and write its checkpoint."""

_POLL_S: Final = 0.2
_STATE_AFTER: Final[Mapping[str, State]] = {"started": "Preparing", "data": "Running", "exporting": "Finalizing"}
"""State of a job with one trial after an event of the trial."""

EventSink = Callable[[Mapping[str, Any]], None]


def run_job(
    workspace: Workspace, name: str, executor: Executor, on_event: EventSink, stop: StopRequests
) -> dict[str, Any]:
    """Run a job, which this process has locked, to its end; return its description (`describe_job`).

    `on_event` gets every event of the job and its trials from now on. A stop request cancels the trials, which keep
    their checkpoints; the job is then `Canceled`. Raises `ClearsightError` when a run folder cannot be written.
    """
    record = read_record(workspace, name)
    try:
        return JobRun(workspace, record, executor, on_event, stop).run()
    except OSError as error:
        message = (
            f"the run folder {workspace.runs / name} must be writable while a job runs, but: {error}; when that is "
            f"mended, {how_to_resume(workspace, record)}"
        )
        folder = RunFolder(workspace.runs / name)
        reason = "disk_full" if is_disk_full(error) else "internal_error"
        with contextlib.suppress(OSError):
            folder.write_status(
                replace(folder.read_status(), status="Failed", ended_at=now(), reason=reason, message=message)
            )
        raise ClearsightError(message) from error


class JobRun:
    """The state of a running job: its status, its trials, its deadline, and its MLflow mirror."""

    def __init__(
        self, workspace: Workspace, record: JobRecord, executor: Executor, on_event: EventSink, stop: StopRequests
    ) -> None:
        self._workspace = workspace
        self._record = record
        self._executor = executor
        self._on_event = on_event
        self._stop = stop
        self._folder = RunFolder(workspace.runs / record.name)
        self._trials = [TrialRun(record, folder) for folder in trial_folders(workspace, record)]
        self._running: dict[str, TrialRun] = {}  # by task id
        self._mirror = MlflowMirror(workspace, record.experiment_name)
        self._status = RunStatus()

    def run(self) -> dict[str, Any]:
        """Run the job to its end; return its description."""
        self._status = replace(
            self._folder.read_status(), status="Starting", pid=os.getpid(), process=ProcessIdentity.of(os.getpid())
        )
        self._status = replace(self._status, started_at=self._status.started_at or now())
        self._folder.write_status(self._status)
        self._start_mirror(exists_ok=self._folder.events_file.exists())
        self._folder.append_event("attempt", pid=os.getpid())
        for trial in self._trials:
            trial.skip_events()
        unfinished = []
        for trial in self._trials:
            status = trial.folder.read_status()
            if status.status == "Completed":  # completed in an earlier attempt, which ended before it could write that
                self._mirror.end_run(trial.run_id, status.status, status.ended_at, {})
            else:
                unfinished.append(trial)
        stop_reason = self._run_trials(unfinished)
        best = best_trial(self._record, [trial.folder for trial in self._trials])
        if best is not None:
            self._copy_best_model(best)
        self._end(best, stop_reason)
        return describe_job(self._workspace, self._record.name)

    def _start_mirror(self, exists_ok: bool) -> None:
        tags = {key: value or "" for key, value in self._record.tags.items()}
        self._mirror.start_run(self._folder, tags, {}, exists_ok=exists_ok)
        for trial in self._trials:
            trial.start_mirror(self._mirror, exists_ok)

    def _run_trials(self, trials: list[TrialRun]) -> StopReason | None:
        """Run trials in their order, some at the same time, until all have ended; return why they were stopped.

        They are stopped on request and at the deadline; those that were not submitted by then become `Canceled`.
        """
        deadline = time.monotonic() + 60 * self._record.timeout_minutes
        pending = deque(trials)
        stop_reason: StopReason | None = None
        try:
            while self._running or (pending and stop_reason is None):
                while pending and stop_reason is None and len(self._running) < self._record.max_concurrent_trials:
                    self._running[pending[0].submit(self._executor)] = pending[0]
                    pending.popleft()
                ended = self._executor.wait(_POLL_S)
                for trial in self._running.values():
                    self._publish_new_events(trial, is_last=not pending and len(self._running) == 1)
                for one in ended:
                    self._conclude_trial(self._running.pop(one.task_id), one.code, stop_reason)
                if stop_reason is None and (self._running or pending):
                    stop_reason = self._stop_if_due(deadline)
                if self._stop.is_urgent:
                    self._cancel_running(0)
        except BaseException:
            self._cancel_running(CANCEL_GRACE_S)
            while self._running:
                for one in self._executor.wait(_POLL_S):
                    self._running.pop(one.task_id, None)
            raise
        for trial in pending:
            self._conclude_trial(trial, 0, stop_reason)
        return stop_reason

    def _stop_if_due(self, deadline: float) -> StopReason | None:
        """Cancel the running trials when a stop was requested or the time is over; return which of both, if any."""
        if not self._stop.is_requested and time.monotonic() <= deadline:
            return None
        reason: StopReason = "canceled" if self._stop.is_requested else "timeout"
        self._cancel_running(CANCEL_GRACE_S)
        self._set_state("CancelRequested")
        self._publish("canceling", reason=reason)
        return reason

    def _cancel_running(self, grace_s: float) -> None:
        for task_id in self._running:
            self._executor.cancel(task_id, grace_s)

    def _publish_new_events(self, trial: TrialRun, is_last: bool) -> None:
        for event in trial.new_events():
            if event["kind"] == "evaluated":
                self._mirror.log_metrics(trial.run_id, event["metrics"], event["epoch"])
            if event["kind"] in _STATE_AFTER:
                self._advance(_STATE_AFTER[event["kind"]], is_last)
            self._on_event(event)

    def _advance(self, state: State, is_last: bool) -> None:
        """Set the state of the job after an event of a trial; a job trains until its last trial is exported."""
        goes_back = state == "Preparing" and self._status.status == "Running"
        if not goes_back and (is_last or state != "Finalizing"):
            self._set_state(state)

    def _set_state(self, state: State) -> None:
        if self._status.status not in (state, "CancelRequested"):
            self._status = replace(self._status, status=state)
            self._folder.write_status(self._status)

    def _publish(self, kind: str, **fields: Any) -> None:
        """Append an event to those of the job, so that `job stream` shows it, and pass it on.

        These events only explain; where they cannot be written, the job goes on to its status.
        """
        with contextlib.suppress(OSError):
            self._folder.append_event(kind, **fields)
        self._on_event({"kind": kind, **fields})

    def _conclude_trial(self, trial: TrialRun, code: int, stop_reason: StopReason | None) -> None:
        reported = trial.folder.read_status()
        status = trial.conclude(code, stop_reason)
        if status.status == "Failed" and status != reported:
            log_file = trial.folder.log_file
            self._publish("log", file=str(log_file), lines=log_tail(log_file))
        self._mirror.end_run(trial.run_id, status.status, status.ended_at, {})

    def _copy_best_model(self, best: RunFolder) -> None:
        target = self._record.best_model_path
        if target is None:
            return
        try:
            if target.is_dir() and ModelPackage.open(target).run_id == best.run_id:
                return  # the package was copied before an interruption
        except InvalidPackage:
            pass
        try:
            copy_folder(best.package, target)
        except OSError as error:
            self._publish("warning", message=f"outputs.best_model could not be written: {error}")

    def _copy_charts(self, best: RunFolder) -> None:
        """Copy the charts of the best trial to the job's folder, where MLflow shows them as artifacts of the job."""
        if self._folder.metrics.exists() or not best.metrics.is_dir():
            return
        try:
            copy_folder(best.metrics, self._folder.metrics)
        except OSError as error:
            self._publish("warning", message=f"the charts of the best trial could not be copied: {error}")

    def _end(self, best: RunFolder | None, stop_reason: StopReason | None) -> None:
        """Write the final status of the job, that of its best trial; without one, that of the last trial.

        A job that is stopped by its time limit is completed when one of its trials is; one that was canceled is not,
        unless all of them are.
        """
        trial = (best or self._trials[-1].folder).read_status()
        state, reason, message = trial.status, trial.reason, trial.message
        unfinished = [status for one in self._trials if (status := one.folder.read_status()).status != "Completed"]
        if best is not None and stop_reason == "canceled" and unfinished:
            state, reason, message = "Canceled", unfinished[-1].reason, unfinished[-1].message
        if stop_reason == "timeout" and state == "Canceled":  # no trial completed in time
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
            num_validation_images=trial.num_validation_images,
            intervals_95=trial.intervals_95,
        )
        tags = {}
        if best is not None and state == "Completed":
            tags = {BEST_CHILD_TAG: best.run_id} if JOB_KINDS[self._record.type].output == "best_model" else {}
            self._mirror.log_metrics(self._folder.run_id, trial.metrics, trial.best_epoch or 0)
            self._copy_charts(best)
        self._mirror.end_run(self._folder.run_id, state, self._status.ended_at, tags)
        failure = self._mirror.close()
        if failure is not None:
            reason = (str(failure) or type(failure).__name__).splitlines()[0]
            self._publish("warning", message=f"the run folder is complete, but its MLflow mirror is not: {reason}")
        self._folder.write_status(self._status)
