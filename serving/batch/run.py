"""One batch job from its plan to its results: `python -m clearsight.serving.batch.run RUN_FOLDER`."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from clearsight.errors import ClearsightError, UserError
from clearsight.executor import Executor
from clearsight.executor.local import Local
from clearsight.files import os_error_message
from clearsight.runs.job_process import exit_code
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import RunFolder, State, now
from clearsight.runs.stop_requests import StopRequests, graceful_shutdown
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.controller import BatchController, BatchCounts, Canceled, EventSink, TooManyFailures
from clearsight.serving.batch.entries import Listing
from clearsight.serving.batch.inputs.opening import open_input
from clearsight.serving.batch.parts import Outcome, Parts
from clearsight.serving.batch.plan import BatchPlan, fingerprint_of, read_plan, require_same, set_log_level
from clearsight.serving.batch.results.forms import FORMS
from clearsight.serving.batch.results.rows import RowLayout
from clearsight.serving.batch.results.summary import Overview, Summary, summarize, write_overview, write_summary
from clearsight.serving.batch.results.write import FAILED_FILES, write_results

__all__ = ["BatchEnding", "main", "run_batch"]

log = logging.getLogger("clearsight.batch")  # as a program, this module is `__main__`

_NOTHING_SCORED: Final = "No succeeded mini batch item returned from run()."
"""Beginning of Azure's message for a job without a single answer."""


@dataclass(frozen=True, slots=True)
class BatchEnding:
    """How a batch job ended."""

    state: State
    reason: str
    """For programs: `done`, `canceled`, `error_threshold`, `no_answers`, `bad_input`, `error`."""
    message: str
    summary: Summary | None = None
    """Of a job whose results were written."""


def main(args: Sequence[str]) -> int:
    """Run the batch job of a run folder; return the exit code of its final state."""
    folder = RunFolder(Path(args[0]).absolute())
    with graceful_shutdown() as stop:
        try:
            set_log_level(read_plan(folder))
            ending = run_batch(folder, Local(), stop)
        except ClearsightError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return exit_code(ending.state)


def run_batch(
    folder: RunFolder, executor: Executor, stop: StopRequests, on_event: EventSink = lambda kind, **fields: None
) -> BatchEnding:
    """Run or resume a batch job; however it ends, its final status is in its run folder.

    `on_event` is called with every event after it was written. Raises `Conflict` when another process works on it.
    """
    started = datetime.now(UTC)

    progress: dict[str, Any] = {}

    def publish(kind: str, **fields: Any) -> None:
        folder.append_event(kind, **fields)
        if kind == "progress":
            progress.update(fields)
            _write_overview(folder, "Running", fields, started)
        on_event(kind, **fields)

    with folder.own():
        status = replace(folder.read_status(), started_at=now(), ended_at=None, pid=os.getpid(), reason=None)
        folder.write_status(replace(status, status="Running", message=None))
        publish("started", pid=os.getpid())
        ending = _end(folder, executor, stop, publish)
        status = replace(status, status=ending.state, ended_at=now(), reason=ending.reason, message=ending.message)
        folder.write_status(status)
        if progress:
            _write_overview(folder, ending.state, progress, started)
        publish("ended", status=ending.state, reason=ending.reason, message=ending.message)
        return ending


def _end(folder: RunFolder, executor: Executor, stop: StopRequests, publish: EventSink) -> BatchEnding:
    """Run the job and turn every error into the way it ended."""
    try:
        return _run(folder, executor, stop, publish)
    except Canceled:
        return BatchEnding("Canceled", "canceled", "stopped; what was scored is kept")
    except TooManyFailures as error:
        return BatchEnding("Failed", "error_threshold", str(error))
    except UserError as error:
        return BatchEnding("Failed", "bad_input", str(error))
    except ClearsightError as error:
        return BatchEnding("Failed", "error", str(error))
    except OSError as error:
        log.exception("the batch job failed")
        return BatchEnding("Failed", "error", os_error_message(error))
    except Exception as error:
        log.exception("the batch job failed")
        return BatchEnding("Failed", "internal_error", f"{type(error).__name__}: {error}; its log is {folder.log_file}")


