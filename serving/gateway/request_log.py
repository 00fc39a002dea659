"""The request log: one JSON line per request, with the column names of Azure's online endpoint traffic log.

Lines are kept in memory and written by a thread, so that a slow disk never delays a request. A full or read-only
disk costs lines, which are counted, and nothing else. Neither keys nor images are ever in a line, and JSON escapes
every control character a client may send.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import orjson

from clearsight.background import keep_running
from clearsight.files import open_log
from clearsight.serving.gateway.answers import REASONS, HttpAnswer
from clearsight.serving.gateway.request import Request

__all__ = ["RequestLog"]

logger = logging.getLogger(__name__)

MAX_USER_AGENT_CHARS = 70
MAX_PATH_CHARS = 200
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that closed the connection before its answer."""


class RequestLog:
    """Writes to `path`; beyond `max_bytes` the file is renamed to `<name>.1` and so on, `num_kept` old ones stay."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        num_kept: int = 3,
        max_pending_lines: int = 100_000,
        flush_interval_s: float = 0.5,
    ) -> None:
        self.path = path
        self.num_lost_lines = 0
        self._max_bytes = max_bytes
        self._num_kept = num_kept
        self._max_pending_lines = max_pending_lines
        self._flush_interval_s = flush_interval_s
        self._lines: list[bytes] = []
        self._clock_offset = 0.0
        self._second = (0, "")
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to write every `flush_interval_s`. Raises OSError when the file cannot be opened for writing."""
        with open_log(self.path):
            self._clock_offset = time.time() - loop.time()
            self._task = loop.create_task(keep_running(self._run, "request log"))

    async def stop(self) -> None:
        """Write what is left."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._flush(self._take())

    def write(self, request: Request, answer: HttpAnswer | None, num_bytes: int, now: float) -> None:
        """Add the line of one finished request; a successful health probe has none."""
        if answer and answer.status == 200 and not request.auth_type:
            return
        if len(self._lines) >= self._max_pending_lines:
            self.num_lost_lines += 1
            return
        self._lines.append(orjson.dumps(self._entry(request, answer, num_bytes, now), option=orjson.OPT_APPEND_NEWLINE))

    def _entry(self, request: Request, answer: HttpAnswer | None, num_bytes: int, now: float) -> dict[str, Any]:
        status = answer.status if answer else CLIENT_CLOSED_REQUEST
        received, answered = request.received or now, request.answered or now
        return {
            "TimeGenerated": self._timestamp(int(request.started + self._clock_offset)),
            "Method": request.method,
            "Path": _clean(request.target.partition("?")[0], MAX_PATH_CHARS),
            "EndpointName": request.endpoint,
            "DeploymentName": request.deployment,
            "Lane": request.lane,
            "Protocol": request.protocol,
            "ResponseCode": status,
            "ResponseCodeReason": (answer.code or REASONS.get(status, "")) if answer else "ClientClosedRequest",
            "ModelStatusCode": answer.model_status if answer else None,
            "ModelStatusReason": answer.model_reason if answer else "",
            "RequestPayloadSize": request.num_bytes,
            "ResponsePayloadSize": num_bytes,
            "UserAgent": _clean(request.headers.get("user-agent", ""), MAX_USER_AGENT_CHARS),
            "XRequestId": request.id,
            "XMSClientRequestId": request.client_request_id,
            "TotalDurationMs": round((now - request.started) * 1000, 3),
            "RequestDurationMs": round((received - request.started) * 1000, 3),
            "ResponseDurationMs": round((now - answered) * 1000, 3),
            "RequestThrottlingDelayMs": 0,
            "ResponseThrottlingDelayMs": 0,
            "AuthType": request.auth_type,
        }

    def _timestamp(self, seconds: int) -> str:
        if self._second[0] != seconds:
            self._second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)))
        return self._second[1]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._flush_interval_s)
            if self._lines:
                # Shielded: a write under way when the log stops must end before the last lines are written.
                await asyncio.shield(asyncio.to_thread(self._flush, self._take()))

    def _take(self) -> list[bytes]:
        lines, self._lines = self._lines, []
        return lines

    def _flush(self, lines: list[bytes]) -> None:
        if not lines:
            return
        try:
            with open_log(self.path) as file:
                file.write(b"".join(lines))
                size = file.tell()
            if size > self._max_bytes:
                self._rotate()
        except OSError as error:
            self.num_lost_lines += len(lines)
            logger.warning("the request log %s cannot be written, %d lines lost: %s", self.path, len(lines), error)

    def _rotate(self) -> None:
        for number in range(self._num_kept, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            if newer.exists():
                newer.replace(older)


def _clean(text: str, max_chars: int) -> str:
    """A text of the client, cut, with bytes that are not UTF-8 escaped."""
    text = text[:max_chars]
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
