"""Reading what an attacker could manipulate - request line, header fields, framing - with llhttp in its strict mode.

httptools gives llhttp to Python. llhttp keeps the grammar of RFC 9112; what it leaves to its callers is decided in
`HeadParser.parse`: a missing or repeated field, the number of fields, the form of the target.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from clearsight.errors import BadRequest

__all__ = ["ChunkedDecoder", "Head", "HeadParser", "HeadRefused"]

SINGLETON_FIELDS: Final = frozenset({
    "content-length", "content-location", "content-range", "content-type", "etag", "host", "max-forwards", "server",
    "transfer-encoding", "user-agent",
})  # fmt: skip
"""Fields that are no lists (RFC 9110, 5.3): of two, a proxy in front might obey another one than the gateway does."""

SERVED_PROTOCOL: Final = re.compile(rb"[\r\n]*[^\r\n]* HTTP/1\.[01]\r\n")
"""llhttp also knows other versions, and RTSP and ICE, which it does not tell apart from HTTP."""

CHUNKED_HEAD: Final = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
"""Puts a new parser at the start of a chunked body. `close` makes it stop at the end of that body."""


class HeadRefused(BadRequest):
    """A head that is not served; `http_status`, `code` and the text are for the client."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.http_status = status
        self.code = code
        super().__init__(message)


class ChunkedDecoder:
    """Takes a chunked body apart. Drops trailer fields (RFC 9112, 7.1.2); too many of them are malformed.

    `max_trailer_bytes` counts what arrives after the piece of data with the last chunk.
    """

    def __init__(self, max_trailer_bytes: int) -> None:
        self.is_at_end = False
        self._max_trailer_bytes = max_trailer_bytes
        self._num_trailer_bytes = 0
        self._is_chunk_empty = False
        self._pieces: list[bytes] = []
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(CHUNKED_HEAD)

    def decode(self, data: bytes) -> bytes:
        """The bytes of the body in `data`; what follows the body is ignored. Raises HttpParserError."""
        was_chunk_empty = self._is_chunk_empty
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            if not self.is_at_end:
                raise
        body = b"".join(self._pieces)
        self._pieces.clear()
        if was_chunk_empty and not body:
            # The first byte after a chunk's size line is content, except after that of the last chunk, of size 0.
            self._num_trailer_bytes += len(data)
            if self._num_trailer_bytes > self._max_trailer_bytes:
                raise HttpParserError("too many trailer fields")
        return body

    # llhttp calls these

    def on_chunk_header(self) -> None:
        self._is_chunk_empty = True

    def on_body(self, piece: bytes) -> None:
        self._is_chunk_empty = False
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self.is_at_end = True


@dataclass(frozen=True, slots=True)
class Head:
    """One request head. Of fields that came more than once, `headers` has the first; their names are lower-case."""

    method: str
    target: str
    """Path and query, as the client spelled them."""
    headers: Mapping[str, str]
    is_http10: bool
    keep_alive: bool
    content_length: int | None
    """None when the body is chunked."""


class HeadParser:
    """Parses heads. `max_head_bytes` limits the size of a head, `max_headers` the number of its fields."""

    def __init__(self, max_head_bytes: int, max_headers: int) -> None:
        self.max_head_bytes = max_head_bytes
        self._max_headers = max_headers

    def find_end(self, data: bytes) -> int:
        """Where the head at the start of `data` ends; 0 while it is incomplete. Raises HeadRefused beyond the limit."""
        end = data.find(b"\r\n\r\n") + 4
        if end > self.max_head_bytes or (end < 4 and len(data) > self.max_head_bytes):
            message = f"The request head must be at most {self.max_head_bytes} bytes long."
            raise HeadRefused(431, "RequestHeaderFieldsTooLarge", message)
        return end if end >= 4 else 0

    def parse(self, data: bytes) -> Head:
        """Parse one complete head. Raises HeadRefused."""
        try:
            seen = _SeenHead(data)
            headers = self._check_fields(seen.fields)
            if "host" not in headers and seen.version == "1.1":
                raise ValueError("no Host")
            target = _path_and_query(seen.method, seen.target.decode("ascii"))
        except (HttpParserError, ValueError):
            raise HeadRefused(400, "BadRequest", "The request is not well-formed HTTP/1.1.") from None
        if not SERVED_PROTOCOL.match(data):
            raise HeadRefused(400, "BadRequest", "The protocol must be HTTP/1.0 or HTTP/1.1.")
        is_http10 = seen.version == "1.0"
        content_length: int | None = int(headers.get("content-length", "0"))
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked" or is_http10:
                raise HeadRefused(400, "BadRequest", "The only Transfer-Encoding understood is chunked, in HTTP/1.1.")
            content_length = None
        return Head(seen.method, target, headers, is_http10, seen.keep_alive, content_length)

    def _check_fields(self, fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
        """The fields by lower-case name, the first of each. Raises ValueError."""
        if len(fields) > self._max_headers:
            raise ValueError("too many fields")
        headers: dict[str, str] = {}
        for raw_name, raw_value in fields:
            name = raw_name.decode("ascii").lower()
            if name not in headers:
                # llhttp leaves the whitespace that may follow a value.
                headers[name] = raw_value.rstrip(b" \t").decode("utf-8", "surrogateescape")
            elif name in SINGLETON_FIELDS:
                raise ValueError(f"two {name}")
        return headers


class _SeenHead:
    """What llhttp reports of one head."""

    def __init__(self, data: bytes) -> None:
        """Raises HttpParserError or ValueError."""
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self._is_complete = False
        self._parser = parser = HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # the request is served all the same: a server may ignore Upgrade (RFC 9110, 7.8)
        finally:
            del self._parser  # it refers to this object, which is then freed without the garbage collector
        if not self._is_complete:
            raise ValueError("no request")
        self.method = parser.get_method().decode("ascii")
        self.version = parser.get_http_version()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._is_complete = True
        self.keep_alive = self._parser.should_keep_alive()


def _path_and_query(method: str, target: str) -> str:
    """The path and query of a request target in any of its four forms (RFC 9112, 3.2). Raises ValueError."""
    if method == "CONNECT":
        url = urlsplit(f"//{target}")
        if url.path or url.query:
            raise ValueError("no authority-form")
    elif target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return target
    else:
        url = urlsplit(target)
    if not url.hostname or url.port == 0:  # urlsplit raises ValueError for any other port out of range
        raise ValueError("no authority")
    return (url.path or "/") + (f"?{url.query}" if url.query else "")
