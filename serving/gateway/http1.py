"""Connections of clients: HTTP/1.1, one request at a time on each, with a limit for every size and every wait.

```
           head complete        body complete           answer written
  HEAD ──────────────────> BODY ─────────────> ANSWERING ─────────────> HEAD (keep-alive) or closed
   │ malformed, too large   │ refused early        │ client reads slowly
   v                        v                      v
  DISCARDING (bounded) <────┘                   FLUSHING (bounded)
```

`head.py` reads heads and chunks; the bytes of a body with Content-Length are only counted here. The connection is
closed after a chunked request: what follows it in the same packet is inside the parser and is dropped.
"""

import asyncio
import logging
from enum import Enum, auto
from math import inf
from typing import Protocol, cast

from httptools import HttpParserError

from clearsight.serving.gateway.answers import REASONS, HttpAnswer, error
from clearsight.serving.gateway.head import ChunkedDecoder, Head, HeadParser, HeadRefused
from clearsight.serving.gateway.limits import HttpLimits
from clearsight.serving.gateway.request import Request, RequestIds, Service

__all__ = ["Connection"]

logger = logging.getLogger(__name__)


class ConnectionOwner(Protocol):
    """What a connection uses of the server that accepted it."""

    service: Service
    limits: HttpLimits
    loop: asyncio.AbstractEventLoop
    connections: "set[Connection]"
    is_draining: bool
    heads: HeadParser
    tasks: set[asyncio.Task[None]]
    request_ids: RequestIds

    def date(self) -> str: ...

    def blank_request(self) -> Request: ...


class State(Enum):
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    FLUSHING = auto()
    DISCARDING = auto()


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: ConnectionOwner) -> None:
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
        self._decoder: ChunkedDecoder | None = None
        self._task: asyncio.Task[None] | None = None
        self._unflushed: HttpAnswer | None = None
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
            self._advance_later()

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
        """Act on a `deadline` that has passed: answer 408, or close."""
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
        """Work through the pending bytes until more are needed, a request runs or one has been answered.

        Further requests that have arrived are read in the next turn of the event loop, so that a connection that
        sends hundreds at once does not delay the others by more than one answer.
        """
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
                if self._state is State.HEAD:
                    self._advance_later()
                    break
        finally:
            self._is_advancing = False

    def _advance_later(self) -> None:
        if self._pending:
            self._loop.call_soon(self._advance)

    def _read_head(self) -> bool:
        """Read one head from the pending bytes; False when it is incomplete."""
        data = bytes(self._pending)
        try:
            end = self._server.heads.find_end(data)
            if not end:
                return False
            self._pending = memoryview(data)[end:] if len(data) > end else b""
            head = self._server.heads.parse(data[:end])
        except HeadRefused as refusal:
            self._reject(refusal.http_status, refusal.code, str(refusal))
        else:
            self._begin(head)
        return True

    def _begin(self, head: Head) -> None:
        length = head.content_length
        now = self._loop.time()
        request = self._request = Request(
            method=head.method,
            target=head.target,
            headers=head.headers,
            protocol="HTTP/1.0" if head.is_http10 else "HTTP/1.1",
            keep_alive=head.keep_alive and length is not None and head.method != "CONNECT",
            content_length=length,
            started=now,
            id=self._server.request_ids.next(),
        )
        self._num_left = inf if length is None else length
        self._decoder = ChunkedDecoder(self._limits.max_head_bytes) if length is None else None
        self._state = State.BODY
        refusal = self._service.begin(request)
        if refusal:
            self._write(request, refusal)
            return
        self.deadline = now + min(self._limits.body_idle_timeout_s, self._limits.body_timeout_s)
        if length == 0:
            self._run(request)
        elif self._transport and not self._pending and head.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, request: Request) -> None:
        if self._decoder:
            data, self._pending = bytes(self._pending), b""
            try:
                chunk: bytes | memoryview = self._decoder.decode(data)
            except HttpParserError:
                self._write(request, error(400, "BadRequest", "The chunked body is malformed.", must_close=True))
                return
            if self._decoder.is_at_end:
                self._num_left = 0
        else:
            chunk = self._take(self._num_left)
            self._num_left -= len(chunk)
        if refusal := self._service.receive(request, len(chunk)):
            self._write(request, refusal)
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
            self._advance_later()

    def _reject(self, status: int, code: str, message: str) -> None:
        """Refuse a request that is malformed or did not arrive in time."""
        request = self._request
        if request is None:
            request = self._request = self._server.blank_request()
            self._num_left = inf
        self._write(request, error(status, code, message, must_close=True))

    def _write(self, request: Request, answer: HttpAnswer) -> None:
        """Answer a request; if it is not complete yet, this refuses it, and the rest of its body is discarded."""
        transport = self._transport
        if transport is None:
            return
        request.answered = self._loop.time()
        is_early = self._state is not State.ANSWERING
        self._closes = answer.must_close or not request.keep_alive or self._server.is_draining
        if is_early and self._num_left:
            self._closes |= self._num_left > self._limits.max_kept_discard_bytes or "expect" in request.headers
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

    def _written(self, request: Request, answer: HttpAnswer) -> None:
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
