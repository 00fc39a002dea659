"""One long explanation at a time, computed in a thread while its worker answers requests.

Requests have priority: while one is answered, the thread waits at its next checkpoint (after a chunk of points, a row,
an object). A canceled job stops at a checkpoint too. The worker is never killed for a job.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from clearsight.handlers.explain.telemetry import watched

__all__ = ["Background", "BackgroundJob"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Ended(BaseException):
    """The job was ended from outside. A BaseException, so that no `except Exception` takes it for an error."""


class BackgroundJob(Generic[Result]):
    """One job. `result` is None until it is done; `elapsed_s` is then its duration, waits included."""

    def __init__(self, job_id: str, work: Callable[[], Result], may_run: threading.Event) -> None:
        self.id: Final = job_id
        self.result: Result | None = None
        self.elapsed_s = 0.0
        self._progress: dict[str, int] = {}
        self._may_run = may_run
        self._is_ended = False
        # Only the thread refers to the work, and so to the request's body: both are freed when it ends.
        self._thread = threading.Thread(target=self._run, args=(work,), name="explain-job", daemon=True)
        self._thread.start()

    @property
    def is_computing(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        """Stop at the next checkpoint, without a result. Returns at once."""
        self._is_ended = True

    def progress(self) -> dict[str, Any]:
        """The progress as plain data, as far as it is known."""
        return dict(self._progress)

    def checkpoint(self) -> None:
        self._may_run.wait()
        if self._is_ended:
            raise Ended

    def rows_done(self, done: int, total: int) -> None:
        self._progress = {"rows_done": done, "rows": total}

    def points_done(self, done: int, total: int) -> None:
        self._progress = {**self._progress, "points_done": done, "points": total}

    def _run(self, work: Callable[[], Result]) -> None:
        started = time.monotonic()
        try:
            with watched(self):
                self.checkpoint()
                result = work()
        except Ended:
            log.info("explanation job %s was ended after %.1f s", self.id, time.monotonic() - started)
            return
        self.elapsed_s = time.monotonic() - started
        if not self._is_ended:
            self.result = result
        log.info("explanation job %s took %.1f s", self.id, self.elapsed_s)


class Background(Generic[Result]):
    """The jobs of one worker: at most one. Called from the one thread that answers requests."""

    def __init__(self) -> None:
        self._may_run = threading.Event()
        self._may_run.set()
        self._job: BackgroundJob[Result] | None = None

    def start(self, job_id: str, work: Callable[[], Result]) -> BackgroundJob[Result] | None:
        """Start `work`, which must not raise, unless this job was started before; None while another job computes.

        That other job is ended: a gateway starts a job only after the one before, so its gateway must have died.
        """
        job = self._job
        if job is not None and job.id == job_id:
            return job
        if job is not None and job.is_computing:
            job.end()
            return None
        self._job = BackgroundJob(job_id, work, self._may_run)
        return self._job

    def find(self, job_id: str) -> BackgroundJob[Result] | None:
        return self._job if self._job is not None and self._job.id == job_id else None

    def end(self, job_id: str) -> None:
        """Stop the job, if it is the present one, and drop its result."""
        job = self.find(job_id)
        if job is not None:
            job.end()
            job.result = None
            if not job.is_computing:
                self._job = None

    @contextmanager
    def preempt(self) -> Iterator[None]:
        """Pause the job while the block runs."""
        self._may_run.clear()
        try:
            yield
        finally:
            self._may_run.set()
