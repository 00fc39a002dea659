"""All connections of the listening socket: their time limits and their end."""

import asyncio
import time
from email.utils import formatdate

from clearsight.serving.gateway.head import HeadParser
from clearsight.serving.gateway.http1 import Connection
from clearsight.serving.gateway.limits import HttpLimits
from clearsight.serving.gateway.request import Request, RequestIds, Service

__all__ = ["HttpServer"]


class HttpServer:
    """All connections of one listening socket."""

    def __init__(self, service: Service, limits: HttpLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.limits = limits
        self.loop = loop
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.heads = HeadParser(limits.max_head_bytes, limits.max_headers)
        self.tasks: set[asyncio.Task[None]] = set()
        self.request_ids = RequestIds()
        self._date = ("", 0)
        self._sweeper = loop.call_later(limits.sweep_s, self._sweep)

    def __call__(self) -> Connection:
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
        return Request("", "", {}, "HTTP/1.1", False, None, self.loop.time(), self.request_ids.next())

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
