"""The controller of a batch job: hands ranges of the list to workers, and decides what becomes of those that fail.

A worker that dies, takes too long or raises an error loses only the range that it was scoring. That range is halved
until one entry is left, which is tried again up to `max_retries` times and then recorded as failed: one image that
kills its process costs no other image its answer. Everything that counts stands in files, so that a job whose
processes were killed goes on where it was.
"""

import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Final

from clearsight.errors import ClearsightError
from clearsight.executor import Executor, Resources, TaskSpec
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.trial_ending import log_tail
from clearsight.serving.batch.entries import Listing
from clearsight.serving.batch.mailbox import Mailbox
from clearsight.serving.batch.parts import PartRange, Parts, encode_outcome
from clearsight.serving.batch.plan import BatchPlan

__all__ = ["BatchController", "BatchCounts", "Canceled", "EventSink", "TooManyFailures"]

_POLL_S: Final = 0.01
_QUEUED: Final = 2
"""Ranges that a worker has at a time: one that it scores, one whose files it reads meanwhile."""
_MAX_STARTS: Final = 3
"""Workers in a row that may end before they are ready; the last one's reason is the job's."""
_COUNTED_PER_ROUND: Final = 200
"""Parts of earlier attempts whose failures are counted between two looks at the workers."""
_PROGRESS_S: Final = 1.0

EventSink = Callable[..., None]
"""Publishes an event: name, then its fields by keyword; `RunFolder.append_event`."""


class Canceled(ClearsightError):
    """A stop was requested; all committed parts are kept."""


class TooManyFailures(ClearsightError):
    """More entries failed than `error_threshold` allows."""


@dataclass(slots=True)
class BatchCounts:
    """How far a batch job is."""

    total: int
    done: int = 0
    """Entries in committed parts."""
    failed: int = 0
    """Entries among them without an answer."""
    earlier: int = 0
    """Entries among those that are done of earlier attempts."""
    parts: int = 0
    parts_done: int = 0
    num_starts: int = 0
    """Workers that were started."""


@dataclass(slots=True)
class _Worker:
    mailbox: Mailbox
    ranges: deque[PartRange] = field(default_factory=deque)
    """Assigned and not done, in order; the first is being scored once `began_at` is set."""
    began_at: float | None = None
    is_ready: bool = False
    is_alone: bool = False
    """Whether its range is scored without another one in the queue, since it was in a worker that died."""
    is_stopping: bool = False
    reason: tuple[str, str] | None = None
    """Code and sentence of why it was ended, or says that it cannot start."""


