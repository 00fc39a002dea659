"""The control plane: a unix socket (0600) on which the supervisor sets the routing table and watches the gateway.

| call | answer |
| --- | --- |
| `PUT /table` | 200 `{"version": n}` when the table is in force and on disk; else the old one stays in force: |
| | 400 with every fault of the document, 500 when the state file cannot be written |
| `GET /in-flight` | `{"<generation>": requests waiting or running}`; an absent generation has none |
| `GET /health` | `{"status": "ok" or "draining", "table_version": n, …}` |
| `GET /metrics` | Prometheus' text format |
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from clearsight.errors import InvalidDocument
from clearsight.files import write_atomically
from clearsight.serving.gateway.dataplane import DataPlane
from clearsight.serving.gateway.table import RoutingTable

__all__ = ["ControlPlane"]

MAX_TABLE_BYTES = 4 * 1024 * 1024


class ControlPlane:
    """The routes of the control socket. `health` and `metrics_page` are called for each request."""

    def __init__(
        self,
        data_plane: DataPlane,
        state_file: Path,
        health: Callable[[], dict[str, Any]],
        metrics_page: Callable[[], bytes],
    ) -> None:
        self._data_plane = data_plane
        self._state_file = state_file
        self._health = health
        self._metrics_page = metrics_page
        self._writing = asyncio.Lock()

    def application(self) -> web.Application:
        """Everything, for the private socket."""
        application = web.Application(client_max_size=MAX_TABLE_BYTES)
        application.router.add_put("/table", self._put_table)
        application.router.add_get("/in-flight", self._get_in_flight)
        application.router.add_get("/health", self._get_health)
        application.router.add_get("/metrics", self._get_metrics)
        return application

    def metrics_application(self) -> web.Application:
        """The metrics alone, for a scraper on loopback."""
        application = web.Application()
        application.router.add_get("/metrics", self._get_metrics)
        return application

    async def _put_table(self, request: web.Request) -> web.Response:
        try:
            table = RoutingTable.from_json(await request.read())
        except InvalidDocument as error:
            return web.json_response({"error": {"code": "BadArgument", "message": str(error)}}, status=400)
        async with self._writing:
            # On disk first: a gateway that is killed between the two restarts with the table that it accepted.
            try:
                await asyncio.to_thread(write_atomically, self._state_file, table.to_json(), 0o600)
            except OSError as error:
                message = f"The table is not in force, for {self._state_file} cannot be written: {error.strerror}."
                return web.json_response({"error": {"code": "InternalServerError", "message": message}}, status=500)
            self._data_plane.swap(table)
        return web.json_response({"version": table.version})

    async def _get_in_flight(self, _: web.Request) -> web.Response:
        return web.json_response(self._data_plane.in_flight())

    async def _get_health(self, _: web.Request) -> web.Response:
        return web.json_response(self._health())

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics_page(), headers={"Content-Type": "text/plain; version=0.0.4"})
