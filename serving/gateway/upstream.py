"""The private side: requests to one TorchServe over its unix socket, on kept-alive connections.

Both ends are ours, so the client speaks little HTTP/1.1 and is strict about it: answers are framed by Content-Length
(TorchServe sets it on every whole answer); anything else counts as a broken connection.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

__all__ = ["ConnectionBroken", "UpstreamAnswer", "UpstreamPool"]

MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """One answer. Header names are lower-case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class ConnectionBroken(Exception):
    """The connection could not be made, died, or spoke nonsense.

    `answer_began` tells whether a byte of the answer was seen: only without one may the request be sent again.
    """

    def __init__(self, message: str, *, answer_began: bool = False) -> None:
        self.answer_began = answer_began
        super().__init__(message)


class UpstreamPool:
    """Connections to one socket. There are as many as requests run at a time; the caller bounds those."""

    def __init__(self, socket: str, max_answer_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.socket = socket
        self.max_answer_bytes = max_answer_bytes
        self._loop = loop
        self._idle: list[_Connection] = []
        self._is_closed = False

    async def exchange(self, message: Sequence[bytes | memoryview], *, fresh: bool = False) -> UpstreamAnswer:
        """Send a whole request and return the answer. Raises ConnectionBroken.

        `fresh` opens a new connection instead of taking an idle one, which may be as dead as the last. Cancelling
        closes the connection, so that a late answer can never meet the next request.
        """
        connection = self._take_idle() if not fresh else None
        if connection is None:
            try:
                _, connection = await self._loop.create_unix_connection(self._connection, self.socket)
            except OSError as error:
                raise ConnectionBroken(error.strerror or type(error).__name__) from error
        try:
            answer = await connection.exchange(message)
        except BaseException:
            connection.abort()
            raise
        if connection.is_reusable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return answer

    def close(self) -> None:
        """Close idle connections now and the others when their exchange ends."""
        self._is_closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def _connection(self) -> "_Connection":
        return _Connection(self.max_answer_bytes, self._loop)

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
        self._max_answer_bytes = max_answer_bytes
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[UpstreamAnswer] | None = None
        self._head = b""
        self._status = 0
        self._reason = ""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._num_missing = -1

    def exchange(self, message: Sequence[bytes | memoryview]) -> "asyncio.Future[UpstreamAnswer]":
        self._waiter = self._loop.create_future()
        if self._transport is None:
            self._break("connection closed")
        else:
            self._transport.writelines(message)
        return self._waiter

    def abort(self) -> None:
        self.is_reusable = False
        self._waiter = None
        if self._transport:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:  # an answer nobody asked for
            self.abort()
        elif self._num_missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end >= 0:
                self._read_head(end)
            elif len(self._head) > MAX_HEAD_BYTES:
                self._break("answer head too large")
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
            self._break("answer not understood")
            return
        if self._num_missing > self._max_answer_bytes:
            self._break("answer too large")
            return
        self.is_reusable = protocol == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
        self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        self._body.append(data)
        self._num_missing -= len(data)
        if self._num_missing > 0:
            return
        if self._num_missing < 0:
            self._break("answer longer than announced")
            return
        answer = UpstreamAnswer(self._status, self._reason, self._headers, b"".join(self._body))
        waiter, self._waiter = self._waiter, None
        self._head, self._body, self._num_missing = b"", [], -1
        if waiter and not waiter.done():
            waiter.set_result(answer)

    def _break(self, message: str) -> None:
        self.is_reusable = False
        waiter, self._waiter = self._waiter, None
        if waiter and not waiter.done():
            waiter.set_exception(ConnectionBroken(message, answer_began=bool(self._head)))
        if self._transport:
            self._transport.abort()
