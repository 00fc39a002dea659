"""The public side: HTTP/1.1 connections, one request at a time each, with every size and every wait bounded.

```
           head complete        body complete           answer written
  HEAD ──────────────────> BODY ─────────────> ANSWERING ─────────────> HEAD (keep-alive) or closed
   │ malformed, too large   │ refused early        │ client reads slowly
   v                        v                      v
  DISCARDING (bounded) <────┘                   FLUSHING (bounded)
```

What an attacker could bend is read by llhttp, through aiohttp's strict request parser: request line, header fields,
the conflict of Content-Length and Transfer-Encoding, chunk framing. A parser lives for one request and sees its head
and, when chunked, its body; bytes under Content-Length only get counted here. The connection is closed after a
chunked request, because what follows it in the same packet would be inside the parser.
"""

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum, auto
from math import inf
from typing import Final, Protocol, cast

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from clearsight.serving.gateway.answers import REASONS, Answer, error

__all__ = ["Connection", "HttpLimits", "HttpServer", "Request", "Service"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may cost. Times are checked every `sweep_s`."""

    max_head_bytes: int = 16 * 1024
    """Request line and header fields together; 431 beyond."""
    max_headers: int = 100
    head_timeout_s: float = 10.0
    """From the first byte of a head to its last; 408 beyond. Also the wait for a new connection's first byte."""
    body_idle_timeout_s: float = 10.0
    """Between two pieces of a body; 408 beyond."""
    body_timeout_s: float = 120.0
    """For a whole body; 408 beyond."""
    keep_alive_timeout_s: float = 75.0
    write_timeout_s: float = 60.0
    """For a client to take an answer; the connection is cut beyond."""
    discard_timeout_s: float = 10.0
    """For what is left of a refused request to be read and dropped, so that the client can see the refusal."""
    max_kept_discard_bytes: int = 1024 * 1024
    """A refused request with more than this left is the last of its connection."""
    max_pipelined_bytes: int = 64 * 1024
    """What may wait behind a running request before reading pauses."""
    sweep_s: float = 0.25


@dataclass(slots=True, eq=False)
class Request:
    """One request. Times are of the event loop's clock, in seconds."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    protocol: str
    keep_alive: bool
    content_length: int | None
    """None when the body is chunked."""
    started: float
    id: str
    """A random UUID."""
    chunks: list[bytes | memoryview] = field(default_factory=list)
    num_bytes: int = 0
    """Body bytes received so far."""
    received: float = 0.0
    """When the body was complete; 0 before."""
    answered: float = 0.0
    """When the answer was ready to be written; 0 before."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    """Headers of whatever will be answered."""
    endpoint: str = ""
    deployment: str = ""
    auth_type: str = ""
    client_request_id: str = ""
    num_reserved: int = 0
    """Bytes taken from the memory budget for this request."""


class Service(Protocol):
    """What decides about requests. `complete` is called exactly once per request, whatever became of it."""

    def begin(self, request: Request) -> Answer | None:
        """Look at the head; an answer refuses or serves the request without its body."""

    def receive(self, request: Request, num_bytes: int) -> Answer | None:
        """Account for `num_bytes` more of the body; an answer refuses the request."""

    async def answer(self, request: Request) -> Answer:
        """Answer the complete request. Cancelled when the client goes."""

    def complete(self, request: Request, answer: Answer | None, num_bytes: int) -> None:
        """`answer` with its body of `num_bytes` was handed to the system; None: the client went first."""


class State(Enum):
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    FLUSHING = auto()
    DISCARDING = auto()


NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())
NO_FLOW_CONTROL: Final = 2**30
"""Limit of the parser's own buffer, which is emptied after each piece: never reached."""


class _RequestIds:
    """Random UUIDs, from random bytes fetched for many at a time."""

    def __init__(self, num_at_a_time: int = 256) -> None:
        self._num_bytes = 16 * num_at_a_time
        self._hex = ""
        self._offset = 0

    def next(self) -> str:
        """A version 4 UUID (RFC 9562, 5.4) in its canonical form."""
        if self._offset >= len(self._hex):
            self._hex, self._offset = os.urandom(self._num_bytes).hex(), 0
        digits = self._hex[self._offset : self._offset + 32]
        self._offset += 32
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class HttpServer:
    """All connections of one listening socket."""

    def __init__(self, service: Service, limits: HttpLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.limits = limits
        self.loop = loop
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.parser_protocol = BaseProtocol(loop)
        self.tasks: set[asyncio.Task[None]] = set()
        self.request_ids = _RequestIds()
        self._date = ("", 0)
        self._sweeper = loop.call_later(limits.sweep_s, self._sweep)

    def __call__(self) -> "Connection":
        """A protocol for a new connection."""
        return Connection(self)

    def date(self) -> str:
        """The present time as the value of a Date header."""
        now = int(time.time())
        if self._date[1] != now:
            self._date = (formatdate(now, usegmt=True), now)
        return self._date[0]

    def blank_request(self) -> Request:
        """Stand-in for a request whose head cannot be read."""
        return Request("", "", NO_HEADERS, "HTTP/1.1", False, None, self.loop.time(), self.request_ids.next())

    async def drain(self, limit_s: float, idle_grace_s: float = 1.0) -> bool:
        """Finish what runs, for at most `limit_s`, then close every connection. True when nothing was cut.

        The listening socket is closed by then. Answers say `Connection: close`. Idle connections stay open for
        `idle_grace_s`, since their clients may be about to send: closed at once, they would see a reset.
        """
        self.is_draining = True
        started = self.loop.time()
        while self.connections:
            waited = self.loop.time() - started
            num_busy = sum(connection.is_busy for connection in self.connections)
            if waited > limit_s or (not num_busy and waited > idle_grace_s):
                break
            await asyncio.sleep(0.01)
        self._sweeper.cancel()
        cut = [connection for connection in self.connections if connection.is_busy]
        for connection in list(self.connections):
            connection.close()
        if tasks := list(self.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        return not cut

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [connection for connection in self.connections if connection.deadline < now]:
            connection.expire()
        self._sweeper = self.loop.call_later(self.limits.sweep_s, self._sweep)


class _ChunkedDecoder:
    """Takes a chunked body apart, with the parser that has read its head."""

    def __init__(self, parser: HttpRequestParser, payload: StreamReader) -> None:
        self.is_at_end = False
        self._parser = parser
        self._payload = payload

    def decode(self, data: bytes) -> bytes:
        """The bytes of the body in `data`. Raises HttpProcessingError."""
        self._parser.feed_data(data)
        if error := self._payload.exception():
            raise HttpProcessingError(message=str(error)) from error
        self.is_at_end = self._payload.is_eof()
        return self._payload.read_nowait(-1)


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: HttpServer) -> None:
        self.deadline = inf
        self._server = server
        self._limits = server.limits
        self._service = server.service
        self._loop = server.loop
        self._transport: asyncio.Transport | None = None
        self._state = State.HEAD
        self._pending: bytes | memoryview = b""
        self._is_advancing = False
        self._is_reading = True
        self._is_flow_stopped = False
        self._request: Request | None = None
        self._num_left: float = 0
        self._decoder: _ChunkedDecoder | None = None
        self._task: asyncio.Task[None] | None = None
        self._unflushed: Answer | None = None
        self._closes = False

    @property
    def is_busy(self) -> bool:
        """Whether a request is on its way in or out."""
        return self._state is not State.HEAD or bool(self._pending)

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # With 0, uvloop writes at once instead of at the end of its turn, and pauses us while anything is unsent.
        self._transport.set_write_buffer_limits(high=0)
        self._server.connections.add(self)
        self.deadline = self._loop.time() + self._limits.head_timeout_s

    def data_received(self, data: bytes) -> None:
        if self._state is State.DISCARDING and self._num_left == inf:
            return
        if self._state is State.HEAD and not self._pending:
            self.deadline = self._loop.time() + self._limits.head_timeout_s
        self._pending = bytes(self._pending) + data if self._pending else data
        if self._state is State.ANSWERING or self._state is State.FLUSHING:
            if len(self._pending) > self._limits.max_pipelined_bytes and self._transport and self._is_reading:
                self._is_reading = False
                self._transport.pause_reading()
            return
        self._advance()

    def pause_writing(self) -> None:
        self._is_flow_stopped = True

    def resume_writing(self) -> None:
        self._is_flow_stopped = False
        if self._request and self._unflushed:
            self._written(self._request, self._unflushed)
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        self._decoder = None
        self._pending = b""
        request, self._request = self._request, None
        if self._task:
            self._task.cancel()
        if request:
            self._service.complete(request, None, 0)

    def expire(self) -> None:
        """End the wait whose `deadline` has passed."""
        self.deadline = inf
        if not self._transport:
            return
        if self._state is State.BODY or (self._state is State.HEAD and self._pending):
            self._reject(408, "RequestTimeout", "The request did not arrive in time.")
        elif self._state is State.FLUSHING:
            self._transport.abort()
        else:
            self._transport.close()

    def close(self) -> None:
        """Close after what is already written has left."""
        if self._transport:
            self._transport.close()

    # Reading

    def _advance(self) -> None:
        """Work through the pending bytes until more are needed or a request runs."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._pending and self._transport and not self._transport.is_closing():
                if self._state is State.HEAD:
                    if not self._read_head():
                        break
                elif self._state is State.BODY and self._request:
                    self._read_body(self._request)
                elif self._state is State.DISCARDING:
                    self._discard()
                else:
                    break
        finally:
            self._is_advancing = False

    def _read_head(self) -> bool:
        """Read one head from the pending bytes; False when it is incomplete."""
        data = bytes(self._pending)
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or end > self._limits.max_head_bytes:
            if end >= 4 or len(data) > self._limits.max_head_bytes:
                limit = self._limits.max_head_bytes
                self._reject(431, "RequestHeaderFieldsTooLarge", f"The request head is larger than {limit} bytes.")
            return end >= 4
        self._pending = memoryview(data)[end:] if len(data) > end else b""
        parser = HttpRequestParser(
            self._server.parser_protocol,
            self._loop,
            NO_FLOW_CONTROL,
            max_line_size=self._limits.max_head_bytes,
            max_field_size=self._limits.max_head_bytes,
            max_headers=self._limits.max_headers,
            auto_decompress=False,
        )
        try:
            messages, _, _ = parser.feed_data(data[:end])
        except LineTooLong:
            self._reject(431, "RequestHeaderFieldsTooLarge", "A header field is too large.")
            return True
        except (HttpProcessingError, ValueError):
            self._reject(400, "BadRequest", "The request is not well-formed HTTP/1.1.")
            return True
        if len(messages) != 1:
            self._reject(400, "BadRequest", "The request is not well-formed HTTP/1.1.")
            return True
        message, payload = messages[0]
        if message.version not in (HttpVersion10, HttpVersion11):
            self._reject(400, "BadRequest", "The protocol must be HTTP/1.0 or HTTP/1.1.")
            return True
        encodings = message.headers.getall("Transfer-Encoding", None)
        if encodings and (len(encodings) > 1 or encodings[0].lower() != "chunked" or message.version == HttpVersion10):
            self._reject(400, "BadRequest", "The only Transfer-Encoding understood is chunked, in HTTP/1.1.")
            return True
        self._begin(message, parser, payload)
        return True

    def _begin(self, message: RawRequestMessage, parser: HttpRequestParser, payload: StreamReader) -> None:
        headers = message.headers
        length = None if message.chunked else int(headers.get("Content-Length", "0"))
        now = self._loop.time()
        request = self._request = Request(
            method=message.method,
            target=message.path if message.path.startswith("/") else str(message.url.raw_path_qs),
            headers=headers,
            protocol="HTTP/1.0" if message.version == HttpVersion10 else "HTTP/1.1",
            keep_alive=not message.should_close and length is not None and message.method != "CONNECT",
            content_length=length,
            started=now,
            id=self._server.request_ids.next(),
        )
        self._num_left = inf if length is None else length
        if length is None:
            self._decoder = _ChunkedDecoder(parser, payload)
        self._state = State.BODY
        refusal = self._service.begin(request)
        if refusal:
            self._refuse(request, refusal)
            return
        self.deadline = now + min(self._limits.body_idle_timeout_s, self._limits.body_timeout_s)
        if length == 0:
            self._run(request)
        elif self._transport and not self._pending and headers.get("Expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, request: Request) -> None:
        if self._decoder:
            data, self._pending = bytes(self._pending), b""
            try:
                chunk: bytes | memoryview = self._decoder.decode(data)
            except HttpProcessingError:
                self._refuse(request, error(400, "BadRequest", "The chunked body is malformed.", must_close=True))
                return
            if self._decoder.is_at_end:
                self._num_left = 0
        else:
            chunk = self._take(self._num_left)
            self._num_left -= len(chunk)
        if refusal := self._service.receive(request, len(chunk)):
            self._refuse(request, refusal)
            return
        request.chunks.append(chunk)
        request.num_bytes += len(chunk)
        if self._num_left == 0:
            self._run(request)
            return
        now = self._loop.time()
        self.deadline = min(now + self._limits.body_idle_timeout_s, request.started + self._limits.body_timeout_s)

    def _take(self, num_bytes: float) -> bytes | memoryview:
        """At most `num_bytes` of the pending bytes."""
        data = self._pending
        if len(data) <= num_bytes:
            self._pending = b""
            return data
        self._pending = bytes(data[int(num_bytes) :])
        return data[: int(num_bytes)]

    def _discard(self) -> None:
        self._num_left -= len(self._take(self._num_left))
        if self._num_left == 0:
            self._next()

    # Answering

    def _run(self, request: Request) -> None:
        request.received = self._loop.time()
        self.deadline = inf
        self._state = State.ANSWERING
        self._decoder = None
        self._task = task = self._loop.create_task(self._respond(request))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _respond(self, request: Request) -> None:
        try:
            answer = await self._service.answer(request)
        except Exception:
            logger.exception("request %s failed", request.id)
            answer = error(500, "InternalServerError", "The gateway failed; its log has the details.")
        self._task = None
        if self._request is request:
            self._write(request, answer)
            self._advance()

    def _reject(self, status: int, code: str, message: str) -> None:
        """Refuse what could not be read as a request, or not in time."""
        request = self._request
        if request is None:
            request = self._request = self._server.blank_request()
            self._num_left = inf
        self._refuse(request, error(status, code, message, must_close=True))

    def _refuse(self, request: Request, answer: Answer) -> None:
        """Answer before the request is complete; what is left of it will be dropped."""
        self._write(request, answer)

    def _write(self, request: Request, answer: Answer) -> None:
        transport = self._transport
        if transport is None:
            return
        request.answered = self._loop.time()
        is_early = self._state is not State.ANSWERING
        self._closes = answer.must_close or not request.keep_alive or self._server.is_draining
        if is_early and self._num_left:
            self._closes |= self._num_left > self._limits.max_kept_discard_bytes or "Expect" in request.headers
        else:
            self._num_left = 0
        lines = [
            f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Unknown')}",
            f"content-type: {answer.content_type}",
            f"content-length: {len(answer.body)}",
            f"date: {self._server.date()}",
        ]
        for name, value in request.answer_headers.items():
            lines.append(f"{name}: {value}")
        for name, value in answer.headers.items():
            lines.append(f"{name}: {value}")
        if self._closes:
            lines.append("connection: close")
        elif request.protocol == "HTTP/1.0":
            lines.append("connection: keep-alive")
        lines.append("\r\n")
        head = "\r\n".join(lines).encode("latin-1")
        transport.write(head if request.method == "HEAD" else head + answer.body)
        self._state = State.FLUSHING
        if self._is_flow_stopped:
            self._unflushed = answer
            self.deadline = self._loop.time() + self._limits.write_timeout_s
        else:
            self._written(request, answer)

    def _written(self, request: Request, answer: Answer) -> None:
        self._request = self._unflushed = None
        self._service.complete(request, answer, 0 if request.method == "HEAD" else len(answer.body))
        if self._num_left == 0:
            self._next()
            return
        self._state = State.DISCARDING
        self.deadline = self._loop.time() + self._limits.discard_timeout_s
        if self._closes and self._transport and self._transport.can_write_eof():
            self._transport.write_eof()

    def _next(self) -> None:
        """Be ready for the next request, or close."""
        self._decoder = None
        transport = self._transport
        if self._closes or not transport:
            self.close()
            return
        self._state = State.HEAD
        self.deadline = self._loop.time() + self._limits.keep_alive_timeout_s
        if not self._is_reading:
            self._is_reading = True
            transport.resume_reading()
