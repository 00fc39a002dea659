"""One lane of a deployment: its limits and queue, the server processes that it spreads requests over, and one retry."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import orjson

from clearsight.errors import ClearsightError, ServerUnavailable
from clearsight.serving.gateway.table import Upstream
from clearsight.serving.gateway.upstream import ConnectionBroken, NotConnected, UpstreamAnswer, UpstreamPool
from clearsight.wire.lane_protocol import ANSWER_HEADER, WRONG_LANE_STATUS

__all__ = [
    "Lane",
    "LaneLimits",
    "ModelUnreachable",
    "NoWorker",
    "Overloaded",
    "is_from_handler",
    "is_wrong_lane",
]

NO_WORKER: Final = "No worker of the deployment takes requests at present"
NO_SERVER: Final = "The deployment's server has ended"

SECOND_COPY_AFTER_S: Final = 1.0
"""From the report of a lost worker: by then the other workers have answered most of what they had."""


CONNECT_PAUSE_S: Final = 0.05
"""Between two tries to connect to a process that has just ended, until the next table names its successor."""


ENDING_S: Final = 0.1
"""By then the sockets of a killed process are closed: it loses its connections before."""

REFUSED_PAUSE_S: Final = 0.25
"""Between two tries of a request that TorchServe refuses, for it has no worker."""

MAX_LOST_PROCESSES: Final = 3
"""Processes that may end under a request; what has seen so many end is more likely the cause."""


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


@dataclass(slots=True)
class _Server:
    """A server process as a lane sees it: its connections and its token."""

    upstream: Upstream
    pool: UpstreamPool
    head: bytes | None = None

    def common_head(self) -> bytes:
        """What every request to this server carries; nothing of the client's own headers is in it."""
        if self.head is None:
            try:
                token = orjson.loads(Path(self.upstream.key_file).read_bytes())["inference"]["key"]
                self.head = (
                    f"host: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n"
                ).encode("ascii")
            except FileNotFoundError as error:
                raise NotConnected("inference token not readable") from error  # its folder is removed with the process
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelUnreachable("inference token not readable") from error
        return self.head

    async def has_ended(self) -> bool:
        """Whether nobody listens on its socket any more."""
        await asyncio.sleep(ENDING_S)
        return await self.pool.is_gone()