def _run(folder: RunFolder, executor: Executor, stop: StopRequests, publish: EventSink) -> BatchEnding:
    started = datetime.now(UTC)
    plan = read_plan(folder)
    package = ModelPackage.open(plan.package)
    require_same(plan.fingerprint, fingerprint_of(plan, package), folder.run_id)
    listing = Listing(folder.root)
    if not listing.exists():
        _list_entries(plan, listing, publish)
    publish("data", total=listing.num_entries)
    is_retry = folder.retry_failed_file.exists()
    if is_retry:
        _forget_failures(Parts(folder.parts), listing.num_parts)
    counts = BatchController(folder, plan, executor, publish, stop).run()
    publish("exporting")
    summary = _write(folder, plan, package, started, counts, replaces=is_retry)
    folder.retry_failed_file.unlink(missing_ok=True)
    if summary.num_ok == 0:
        message = f"{_NOTHING_SCORED} None of {counts.total} files could be scored; {FAILED_FILES} says why"
        return BatchEnding("Failed", "no_answers", message, summary)
    failed = f", {counts.failed} failed (see {FAILED_FILES})" if counts.failed else ""
    where = summary.output_file or plan.output_file.parent
    message = f"{summary.num_ok} of {counts.total} scored{failed}; results: {where}"
    return BatchEnding("Completed", "done", message, summary)


def _write_overview(folder: RunFolder, state: str, progress: Mapping[str, Any], started: datetime) -> None:
    """Write `logs/job_progress_overview.txt` of a progress event."""
    overview = Overview(
        state=state,
        num_rows=progress["total"],
        num_ok=progress["done"] - progress["failed"],
        num_failed=progress["failed"],
        mini_batches=progress["parts"],
        mini_batches_done=progress["parts_done"],
        num_earlier=progress["earlier"],
        started=started,
        updated=datetime.now(UTC),
    )
    write_overview(folder.root / "logs", overview)


def _forget_failures(parts: Parts, num_parts: int) -> None:
    """Remove the parts in which an entry has no answer."""
    for part, is_done in enumerate(parts.done(num_parts)):
        if is_done and parts.num_failed(part) != 0:
            parts.remove(part)


def _write(
    folder: RunFolder, plan: BatchPlan, package: ModelPackage, started: datetime, done: BatchCounts, *, replaces: bool
) -> Summary:
    """Write the results, the failures, and the summary beside them. `replaces`: those of an earlier attempt."""
    form, target = plan.form() if done.failed < done.total else FORMS["none"], plan.output_file
    target.parent.mkdir(parents=True, exist_ok=True)
    layout, logs = RowLayout(package.task, plan.is_recursive, plan.rows.answer_keys(package.task)), folder.root / "logs"
    counts = write_results(_outcomes(folder), form, layout, target, logs, replaces=replaces)
    summary = summarize(
        counts,
        started,
        datetime.now(UTC),
        form=form.name,
        output_file=None if form.rows is None else target,
        package=str(plan.package),
        backend=plan.backend,
        precision=plan.precision,
        num_earlier=done.earlier,
    )
    write_summary(target.parent, summary)
    return summary


def _list_entries(plan: BatchPlan, listing: Listing, publish: EventSink) -> None:
    """Write the fixed list of the entries. Raises `UserError` for an input without images."""
    found = open_input(
        plan.inputs,
        plan.input_folder,
        Workspace.default(),
        input_type=plan.input_type,
        is_recursive=plan.is_recursive,
    )
    count = listing.write(found.entries(), plan.part_size)
    for warning in found.warnings:
        publish("warning", message=warning)
    if count == 0:
        raise UserError(f"the input of a batch job must hold pictures, but {found.describe()} has none")


def _outcomes(folder: RunFolder) -> Iterator[Outcome]:
    parts = Parts(folder.parts)
    for part in range(Listing(folder.root).num_parts):
        yield from parts.outcomes(part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
