"""One lane of a deployment's process: its limits and queue, its connections, its token, and one retry."""

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import orjson

from clearsight.errors import ClearsightError, ServerUnavailable
from clearsight.serving.gateway.table import Upstream
from clearsight.serving.gateway.upstream import ConnectionBroken, UpstreamAnswer, UpstreamPool
from clearsight.wire.lane_protocol import ANSWER_HEADER, WRONG_LANE_STATUS

__all__ = [
    "Lane",
    "LaneLimits",
    "ModelUnreachable",
    "Overloaded",
    "is_from_handler",
    "is_queue_full",
    "is_wrong_lane",
]

SECOND_COPY_AFTER_S: Final = 1.0
"""From the report of a lost worker: by then the other workers have answered most of what they had."""


class LaneLimits(Protocol):
    """`max_in_flight` bounds requests waiting and running, `max_running` those sent at a time."""

    @property
    def max_running(self) -> int: ...
    @property
    def max_in_flight(self) -> int: ...
    @property
    def request_timeout_s(self) -> float: ...


class Overloaded(ClearsightError):
    """The lane already holds as many requests as it may."""

    status = 429


class ModelUnreachable(ServerUnavailable):
    """No answer came from the model's server; the text is short ASCII."""


def is_from_handler(answer: UpstreamAnswer) -> bool:
    """Whether Clearsight's handler made the answer: it sets a header that TorchServe's own answers lack."""
    return ANSWER_HEADER in answer.headers


def is_queue_full(answer: UpstreamAnswer) -> bool:
    """Whether TorchServe refused the request because its queue is full (its text blames missing workers)."""
    return answer.status == 503 and not is_from_handler(answer) and b"ServiceUnavailableException" in answer.body


def is_wrong_lane(answer: UpstreamAnswer) -> bool:
    """Whether the predict lane's handler found a row that asks for an explanation."""
    return answer.status == WRONG_LANE_STATUS and is_from_handler(answer)


def _is_bad_token(answer: UpstreamAnswer) -> bool:
    """Whether TorchServe refused the token: it answers 400, not 401."""
    return answer.status == 400 and not is_from_handler(answer) and b"InvalidKey" in answer.body


def _is_lost_worker(answer: UpstreamAnswer) -> bool:
    """Whether a worker died or failed under the request; scoring is idempotent, so it may be sent again."""
    return answer.status in (500, 503, 507) and not is_from_handler(answer) and not is_queue_full(answer)


class Lane:
    """Admission and forwarding. At most `max_running` requests are sent at a time, the others wait first in, first out.

    Cancelling `forward` frees the slot of the request, queued or running.
    """

    def __init__(
        self, upstream: Upstream, limits: LaneLimits, max_answer_bytes: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.limits = limits
        self.num_in_flight = 0
        self.num_running = 0
        self._upstream = upstream
        self._loop = loop
        self._max_answer_bytes = max_answer_bytes
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._pool = UpstreamPool(upstream.socket, max_answer_bytes, loop)
        self._head: bytes | None = None

    def configure(self, upstream: Upstream, limits: LaneLimits) -> None:
        """Take the limits and the upstream of a new table; the token is read again when next needed."""
        if upstream.socket != self._pool.socket:
            self._pool.close()
            self._pool = UpstreamPool(upstream.socket, self._max_answer_bytes, self._loop)
        self._upstream, self.limits = upstream, limits
        self._head = None
        self._wake()

    def worker_lost(self) -> None:
        """Send the running requests that get no answer a second time, and take the answer that comes first.

        TorchServe answers what a dying worker computes, but forgets the requests it was still collecting for a batch
        (0.12: the interrupt ends `Model.pollInferJob` after it took them from the queue, and does not put them back).
        """
        self._loop.call_later(SECOND_COPY_AFTER_S, self._pool.send_again, self._pool.running(), is_from_handler)

    def close(self) -> None:
        """Close idle connections; running requests finish."""
        self._pool.close()

    async def forward(
        self, path: str, headers: bytes, chunks: Sequence[bytes | memoryview], num_bytes: int, started: float
    ) -> UpstreamAnswer:
        """Send a body to `path` and return the answer, TorchServe's own refusals included.

        `headers` are complete header lines. `request_timeout_s` counts from `started`, a time of the event loop. Raises
        Overloaded at once when the lane is full, TimeoutError when the time has passed, ModelUnreachable when no
        answer can be had.
        """
        if self.num_in_flight >= self.limits.max_in_flight:
            raise Overloaded(f"at most {self.limits.max_in_flight} requests may be in flight")
        self.num_in_flight += 1
        try:
            async with asyncio.timeout_at(started + self.limits.request_timeout_s):
                await self._acquire()
                try:
                    return await self._send(path, headers, chunks, num_bytes)
                finally:
                    self.num_running -= 1
                    self._wake()
        finally:
            self.num_in_flight -= 1

    async def _send(
        self, path: str, headers: bytes, chunks: Sequence[bytes | memoryview], num_bytes: int
    ) -> UpstreamAnswer:
        """Send, once more after a lost worker or connection, and once more after a refused token."""
        was_retried = was_rekeyed = False
        while True:
            message = [b"POST %s HTTP/1.1\r\n%s%scontent-length: %d\r\n\r\n" % (
                path.encode("ascii"), self._common_head(), headers, num_bytes), *chunks]  # fmt: skip
            try:
                answer = await self._pool.exchange(message, fresh=was_retried)
            except ConnectionBroken as broken:
                if was_retried or broken.answer_began:
                    raise ModelUnreachable(str(broken)) from broken
                was_retried = True
                continue
            if _is_bad_token(answer) and not was_rekeyed:
                was_rekeyed = True
                self._head = None
            elif _is_lost_worker(answer) and not was_retried:
                was_retried = True
            else:
                return answer

    def _common_head(self) -> bytes:
        """What every request to the upstream carries; nothing of the client's own headers is in it."""
        if self._head is None:
            try:
                token = orjson.loads(Path(self._upstream.key_file).read_bytes())["inference"]["key"]
                self._head = (
                    f"host: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n"
                ).encode("ascii")
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelUnreachable("inference token not readable") from error
        return self._head

    async def _acquire(self) -> None:
        """Wait for one of `max_running` slots. `_wake` counts the slot for the request that it wakes."""
        if self.num_running < self.limits.max_running:
            self.num_running += 1
            return
        slot = self._loop.create_future()
        self._waiting.append(slot)
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():  # the slot came together with the cancellation
                self.num_running -= 1
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self.num_running < self.limits.max_running:
            slot = self._waiting.popleft()
            if not slot.done():
                self.num_running += 1
                slot.set_result(None)
