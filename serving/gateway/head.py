"""Reading what an attacker could bend - request line, header fields, framing - with llhttp in its strict mode.

llhttp comes with aiohttp. A parser lives for one request: it sees its head and, when chunked, its body.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

from clearsight.errors import BadRequest

__all__ = ["ChunkedDecoder", "Head", "HeadParser", "HeadRefused"]

NO_FLOW_CONTROL: Final = 2**30
"""Limit of the parser's own buffer, which is emptied after each piece: never reached."""


class HeadRefused(BadRequest):
    """A head that is not served; `http_status`, `code` and the text are for the client."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.http_status = status
        self.code = code
        super().__init__(message)


class ChunkedDecoder:
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


@dataclass(frozen=True, slots=True)
class Head:
    """One request head. `content_length` is None, and `decoder` is there, when the body is chunked."""

    message: RawRequestMessage
    is_http10: bool
    content_length: int | None
    decoder: ChunkedDecoder | None

    @property
    def target(self) -> str:
        """Path and query, as the client spelled them."""
        message = self.message
        return message.path if message.path.startswith("/") else message.url.raw_path_qs


class HeadParser:
    """Makes a parser per head. `max_head_bytes` bounds all of it, `max_headers` the number of its fields."""

    def __init__(self, max_head_bytes: int, max_headers: int, loop: asyncio.AbstractEventLoop) -> None:
        self.max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._loop = loop
        self._protocol = BaseProtocol(loop)

    def find_end(self, data: bytes) -> int:
        """Where the head at the start of `data` ends; 0 while it is incomplete. Raises HeadRefused beyond the limit."""
        end = data.find(b"\r\n\r\n") + 4
        if end > self.max_head_bytes or (end < 4 and len(data) > self.max_head_bytes):
            message = f"The request head must be at most {self.max_head_bytes} bytes long."
            raise HeadRefused(431, "RequestHeaderFieldsTooLarge", message)
        return end if end >= 4 else 0

    def parse(self, data: bytes) -> Head:
        """Parse one whole head. Raises HeadRefused."""
        parser = HttpRequestParser(
            self._protocol,
            self._loop,
            NO_FLOW_CONTROL,
            max_line_size=self.max_head_bytes,
            max_field_size=self.max_head_bytes,
            max_headers=self._max_headers,
            auto_decompress=False,
        )
        try:
            messages, _, _ = parser.feed_data(data)
        except LineTooLong:
            raise HeadRefused(431, "RequestHeaderFieldsTooLarge", "A header field is too large.") from None
        except (HttpProcessingError, ValueError):
            messages = []
        if len(messages) != 1:
            raise HeadRefused(400, "BadRequest", "The request is not well-formed HTTP/1.1.")
        message, payload = messages[0]
        if message.version not in (HttpVersion10, HttpVersion11):
            raise HeadRefused(400, "BadRequest", "The protocol must be HTTP/1.0 or HTTP/1.1.")
        is_http10 = message.version == HttpVersion10
        encodings = message.headers.getall("Transfer-Encoding", None)
        if encodings is None:
            return Head(message, is_http10, int(message.headers.get("Content-Length", "0")), None)
        if len(encodings) > 1 or encodings[0].lower() != "chunked" or is_http10:
            raise HeadRefused(400, "BadRequest", "The only Transfer-Encoding understood is chunked, in HTTP/1.1.")
        return Head(message, is_http10, None, ChunkedDecoder(parser, payload))
