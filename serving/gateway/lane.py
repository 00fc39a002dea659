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
    "NoWorker",
    "Overloaded",
    "ProcessGone",
    "is_from_handler",
    "is_wrong_lane",
]

NO_WORKER: Final = "No worker of the deployment takes requests at present"

SECOND_COPY_AFTER_S: Final = 1.0
"""From the report of a lost worker: by then the other workers have answered most of what they had."""


ENDING_S: Final = 0.1
"""By then the sockets of a killed process are closed."""

REFUSED_PAUSE_S: Final = 0.25
"""Between two tries of a request that TorchServe refuses, for it has no worker."""


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


class ProcessGone(ModelUnreachable):
    """The deployment's process has ended: another one may answer the request, which has got no byte of an answer."""


class NoWorker(ModelUnreachable):
    """The deployment has no worker that could answer; the text is a sentence for the client, in ASCII."""


def is_from_handler(answer: UpstreamAnswer) -> bool:
    """Whether Clearsight's handler made the answer: it sets a header that TorchServe's own answers lack."""
    return ANSWER_HEADER in answer.headers


def _is_refused(answer: UpstreamAnswer) -> bool:
    """Whether TorchServe took no request: it has no worker, or its queue is full, for which it has the same text.

    The queue has a place for each request that the lane sends at a time. So only requests that clients have given up
    fill it, which nobody takes away while no worker runs.
    """
    return answer.status == 503 and not is_from_handler(answer) and b"ServiceUnavailableException" in answer.body


def is_wrong_lane(answer: UpstreamAnswer) -> bool:
    """Whether the predict lane's handler found a row that asks for an explanation."""
    return answer.status == WRONG_LANE_STATUS and is_from_handler(answer)


def _is_bad_token(answer: UpstreamAnswer) -> bool:
    """Whether TorchServe refused the token: it answers 400, not 401."""
    return answer.status == 400 and not is_from_handler(answer) and b"InvalidKey" in answer.body


def _is_lost_worker(answer: UpstreamAnswer) -> bool:
    """Whether a worker died or failed under the request; scoring is idempotent, so it may be sent again."""
    return answer.status in (500, 503, 507) and not is_from_handler(answer) and not _is_refused(answer)


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
        self._lacks_worker = False
        """Whether a worker has died, or TorchServe refused a request, and no worker has answered since."""

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
        self._lacks_worker = True
        self._loop.call_later(SECOND_COPY_AFTER_S, self._pool.send_again, self._pool.running(), is_from_handler)

    def close(self) -> None:
        """Close idle connections; running requests finish."""
        self._pool.close()

    async def forward(
        self, path: str, headers: bytes, chunks: Sequence[bytes | memoryview], num_bytes: int, started: float
    ) -> UpstreamAnswer:
        """Send a body to `path` and return the answer, also when TorchServe gave it itself.

        `headers` are complete header lines. `request_timeout_s` counts from `started`, a time of the event loop. A
        request that TorchServe refuses waits for a worker while its time allows. Raises Overloaded at once when the
        lane is full, and NoWorker instead when no worker answers; NoWorker also when the time of a refused request has
        passed; TimeoutError when that of another has; ProcessGone and ModelUnreachable when no answer can be had.
        """
        deadline = started + self.limits.request_timeout_s
        if self.num_in_flight >= self.limits.max_in_flight:
            if self._lacks_worker:
                raise NoWorker(f"{NO_WORKER}; {self.limits.max_in_flight} requests wait for one already")
            raise Overloaded(f"at most {self.limits.max_in_flight} requests may be in flight")
        self.num_in_flight += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self._acquire()
                try:
                    return await self._send(path, headers, chunks, num_bytes, deadline)
                finally:
                    self.num_running -= 1
                    self._wake()
        finally:
            self.num_in_flight -= 1

    async def _send(
        self, path: str, headers: bytes, chunks: Sequence[bytes | memoryview], num_bytes: int, deadline: float
    ) -> UpstreamAnswer:
        """Send, once more after a lost worker or connection, once more after a refused token.

        What TorchServe does not take is sent until it does, or until its time has passed.
        """
        was_retried = was_rekeyed = False
        while True:
            message = [b"POST %s HTTP/1.1\r\n%s%scontent-length: %d\r\n\r\n" % (
                path.encode("ascii"), self._common_head(), headers, num_bytes), *chunks]  # fmt: skip
            try:
                answer = await self._pool.exchange(message, fresh=was_retried)
            except ConnectionBroken as broken:
                if broken.is_gone or (was_retried and not broken.answer_began and await self._has_ended()):
                    raise ProcessGone(str(broken)) from broken
                if was_retried or broken.answer_began:
                    raise ModelUnreachable(str(broken)) from broken
                was_retried = True
                continue
            self._lacks_worker = _is_refused(answer) or (self._lacks_worker and not is_from_handler(answer))
            if _is_refused(answer):
                if self._loop.time() + REFUSED_PAUSE_S >= deadline:
                    raise NoWorker(f"{NO_WORKER}; none was there within the request's time")
                await asyncio.sleep(REFUSED_PAUSE_S)
            elif _is_bad_token(answer) and not was_rekeyed:
                was_rekeyed = True
                self._head = None
            elif _is_lost_worker(answer) and not was_retried:
                was_retried = True
            else:
                return answer

    async def _has_ended(self) -> bool:
        """Whether nobody listens any more: a process that is killed loses its connections before its socket."""
        await asyncio.sleep(ENDING_S)
        return await self._pool.is_gone()

    def _common_head(self) -> bytes:
        """What every request to the upstream carries; nothing of the client's own headers is in it."""
        if self._head is None:
            try:
                token = orjson.loads(Path(self._upstream.key_file).read_bytes())["inference"]["key"]
                self._head = (
                    f"host: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n"
                ).encode("ascii")
            except FileNotFoundError as error:
                raise ProcessGone("inference token not readable") from error
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
