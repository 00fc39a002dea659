"""Explanation jobs, for explanations that take longer than a request may: submitted, polled, fetched, canceled.

```
POST ──> Queued ──> Running ──> Completed, Failed        kept until they expire
            └───────────┴─────> Canceled
```

A deployment runs one job at a time, first in, first out, in the worker of its explain lane, where requests have
priority over jobs. Everything is in memory: a job ends with the gateway. When its deployment is replaced, the job
starts again on the new process.
"""

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import orjson

from clearsight.errors import ClearsightError
from clearsight.serving.gateway.answers import HttpAnswer, error
from clearsight.serving.gateway.explanation_metrics import JobMetrics
from clearsight.serving.gateway.generation import Generation
from clearsight.serving.gateway.lane import ModelUnreachable, Overloaded
from clearsight.serving.gateway.limits import ByteBudget
from clearsight.serving.gateway.mapping import map_answer, unreachable
from clearsight.serving.gateway.request import Request
from clearsight.wire.lane_protocol import DEGRADED_HEADER, JOB_HEADER

__all__ = ["DEFAULT_EXPLANATION_JOB_LIMITS", "ExplainJobs", "ExplanationJobLimits"]

logger = logging.getLogger(__name__)

OVERHEAD_BYTES: Final = 4096
"""Counted for a job in addition to its body or result, so that the number of jobs is bounded too."""

GRACE_SHARE, GRACE_S = 1.2, 10.0
"""Factor and seconds on top of a job's time limit: its worker ends one chunk late, then draws and encodes."""

READY_WAIT_S: Final = 300.0
"""How long a job waits for a deployment that is being restarted."""

TIMED_OUT: Final = error(408, "RequestTimeout", "The job did not end within its time limit.")
LOST: Final = unreachable("the worker that computed the job was lost")
NOT_READY: Final = unreachable("deployment not ready")
GONE: Final = error(404, "DeploymentNotFound", "The deployment was deleted, or explains no more.")
STOPPING: Final = error(503, "ServiceUnavailable", "The gateway is being stopped.")


Status = Literal["Queued", "Running", "Completed", "Failed", "Canceled"]

MAX_MESSAGE_CHARS: Final = 2000


@dataclass(slots=True, eq=False)
class ExplanationJob:
    """A job of one deployment. When it ends, its body is dropped and its answer is kept."""

    id: str
    endpoint: str
    deployment: str
    request_id: str
    chunks: list[bytes | memoryview]
    num_bytes: int
    created: datetime
    num_held: int
    """Bytes reserved in the budget."""
    status: Status = "Queued"
    progress: dict[str, Any] = field(default_factory=dict)
    answer: HttpAnswer | None = None
    reason: str = ""
    """Why it was canceled."""
    expires: float | None = None
    """When it is forgotten, by the clock of the event loop; None while it has not ended."""
    expires_at: datetime | None = None
    task: "asyncio.Task[None] | None" = None

    def to_body(self) -> bytes:
        """JSON. The result is the body that a request would have been answered with, byte for byte."""
        document: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "deployment": self.deployment,
            "created": self.created.isoformat(timespec="seconds"),
        }
        if self.progress and self.status != "Completed":  # it was reported before the end
            document["progress"] = self.progress
        if self.expires_at is not None:
            document["expires"] = self.expires_at.isoformat(timespec="seconds")
        if self.status == "Canceled":
            document["error"] = {"message": self.reason}
        if self.answer is None:
            return orjson.dumps(document)
        if self.status == "Failed":
            document["error"] = _error_of(self.answer)
            return orjson.dumps(document)
        return orjson.dumps(document)[:-1] + b',"result":' + self.answer.body + b"}"


@dataclass(frozen=True, slots=True)
class ExplanationJobLimits:
    """Limits of all jobs of a gateway."""

    max_bytes: int = 256 * 1024 * 1024
    """Bodies and results held in memory, apart from the budget of requests; 429 beyond."""
    result_kept_s: float = 900.0
    """From the end of a job; afterwards it is unknown."""
    poll_s: float = 0.5
    """Interval at which the worker is polled."""


DEFAULT_EXPLANATION_JOB_LIMITS: Final = ExplanationJobLimits()


class _Replaced(ClearsightError):
    """Another process has taken over the deployment."""


