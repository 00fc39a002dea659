"""A request inside the gateway, and the interface of the service that answers it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from clearsight.serving.gateway.answers import HttpAnswer

__all__ = ["Request", "RequestIds", "Service"]


@dataclass(slots=True, eq=False)
class Request:
    """One request. Times are of the event loop's clock, in seconds."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""
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
    """Headers that the answer gets in any case."""
    endpoint: str = ""
    deployment: str = ""
    lane: str = ""
    """`predict`, `explain` or `jobs`, once it is chosen."""
    is_explanation: bool = False
    """Whether the route asks for explanations of all rows."""
    is_job: bool = False
    """Whether the route asks for explanations as a job, for which the client does not wait."""
    auth_type: str = ""
    client_request_id: str = ""
    num_reserved: int = 0
    """Bytes taken from the memory budget for this request."""


class Service(Protocol):
    """Answers requests. `complete` is called exactly once per request, however it ended."""

    def begin(self, request: Request) -> HttpAnswer | None:
        """Look at the head; an answer refuses or serves the request without its body."""

    def receive(self, request: Request, num_bytes: int) -> HttpAnswer | None:
        """Account for `num_bytes` more of the body; an answer refuses the request."""

    async def answer(self, request: Request) -> HttpAnswer:
        """Answer the complete request. Cancelled when the client goes."""

    def complete(self, request: Request, answer: HttpAnswer | None, num_bytes: int) -> None:
        """`answer`, with a body of `num_bytes`, was written; None: the client closed the connection before."""


class RequestIds:
    """Random UUIDs. The random bytes of many are fetched at a time."""

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