class BatchController:
    """Scores what is not scored yet. The caller holds the lock of the run folder and has written the listing."""

    def __init__(
        self, folder: RunFolder, plan: BatchPlan, executor: Executor, publish: EventSink, stop: StopRequests
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._executor = executor
        self._publish = publish
        self._stop = stop
        self._listing = Listing(folder.root)
        self._parts = Parts(folder.parts)
        self._mail = folder.root / "workers"
        self._workers: dict[str, _Worker] = {}  # by task id
        self._again: deque[PartRange] = deque()
        """Ranges that were in a worker that died, or are halves of one that failed; scored before any new part."""
        self._attempts: defaultdict[PartRange, int] = defaultdict(int)
        self._finished: defaultdict[int, list[PartRange]] = defaultdict(list)
        """Committed ranges of parts that were halved."""
        self._failed_starts = 0
        self.counts = BatchCounts(self._listing.num_entries, parts=self._listing.num_parts)

    def run(self) -> BatchCounts:
        """Score until every part is committed.

        Raises `Canceled`, `TooManyFailures`, and `ClearsightError` when no worker can work.
        """
        shutil.rmtree(self._mail, ignore_errors=True)
        flags = self._parts.done(self._listing.num_parts)
        committed = (part for part, flag in enumerate(flags) if flag)
        new = (PartRange(part, 0, self._size(part)) for part, flag in enumerate(flags) if not flag)
        self._loop(new, committed)
        while torn := [part for part in range(self._listing.num_parts) if self._parts.num_failed(part) is None]:
            for part in torn:  # by a power failure: a whole part says so itself
                self._parts.remove(part)
                self.counts.done -= self._size(part)
                self.counts.parts_done -= 1
            self._loop((PartRange(part, 0, self._size(part)) for part in torn), iter(()))
        return self.counts

    def _loop(self, new: Iterator[PartRange], committed: Iterator[int]) -> None:
        pending = _Peekable(new)
        published_at = time.monotonic()
        try:
            while self._again or pending or self._is_busy():
                if self._stop.is_requested:
                    raise Canceled("a stop was requested")
                self._start_workers(pending)
                self._assign(pending)
                ended = self._executor.wait(_POLL_S)
                for worker in self._workers.values():
                    self._read_mail(worker)
                self._end_late_workers()
                for one in ended:
                    self._bury(self._workers.pop(one.task_id), one.code)
                for _, part in zip(range(_COUNTED_PER_ROUND), committed, strict=False):
                    self._count_earlier(part)
                self._check_threshold()
                if time.monotonic() - published_at >= _PROGRESS_S:
                    published_at = time.monotonic()
                    self._publish_progress()
            for part in committed:
                self._count_earlier(part)
            self._check_threshold()
        finally:
            self._dismiss()
        self._publish_progress()

    def _is_busy(self) -> bool:
        return any(worker.ranges for worker in self._workers.values())

    def _size(self, part: int) -> int:
        return min(self._listing.part_size, self._listing.num_entries - part * self._listing.part_size)

    def _start_workers(self, pending: "_Peekable") -> None:
        while len(self._workers) < self._plan.num_workers and (self._again or pending):
            self.counts.num_starts += 1
            name = str(self.counts.num_starts)
            task = TaskSpec(
                "clearsight.serving.batch.worker",
                (str(self._folder.root), name),
                self._folder.log_file,
                self._plan.environment_variables,
                Resources(num_cores=self._plan.num_threads),
            )
            mailbox = Mailbox(self._mail, name, for_worker=False)
            self._workers[self._executor.submit(task)] = _Worker(mailbox)

    def _assign(self, pending: "_Peekable") -> None:
        for worker in self._workers.values():
            if self._again:
                if not worker.ranges:
                    worker.is_alone = True  # what kills the worker is then certain
                    self._send(worker, self._again.popleft())
                continue
            if worker.ranges and worker.is_alone:
                continue
            worker.is_alone = False
            while len(worker.ranges) < _QUEUED and pending:
                self._send(worker, next(pending))

    def _send(self, worker: _Worker, where: PartRange) -> None:
        worker.ranges.append(where)
        worker.mailbox.send("score", part=where.part, start=where.start, stop=where.stop)

    def _read_mail(self, worker: _Worker) -> None:
        for message in worker.mailbox.receive():
            match message["kind"]:
                case "ready":
                    worker.is_ready, self._failed_starts = True, 0
                    self._publish("worker", batch_rule=message["batch_rule"], num_threads=message["num_threads"])
                case "unable":
                    worker.reason = ("error", message["error"])
                case "began":
                    worker.began_at = time.monotonic()
                case "done":
                    self._take_done(worker.ranges.popleft(), message["num_failed"])
                    worker.began_at = None
                case "cannot_write":
                    raise ClearsightError(f"the files of the results cannot be written: {message['error']}")
                case "failed":
                    worker.began_at = None
                    self._take_failed(worker.ranges.popleft(), "error", message["error"])

    def _take_done(self, where: PartRange, num_failed: int) -> None:
        size = self._size(where.part)
        if where.stop - where.start < size:
            finished = self._finished[where.part]
            finished.append(where)
            if sum(one.stop - one.start for one in finished) < size:
                self.counts.failed += num_failed
                return
            self._parts.join(where.part, self._finished.pop(where.part))
        self._count(where.part, num_failed)

    def _take_failed(self, where: PartRange, code: str, why: str) -> None:
        """Halve a range that failed; try a single entry again; record it as failed when that was its last attempt."""
        if where.stop - where.start > 1:
            self._again.extendleft(reversed(where.halves()))
            return
        self._attempts[where] += 1
        if self._attempts[where] <= self._plan.max_retries:
            self._again.appendleft(where)
            return
        entry = self._listing.read_part(where.part)[where.start]
        line = encode_outcome(entry.name, entry.row, None, why, code)
        self._parts.commit(where, self._size(where.part) == 1, [line], 1)
        self._publish("entry_failed", name=entry.name, row=entry.row, code=code, error=why)
        self._take_done(where, 1)

    def _end_late_workers(self) -> None:
        for task_id, worker in self._workers.items():
            is_late = worker.began_at is not None and time.monotonic() - worker.began_at > self._plan.timeout_s
            if is_late and worker.reason is None:
                limit = f"retry_settings.timeout, {self._plan.timeout_s:g} s"
                worker.reason = ("timeout", f"scoring took longer than {limit}")
                self._executor.cancel(task_id, 0)

    def _bury(self, worker: _Worker, code: int) -> None:
        """Take back the ranges of a worker that has ended."""
        self._read_mail(worker)
        if worker.is_stopping and not worker.ranges:
            return
        if not worker.is_ready:
            self._failed_starts += 1
            reason = worker.reason[1] if worker.reason else _ending(code)
            if worker.reason or self._failed_starts >= _MAX_STARTS:
                self._publish("log", file=str(self._folder.log_file), lines=log_tail(self._folder.log_file))
                raise ClearsightError(f"no worker can score: {reason}")
        if worker.is_ready and worker.ranges:
            suspect = worker.ranges.popleft()
            self._again.extendleft(reversed(worker.ranges))
            fault, why = worker.reason or ("crash", f"the process that scored it ended: {_ending(code)}")
            self._take_failed(suspect, fault, why)
        else:
            self._again.extendleft(reversed(worker.ranges))

    def _count(self, part: int, num_failed: int) -> None:
        self.counts.done += self._size(part)
        self.counts.parts_done += 1
        self.counts.failed += num_failed

    def _count_earlier(self, part: int) -> None:
        self.counts.earlier += self._size(part)
        self._count(part, self._parts.num_failed(part) or 0)

    def _check_threshold(self) -> None:
        limit = self._plan.error_threshold
        if 0 <= limit < self.counts.failed:
            raise TooManyFailures(f"at most {limit} files may fail (error_threshold), but {self.counts.failed} did")

    def _publish_progress(self) -> None:
        self._publish("progress", **asdict(self.counts))

    def _dismiss(self) -> None:
        """End the workers: at once those that still score, which loses nothing that was committed."""
        for task_id, worker in self._workers.items():
            worker.is_stopping = True
            if worker.ranges:
                self._executor.cancel(task_id, 0)
            else:
                worker.mailbox.send("stop")
        while self._workers:
            for one in self._executor.wait(_POLL_S):
                self._workers.pop(one.task_id, None)


class _Peekable:
    """An iterator that says whether it has a next item."""

    def __init__(self, items: Iterator[PartRange]) -> None:
        self._items = items
        self._next = next(items, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def __next__(self) -> PartRange:
        if self._next is None:
            raise StopIteration
        item, self._next = self._next, next(self._items, None)
        return item


def _ending(code: int) -> str:
    if code < 0:
        return f"it was killed by signal {-code}" + (", perhaps for lack of memory" if code == -9 else "")
    return f"it ended with exit code {code}"