class ExplainJobs:
    """All jobs of a gateway.

    `find` gives the present generation of an endpoint's deployment, and whether it is ready; None when it is gone.
    """

    def __init__(
        self,
        find: Callable[[str, str], tuple[Generation, bool] | None],
        metrics: JobMetrics,
        loop: asyncio.AbstractEventLoop,
        limits: ExplanationJobLimits = DEFAULT_EXPLANATION_JOB_LIMITS,
    ) -> None:
        self._find = find
        self._metrics = metrics
        self._loop = loop
        self._limits = limits
        self._budget = ByteBudget(limits.max_bytes)
        self._jobs: dict[str, ExplanationJob] = {}
        self._run_locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._notifications: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def num_bytes(self) -> int:
        """Bytes of bodies and results held now."""
        return self._budget.used

    def submit(self, request: Request, generation: Generation) -> HttpAnswer:
        """Accept a complete request as a job of the deployment that was chosen for it; 429 beyond the limits."""
        self._forget_expired()
        lane = generation.deployment.explain
        if self._is_closed or lane is None:
            return STOPPING
        key = request.endpoint, request.deployment
        pending = [job for job in self._jobs.values() if job.expires is None]
        if sum((job.endpoint, job.deployment) == key for job in pending) >= lane.max_jobs:
            return _full(f"The deployment has {lane.max_jobs} jobs, which is as many as it may. Try again later.")
        num_held = OVERHEAD_BYTES + request.num_bytes
        if not self._budget.take(num_held):
            return _full("The gateway keeps as many bytes of jobs and results as it may. Delete results, or try later.")
        job = ExplanationJob(
            secrets.token_urlsafe(24), *key, request.id, request.chunks, request.num_bytes,
            datetime.now(UTC), num_held,
        )  # fmt: skip
        self._jobs[job.id] = job
        self._metrics.entered(*key, job.status)
        job.task = self._loop.create_task(self._run(job))
        return HttpAnswer(202, job.to_body(), headers={"location": f"/endpoints/{job.endpoint}/jobs/explain/{job.id}"})

    def status(self, endpoint: str, job_id: str) -> HttpAnswer:
        """The status of a job, with its result once it is completed; 404 when the endpoint has no such job."""
        job = self._job(endpoint, job_id)
        if job is None:
            return _unknown(endpoint)
        is_degraded = job.answer is not None and DEGRADED_HEADER in job.answer.headers
        return HttpAnswer(200, job.to_body(), headers={DEGRADED_HEADER: "1"} if is_degraded else {})

    def delete(self, endpoint: str, job_id: str) -> HttpAnswer:
        """Cancel a job that has not ended; forget one that has."""
        job = self._job(endpoint, job_id)
        if job is None:
            return _unknown(endpoint)
        if job.expires is None:
            self._cancel(job, "The job was canceled by a client.")
        else:
            self._forget(job)
            job.answer = None
        return HttpAnswer(200, job.to_body())

    async def close(self) -> None:
        """Cancel the jobs that have not ended, and notify their workers, for one second at most."""
        self._is_closed = True
        tasks = []
        for job in self._jobs.values():
            if job.expires is None and job.task:
                tasks.append(job.task)
                self._cancel(job, "The gateway is being stopped.")
        await asyncio.gather(*tasks, return_exceptions=True)  # each starts to notify its worker
        if self._notifications:
            await asyncio.wait(self._notifications, timeout=1.0)
        for task in self._notifications:
            task.cancel()

    # Running a job

    async def _run(self, job: ExplanationJob) -> None:
        async with self._run_locks[job.endpoint, job.deployment]:
            try:
                answer = await self._compute(job)
            except Exception:
                logger.exception("job %s failed", job.id)
                answer = error(500, "InternalServerError", "The gateway failed; its log has the details.")
            if job.expires is None:
                self._end(job, "Completed" if answer.status == 200 else "Failed", answer)

    async def _compute(self, job: ExplanationJob) -> HttpAnswer:
        while True:
            try:
                async with asyncio.timeout(READY_WAIT_S):
                    generation = await self._ready_generation(job)
            except TimeoutError:
                return NOT_READY
            if generation is None or generation.deployment.explain is None:
                return GONE
            explain = generation.deployment.explain
            limit_s, server = GRACE_SHARE * explain.job_timeout_s + GRACE_S, explain.upstream.socket
            try:
                async with asyncio.timeout(limit_s):
                    return await self._follow(job, generation, server)
            except _Replaced:
                continue
            except TimeoutError:
                return TIMED_OUT
            except ModelUnreachable as reason:
                if self._is_current(job, generation, server):
                    return unreachable(str(reason))
            finally:
                notification = self._loop.create_task(_notify_end(job, generation))
                self._notifications.add(notification)
                notification.add_done_callback(self._notifications.discard)

    async def _ready_generation(self, job: ExplanationJob) -> Generation | None:
        while (found := self._find(job.endpoint, job.deployment)) is not None:
            generation, is_ready = found
            if is_ready or not generation.explains:
                return generation
            await asyncio.sleep(self._limits.poll_s)
        return None

    async def _follow(self, job: ExplanationJob, generation: Generation, server: str) -> HttpAnswer:
        """Have the worker start the job, and ask it until there is an answer. `server` is the socket of its process."""
        is_started = False
        while True:
            with suppress(Overloaded):  # by commands that end jobs, which wait while the worker answers a request
                if is_started:
                    answer = await generation.command("poll", job.id, job.request_id)
                else:
                    answer = await generation.command("start", job.id, job.request_id, job.chunks, job.num_bytes)
                state = answer.headers.get(JOB_HEADER)
                if state == "unknown":
                    if not self._is_current(job, generation, server):
                        raise _Replaced(generation.deployment.generation)
                    return LOST
                if state not in ("running", "busy"):
                    return map_answer(answer)
                if state == "running":  # busy: with a job that was canceled, until its next checkpoint
                    is_started = True
                    self._move(job, "Running")
                    job.progress = orjson.loads(answer.body)
            await asyncio.sleep(self._limits.poll_s)
            if not self._is_current(job, generation, server):
                raise _Replaced(generation.deployment.generation)

    def _is_current(self, job: ExplanationJob, generation: Generation, server: str) -> bool:
        """Whether the same process still runs the explain lane."""
        found = self._find(job.endpoint, job.deployment)
        explain = generation.deployment.explain
        is_same = found is not None and found[0] is generation
        return is_same and explain is not None and explain.ready and explain.upstream.socket == server

    # Storing jobs

    def _cancel(self, job: ExplanationJob, reason: str) -> None:
        job.reason = reason
        if job.task:
            job.task.cancel()
        self._end(job, "Canceled", None)

    def _move(self, job: ExplanationJob, status: Status) -> None:
        if job.status != status:
            self._metrics.left(job.endpoint, job.deployment, job.status)
            job.status = status
            if job.expires is None:
                self._metrics.entered(job.endpoint, job.deployment, status)

    def _end(self, job: ExplanationJob, status: Status, answer: HttpAnswer | None) -> None:
        """Drop the body, keep the answer until it expires."""
        job.expires = self._loop.time() + self._limits.result_kept_s
        job.expires_at = datetime.now(UTC) + timedelta(seconds=self._limits.result_kept_s)
        self._move(job, status)
        self._metrics.ended(job.endpoint, job.deployment, status, answer)
        job.answer, job.chunks = answer, []
        self._budget.give(job.num_held)
        job.num_held = OVERHEAD_BYTES + (len(answer.body) if answer else 0)
        self._budget.charge(job.num_held)
        self._loop.call_later(self._limits.result_kept_s + 1.0, self._forget_expired)
        logger.info("job %s of %s/%s: %s", job.id[:6], job.endpoint, job.deployment, status)

    def _job(self, endpoint: str, job_id: str) -> ExplanationJob | None:
        self._forget_expired()
        job = self._jobs.get(job_id)
        return job if job is not None and job.endpoint == endpoint else None

    def _forget_expired(self) -> None:
        now = self._loop.time()
        for job in [job for job in self._jobs.values() if job.expires is not None and job.expires <= now]:
            self._forget(job)

    def _forget(self, job: ExplanationJob) -> None:
        del self._jobs[job.id]
        self._budget.give(job.num_held)
        job.num_held = 0


async def _notify_end(job: ExplanationJob, generation: Generation) -> None:
    """Have the worker stop a job, or drop its result. Best effort: the next job makes it drop the result too."""
    try:
        await generation.command("end", job.id, job.request_id)
    except (ClearsightError, TimeoutError) as reason:
        logger.info("the worker was not notified that job %s has ended: %s", job.id[:6], reason)


def _full(message: str) -> HttpAnswer:
    return error(429, "TooManyRequests", message, {"retry-after": "10"})


def _unknown(endpoint: str) -> HttpAnswer:
    return error(
        404,
        "JobNotFound",
        f"Endpoint '{endpoint}' has no such job. Results expire, and a restart of the gateway forgets every job.",
    )


def _error_of(answer: HttpAnswer) -> dict[str, Any]:
    """The error that a request would have got: its status, that of the model if there is one, and the message."""
    try:
        document = orjson.loads(answer.body)
        message = str(document.get("error", document)["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        message = answer.body.decode("utf-8", "replace")
    found: dict[str, Any] = {"status": answer.status, "message": message[:MAX_MESSAGE_CHARS]}
    return found if answer.model_status is None else {**found, "model_status": answer.model_status}
