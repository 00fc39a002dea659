"""One generation of a deployment: its lanes, which have only the server processes in common."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clearsight.serving.gateway.lane import Lane, ModelUnreachable
from clearsight.serving.gateway.table import Deployment
from clearsight.serving.gateway.upstream import UpstreamAnswer
from clearsight.wire.lane_protocol import DEADLINE_HEADER, DEADLINE_SHARE, JOB_HEADER, JobCommand

__all__ = ["Generation"]

REQUEST_ID_HEADER: Final = "x-request-id"

COMMAND_MARGIN_S: Final = 30.0
"""Added to the time limit of a job command, which is quick itself but may wait for one explanation to end, or for
TorchServe to start a worker."""


@dataclass(frozen=True, slots=True)
class JobCommandLimits:
    """Limits of job commands: one job runs at a time, while the one before may still be ending."""

    request_timeout_s: float
    max_running: int = 2
    max_in_flight: int = 4


class Generation:
    """Predictions and, where the deployment has that lane, explanations: each lane has its own slots and queue."""

    def __init__(self, deployment: Deployment, max_answer_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.deployment = deployment
        self._max_answer_bytes = max_answer_bytes
        self._loop = loop
        self._predict = Lane(deployment.upstreams, deployment, max_answer_bytes, loop)
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
        """Take the limits and upstreams of a new table, and react to workers lost since the last one."""
        self.deployment = deployment
        self._predict.configure(deployment.upstreams, deployment)
        explain = deployment.explain
        if explain is None:
            return  # a lane that is no longer there finishes what it has
        upstreams = [explain.upstream] if explain.ready else []
        limits = JobCommandLimits(explain.request_timeout_s + COMMAND_MARGIN_S)
        if self._explain is None or self._commands is None:
            self._explain = Lane(upstreams, explain, self._max_answer_bytes, self._loop)
            self._commands = Lane(upstreams, limits, self._max_answer_bytes, self._loop)
        else:
            self._explain.configure(upstreams, explain)
            self._commands.configure(upstreams, limits)

    def close(self) -> None:
        """Close idle connections; running requests finish."""
        for lane in (self._predict, self._explain, self._commands):
            if lane is not None:
                lane.close()

    async def predict(
        self, chunks: Sequence[bytes | memoryview], num_bytes: int, request_id: str, started: float
    ) -> UpstreamAnswer:
        """Send a body into the predict lane. Raises what `Lane.forward` raises.

        The worker learns when the gateway answers 408, and does not compute what comes later than that.
        """
        deadline = time.monotonic() - (self._loop.time() - started) + self.deployment.request_timeout_s
        headers = _lines({REQUEST_ID_HEADER: request_id, DEADLINE_HEADER: f"{deadline:.3f}"})
        return await self._predict.forward(None, headers, chunks, num_bytes, started)

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

        The worker gets its deadline as a time of the machine's monotonic clock: however long the request is queued, an
        explanation ends before the gateway answers 408. Raises what `Lane.forward` raises.
        """
        lane = self.deployment.explain
        if lane is None or self._explain is None:
            raise RuntimeError("the deployment has no explain lane")
        if not lane.ready:
            raise ModelUnreachable("explain lane not ready")
        elapsed_s = self._loop.time() - started
        deadline = time.monotonic() - elapsed_s + DEADLINE_SHARE * lane.request_timeout_s
        headers = _lines({REQUEST_ID_HEADER: request_id, DEADLINE_HEADER: f"{deadline:.3f}"})
        path = lane.implied_path if is_implied else None
        return await self._explain.forward(path, headers, chunks, num_bytes, started)

    async def command(
        self,
        verb: JobCommand,
        job_id: str,
        request_id: str,
        chunks: Sequence[bytes | memoryview] = (b"{}",),
        num_bytes: int = 2,
    ) -> UpstreamAnswer:
        """Send a job command to the worker of the explain lane.

        The header `JOB_HEADER` of the answer is a `JobState`. Repeating `start` starts a job only once. Raises what
        `Lane.forward` raises.
        """
        lane = self.deployment.explain
        if lane is None or self._commands is None:
            raise RuntimeError("the deployment has no explain lane")
        headers = {REQUEST_ID_HEADER: request_id, JOB_HEADER: f"{verb} {job_id}"}
        if verb == "start":
            headers[DEADLINE_HEADER] = f"{time.monotonic() + lane.job_timeout_s:.3f}"
        return await self._commands.forward(lane.implied_path, _lines(headers), chunks, num_bytes, self._loop.time())


def _lines(headers: Mapping[str, str]) -> bytes:
    """Header lines of a request to a worker."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")
