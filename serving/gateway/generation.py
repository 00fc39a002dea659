"""One generation of a deployment: its lanes, which share a process and nothing else."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from clearsight.serving.gateway.lane import Lane
from clearsight.serving.gateway.table import Deployment
from clearsight.serving.gateway.upstream import UpstreamAnswer

__all__ = ["Generation"]

DEADLINE_SHARE: Final = 0.85
"""Of the request timeout, for the worker: it ends with the best map so far before the gateway gives up."""


class Generation:
    """Predictions and, where the deployment has that lane, explanations: neither waits for a place of the other."""

    def __init__(self, deployment: Deployment, max_answer_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.deployment = deployment
        self._max_answer_bytes = max_answer_bytes
        self._loop = loop
        self._predict = Lane(deployment.upstream, deployment, max_answer_bytes, loop)
        self._explain: Lane | None = None
        self.configure(deployment)

    @property
    def num_in_flight(self) -> int:
        """Requests waiting or running, in all lanes."""
        return self._predict.num_in_flight + (self._explain.num_in_flight if self._explain else 0)

    @property
    def explains(self) -> bool:
        """Whether the deployment has an explain lane."""
        return self.deployment.explain is not None

    def configure(self, deployment: Deployment) -> None:
        """Take the limits and the upstream of a new table."""
        self.deployment = deployment
        self._predict.configure(deployment.upstream, deployment)
        if deployment.explain is None:
            return  # a lane that is no longer there finishes what it has
        if self._explain is None:
            self._explain = Lane(deployment.upstream, deployment.explain, self._max_answer_bytes, self._loop)
        else:
            self._explain.configure(deployment.upstream, deployment.explain)

    def close(self) -> None:
        """Close idle connections; running requests finish."""
        self._predict.close()
        if self._explain:
            self._explain.close()

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
