"""Requests to one TorchServe over its unix socket, on persistent connections.

This client knows only the part of HTTP/1.1 that TorchServe uses: answers are framed by Content-Length (TorchServe sets
it on every complete answer); anything else counts as a broken connection.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

__all__ = ["ConnectionBroken", "Exchange", "NotConnected", "UpstreamAnswer", "UpstreamPool"]

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_COPIES: Final = 2
"""Times that a request without an answer is sent again after a lost worker. One that waited loses its place with each
worker that dies; one that has seen three die is more likely their cause."""

Message = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """One answer. Header names are lower-case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class ConnectionBroken(Exception):
    """The connection was closed or brought a malformed answer.

    `may_retry` is false for malformed answers, which a second try would bring again.
    """

    def __init__(self, message: str, *, may_retry: bool = True) -> None:
        self.may_retry = may_retry
        super().__init__(message)


class NotConnected(ConnectionBroken):
    """The connection could not be made: nothing was sent."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request under way. `waiter` is done when it has an answer or was cancelled."""

    message: Message
    connection: "_Connection"
    waiter: "asyncio.Future[UpstreamAnswer]"


class UpstreamPool:
    """Connections to one socket. There are as many as requests run at a time; the caller bounds those."""

    def __init__(self, socket: str, max_answer_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.socket = socket
        self.num_running = 0
        """Exchanges under way, those still connecting included."""
        self.is_refused = False
        """Whether the last connection could not be made."""
        self.max_answer_bytes = max_answer_bytes
        self._loop = loop
        self._idle: list[_Connection] = []
        self._running: dict[_Connection, Message] = {}
        self._copies: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def exchange(self, message: Message, *, fresh: bool = False) -> UpstreamAnswer:
        """Send a complete request and return the answer. Raises ConnectionBroken.

        `fresh` sends a request again: on a new connection, since an idle one may be broken too, and for the last
        time, so that it is not among those `running`. Cancelling
        closes the connection, so that a late answer can never meet the next request.
        """
        self.num_running += 1
        try:
            connection = self._take_idle() if not fresh else None
            if connection is None:
                connection = await self._connect()
            if not fresh:  # what has already been sent again may be what the lost worker died of
                self._running[connection] = message
            try:
                answer = await connection.exchange(message)
            except BaseException:
                connection.abort()
                raise
            finally:
                self._running.pop(connection, None)
        finally:
            self.num_running -= 1
        if connection.is_reusable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return answer

    async def is_gone(self) -> bool:
        """Whether nobody listens on the socket."""
        try:
            (await self._connect()).abort()
        except NotConnected:
            return True
        return False

    def running(self) -> list[Exchange]:
        """The exchanges under way that may be sent again: neither copies, nor what was copied `MAX_COPIES` times."""
        return [
            Exchange(message, each, each.waiter)
            for each, message in self._running.items()
            if each.waiter is not None and each.num_copies < MAX_COPIES
        ]

    def send_again(self, exchanges: Sequence[Exchange], is_final: Callable[[UpstreamAnswer], bool]) -> None:
        """Send those that still have no answer a second time, on a connection of their own each.

        The answer that comes first counts; one to a second copy only if it `is_final`, for the first copy may still
        bring a better one.
        """
        for exchange in exchanges:
            if not exchange.waiter.done():
                exchange.connection.num_copies += 1
                task = self._loop.create_task(self._send_copy(exchange, is_final))
                self._copies.add(task)
                task.add_done_callback(self._copies.discard)

    async def _send_copy(self, exchange: Exchange, is_final: Callable[[UpstreamAnswer], bool]) -> None:
        with contextlib.suppress(ConnectionBroken):
            connection = await self._connect()
            try:
                copy = connection.exchange(exchange.message)
                await asyncio.wait([copy, exchange.waiter], return_when=asyncio.FIRST_COMPLETED)
                if copy.done() and is_final(copy.result()) and not exchange.waiter.done():
                    exchange.connection.take(copy.result())
            finally:
                connection.abort()

    def close(self) -> None:
        """Close idle connections now and the others when their exchange ends."""
        self._is_closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _connect(self) -> "_Connection":
        try:
            _, connection = await self._loop.create_unix_connection(
                lambda: _Connection(self.max_answer_bytes, self._loop), self.socket
            )
        except OSError as error:
            self.is_refused = True
            raise NotConnected(error.strerror or type(error).__name__) from error
        self.is_refused = False
        return connection

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        return None


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self, max_answer_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.is_reusable = True
        self.num_copies = 0
        """Copies sent of the request that is running here."""
        self._max_answer_bytes = max_answer_bytes
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self.waiter: asyncio.Future[UpstreamAnswer] | None = None
        self._head = b""
        self._status = 0
        self._reason = ""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._num_missing = -1

    def exchange(self, message: Message) -> "asyncio.Future[UpstreamAnswer]":
        waiter = self.waiter = self._loop.create_future()
        self.num_copies = 0
        if self._transport is None:
            self._break("connection closed")
        else:
            self._transport.writelines(message)
        return waiter

    def take(self, answer: UpstreamAnswer) -> None:
        """End the exchange with an answer from another connection; an answer that still arrives here is dropped."""
        waiter = self.waiter
        self.abort()
        if waiter is not None:
            waiter.set_result(answer)

    def abort(self) -> None:
        self.is_reusable = False
        self.waiter = None
        if self._transport:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.waiter is None:  # an answer without a request
            self.abort()
        elif self._num_missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end >= 0:
                self._read_head(end)
            elif len(self._head) > MAX_HEAD_BYTES:
                self._break("answer head too large", may_retry=False)
        else:
            self._read_body(data)

    def eof_received(self) -> None:
        self._break("connection closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._break("connection reset" if exc else "connection closed")

    def _read_head(self, end: int) -> None:
        data, rest = self._head[:end], self._head[end + 4 :]
        try:
            status_line, *lines = data.decode("latin-1").split("\r\n")
            protocol, status, *reason = status_line.split(" ", 2)
            self._status, self._reason = int(status), reason[0] if reason else ""
            headers = self._headers = {}
            for line in lines:
                name, separator, value = line.partition(":")
                if not separator:
                    raise ValueError(line)
                headers[name.lower()] = value.strip()
            length = headers["content-length"]
            if not protocol.startswith("HTTP/1.") or "transfer-encoding" in headers or not length.isdecimal():
                raise ValueError(status_line)
            self._num_missing = int(length)
        except (ValueError, KeyError):
            self._break("answer not understood", may_retry=False)
            return
        if self._num_missing > self._max_answer_bytes:
            self._break("answer too large", may_retry=False)
            return
        self.is_reusable = protocol == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
        self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        self._body.append(data)
        self._num_missing -= len(data)
        if self._num_missing > 0:
            return
        if self._num_missing < 0:
            self._break("answer longer than announced", may_retry=False)
            return
        answer = UpstreamAnswer(self._status, self._reason, self._headers, b"".join(self._body))
        waiter, self.waiter = self.waiter, None
        self._head, self._body, self._num_missing = b"", [], -1
        if waiter and not waiter.done():
            waiter.set_result(answer)

    def _break(self, message: str, *, may_retry: bool = True) -> None:
        self.is_reusable = False
        waiter, self.waiter = self.waiter, None
        if waiter and not waiter.done():
            waiter.set_exception(ConnectionBroken(message, may_retry=may_retry))
        if self._transport:
            self._transport.abort()
