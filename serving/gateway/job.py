"""One explanation that nobody waits for in a request: what is kept of it, and how a client sees it."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import orjson

from clearsight.serving.gateway.answers import Answer

__all__ = ["Job", "Status"]

Status = Literal["Queued", "Running", "Completed", "Failed", "Canceled"]

MAX_MESSAGE_CHARS: Final = 2000


@dataclass(slots=True, eq=False)
class Job:
    """Of one deployment. The body is dropped, and the answer kept, when it ends."""

    id: str
    endpoint: str
    deployment: str
    request_id: str
    chunks: list[bytes | memoryview]
    num_bytes: int
    created: datetime
    num_held: int
    """Bytes taken from the budget."""
    status: Status = "Queued"
    progress: dict[str, Any] = field(default_factory=dict)
    answer: Answer | None = None
    reason: str = ""
    """Why it was canceled."""
    expires: float | None = None
    """When it is forgotten, by the clock of the jobs; None while it has not ended."""
    expires_at: datetime | None = None
    task: "asyncio.Task[None] | None" = None

    def to_body(self) -> bytes:
        """JSON. The result is the body that a request would have been answered with, byte for byte."""
        document: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "deployment": self.deployment,
            "created": self.created.isoformat(timespec="seconds"),
        }
        if self.progress and self.status != "Completed":  # the last word of it came before the end
            document["progress"] = self.progress
        if self.expires_at is not None:
            document["expires"] = self.expires_at.isoformat(timespec="seconds")
        if self.status == "Canceled":
            document["error"] = {"message": self.reason}
        if self.answer is None:
            return orjson.dumps(document)
        if self.status == "Failed":
            document["error"] = _error_of(self.answer)
            return orjson.dumps(document)
        return orjson.dumps(document)[:-1] + b',"result":' + self.answer.body + b"}"


def _error_of(answer: Answer) -> dict[str, Any]:
    """What a request would have been answered: its status, the model's where it gave one, and the message."""
    try:
        document = orjson.loads(answer.body)
        message = str(document.get("error", document)["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        message = answer.body.decode("utf-8", "replace")
    found: dict[str, Any] = {"status": answer.status, "message": message[:MAX_MESSAGE_CHARS]}
    return found if answer.model_status is None else {**found, "model_status": answer.model_status}
