"""One generation of a deployment: its lanes, which share a process and nothing else."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from clearsight.serving.gateway.lane import Lane
from clearsight.serving.gateway.table import Deployment
from clearsight.serving.gateway.upstream import UpstreamAnswer

__all__ = ["Generation"]

DEADLINE_SHARE: Final = 0.85
"""Of the request timeout, for the worker: it ends with the best map so far before the gateway gives up."""

ORDER_MARGIN_S: Final = 30.0
"""An order about a job takes no time, but may wait behind one explanation, or for TorchServe to start a worker."""


@dataclass(frozen=True, slots=True)
class JobCommandLimits:
    """Of the orders about jobs: one job runs at a time, and the end of the one before may still be under way."""

    request_timeout_s: float
    max_running: int = 2
    max_in_flight: int = 4


class Generation:
    """Predictions and, where the deployment has that lane, explanations: neither waits for a place of the other."""

    def __init__(self, deployment: Deployment, max_answer_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.deployment = deployment
        self._max_answer_bytes = max_answer_bytes
        self._loop = loop
        self._predict = Lane(deployment.upstream, deployment, max_answer_bytes, loop)
        self._explain: Lane | None = None
        self._commands: Lane | None = None
        self.configure(deployment)

    @property
    def num_in_flight(self) -> int:
        """Requests waiting or running, in all lanes."""
        lanes = (self._predict, self._explain, self._commands)
        return sum(lane.num_in_flight for lane in lanes if lane is not None)

    @property
    def explains(self) -> bool:
        """Whether the deployment has an explain lane."""
        return self.deployment.explain is not None

    def configure(self, deployment: Deployment) -> None:
        """Take the limits and the upstream of a new table, and hear of lost workers."""
        if deployment.lost_workers > self.deployment.lost_workers:
            self._predict.worker_lost()
        self.deployment = deployment
        self._predict.configure(deployment.upstream, deployment)
        if deployment.explain is None:
            return  # a lane that is no longer there finishes what it has
        limits = JobCommandLimits(deployment.explain.request_timeout_s + ORDER_MARGIN_S)
        if self._explain is None or self._commands is None:
            self._explain = Lane(deployment.upstream, deployment.explain, self._max_answer_bytes, self._loop)
            self._commands = Lane(deployment.upstream, limits, self._max_answer_bytes, self._loop)
        else:
            self._explain.configure(deployment.upstream, deployment.explain)
            self._commands.configure(deployment.upstream, limits)

    def close(self) -> None:
        """Close idle connections; running requests finish."""
        for lane in (self._predict, self._explain, self._commands):
            if lane is not None:
                lane.close()

    async def predict(
        self, chunks: Sequence[bytes | memoryview], num_bytes: int, request_id: str, started: float
    ) -> UpstreamAnswer:
        """Send a body into the predict lane. Raises what `Lane.forward` raises."""
        headers = b"x-request-id: %s\r\n" % request_id.encode()
        return await self._predict.forward(self.deployment.upstream.path, headers, chunks, num_bytes, started)

    async def explain(
        self,
        chunks: Sequence[bytes | memoryview],
        num_bytes: int,
        request_id: str,
        started: float,
        *,
        is_implied: bool,
    ) -> UpstreamAnswer:
        """Send a body into the explain lane, which must be there. `is_implied`: every row is to be explained.

        The worker is told when to end, as a time of the machine's monotonic clock: however long the request waits
        on its way, an explanation ends before the client is given up. Raises what `Lane.forward` raises.
        """
        lane = self.deployment.explain
        if lane is None or self._explain is None:
            raise RuntimeError("the deployment has no explain lane")
        elapsed_s = self._loop.time() - started
        deadline = time.monotonic() - elapsed_s + DEADLINE_SHARE * lane.request_timeout_s
        headers = b"x-request-id: %s\r\nx-clearsight-deadline: %.3f\r\n" % (request_id.encode(), deadline)
        path = lane.implied_path if is_implied else lane.path
        return await self._explain.forward(path, headers, chunks, num_bytes, started)

    async def command(
        self,
        verb: Literal["start", "poll", "end"],
        job_id: str,
        request_id: str,
        chunks: Sequence[bytes | memoryview] = (b"{}",),
        num_bytes: int = 2,
    ) -> UpstreamAnswer:
        """Tell the explain lane's worker to start a job with a body, to say how far it is, or to end and forget it.

        The header `x-clearsight-job` of the answer is `running` (how far is in the body), `done` (this is the job's
        answer), `busy` (not started, since another one computes) or `unknown`. A job is started once, however often
        that is ordered. Raises what `Lane.forward` raises.
        """
        lane = self.deployment.explain
        if lane is None or self._commands is None:
            raise RuntimeError("the deployment has no explain lane")
        headers = b"x-request-id: %s\r\nx-clearsight-job: %s %s\r\n" % (
            request_id.encode(), verb.encode(), job_id.encode())  # fmt: skip
        if verb == "start":
            headers += b"x-clearsight-deadline: %.3f\r\n" % (time.monotonic() + lane.job_timeout_s)
        return await self._commands.forward(lane.implied_path, headers, chunks, num_bytes, self._loop.time())