class Lane:
    """Admission and forwarding. At most `max_running` requests are sent at a time, the others wait first in, first out.

    A request goes to the server process that has the fewest running. While there is none, requests that were admitted
    wait for one. Cancelling `forward` frees the slot of the request, queued or running.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        limits: LaneLimits,
        max_answer_bytes: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.limits = limits
        self.num_in_flight = 0
        self.num_running = 0
        self._loop = loop
        self._max_answer_bytes = max_answer_bytes
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._servers: list[_Server] = []
        self._has_server = asyncio.Event()
        self._is_closed = False
        self._lacks_worker = False
        """Whether a worker has died, or TorchServe refused a request, and no worker has answered since."""
        self.configure(upstreams, limits)

    def configure(self, upstreams: Sequence[Upstream], limits: LaneLimits) -> None:
        """Take the limits and upstreams of a new table; tokens are read again when next needed.

        When an upstream has lost workers, its running requests that get no answer are sent a second time, and the
        answer that comes first counts. TorchServe answers what a dying worker computes, but forgets the requests it
        was still collecting for a batch (0.12: the interrupt ends `Model.pollInferJob` after it took them from the
        queue, and does not put them back).
        """
        present = {server.upstream.socket: server for server in self._servers}
        self._servers = []
        for upstream in upstreams:
            server = present.pop(upstream.socket, None)
            if server is None:
                pool = UpstreamPool(upstream.socket, self._max_answer_bytes, self._loop)
            else:
                pool = server.pool
                if upstream.lost_workers > server.upstream.lost_workers:
                    self._lacks_worker = True
                    self._loop.call_later(SECOND_COPY_AFTER_S, pool.send_again, pool.running(), is_from_handler)
            self._servers.append(_Server(upstream, pool))
        for server in present.values():
            server.pool.close()
        self.limits = limits
        if self._servers:
            self._has_server.set()
        else:
            self._has_server.clear()
        self._wake()

    def close(self) -> None:
        """Close idle connections; running requests finish, those that wait for a process end."""
        self._is_closed = True
        self._has_server.set()
        for server in self._servers:
            server.pool.close()

    async def forward(
        self, path: str | None, headers: bytes, chunks: Sequence[bytes | memoryview], num_bytes: int, started: float
    ) -> UpstreamAnswer:
        """Send a body to `path` (None: the upstream's) and return the answer, also when TorchServe gave it itself.

        `headers` are complete header lines. `request_timeout_s` counts from `started`, a time of the event loop. A
        request that cannot be sent, or that TorchServe refuses, waits for a process or worker while its time allows.
        Raises Overloaded at once when the lane is full, and NoWorker instead when no worker answers; NoWorker also when
        the time of a waiting request has passed; TimeoutError when that of another has; ModelUnreachable when no answer
        can be had.
        """
        deadline = started + self.limits.request_timeout_s
        if self.num_in_flight >= self.limits.max_in_flight:
            if self._lacks_worker or self._lacks_server:
                missing = NO_SERVER if self._lacks_server else NO_WORKER
                raise NoWorker(f"{missing}; {self.limits.max_in_flight} requests wait for the next one already")
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
        except TimeoutError:
            if self._lacks_server:
                raise NoWorker(f"{NO_SERVER}, and the next one was not ready within the request's time") from None
            raise
        finally:
            self.num_in_flight -= 1

    @property
    def _lacks_server(self) -> bool:
        """Whether no process can be connected to."""
        return all(server.pool.is_refused for server in self._servers)

    async def _send(
        self, path: str | None, headers: bytes, chunks: Sequence[bytes | memoryview], num_bytes: int, deadline: float
    ) -> UpstreamAnswer:
        """Send, once more after a lost worker or connection, once more after a refused token.

        A process that cannot be connected to got nothing, so that the request stays here until one can be. What
        TorchServe does not take is sent until it does, or until its time has passed.
        """
        was_retried = was_rekeyed = False
        num_lost = num_refused = 0
        failed: _Server | None = None
        while True:
            server = await self._choose(failed)
            try:
                target = (path or server.upstream.path).encode("ascii")
                common = server.common_head()
                head = b"POST %s HTTP/1.1\r\n%s%scontent-length: %d\r\n\r\n" % (target, common, headers, num_bytes)
                answer = await server.pool.exchange([head, *chunks], fresh=was_retried)
            except NotConnected:
                num_refused += 1
                if num_refused >= len(self._servers):
                    self._check_open()
                    await asyncio.sleep(CONNECT_PAUSE_S)
                failed = server
                continue
            except ConnectionBroken as broken:
                num_lost += 1
                is_last = was_retried and not (num_lost < MAX_LOST_PROCESSES and await server.has_ended())
                if is_last or not broken.may_retry:
                    raise ModelUnreachable(str(broken)) from broken
                was_retried = True
                failed = server
                continue
            self._lacks_worker = _is_refused(answer) or (self._lacks_worker and not is_from_handler(answer))
            if _is_refused(answer):
                if self._loop.time() + REFUSED_PAUSE_S >= deadline:
                    raise NoWorker(f"{NO_WORKER}; none was there within the request's time")
                num_refused += 1
                if num_refused >= len(self._servers):
                    await asyncio.sleep(REFUSED_PAUSE_S)
                failed = server
            elif _is_bad_token(answer) and not was_rekeyed:
                was_rekeyed = True
                server.head = None
            elif _is_lost_worker(answer) and not was_retried:
                was_retried = True
                failed = server
            else:
                return answer

    async def _choose(self, failed: _Server | None) -> _Server:
        """The server with the fewest running requests, not the one that has just failed if there is another."""
        while not self._servers:  # the next table may take away what the one before brought
            self._check_open()
            await self._has_server.wait()
        others = [server for server in self._servers if failed is None or server.pool is not failed.pool]
        return min(others or self._servers, key=lambda server: server.pool.num_running)

    def _check_open(self) -> None:
        """Raise ModelUnreachable when no process will follow."""
        if self._is_closed:
            raise ModelUnreachable("deployment deleted or replaced")

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
