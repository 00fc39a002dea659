"""The control socket of `clearsight serve`: it receives verbs and answers with lines of JSON.

`POST /<verb>` with the arguments as a JSON object answers 200 and one line of JSON per event: `{"step": "…"}` while
something takes time, `{}` every few seconds as a sign of life, and at the end `{"result": …}` or
`{"error": {"status", "message"}}`.
A verb runs to its end even if its client closes the connection: what it has begun (a process that loads a package) is
neither left half done nor undone because a terminal was closed. `online-deployment show` tells how it ended.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from clearsight.errors import ClearsightError
from clearsight.files import os_error_message
from clearsight.serving.management.service import RESOLVING, EndpointService
from clearsight.serving.management.views import view_of
from clearsight.unix_sockets import bind_private_socket

__all__ = ["ALIVE_S", "HAND_OVER", "LONG_VERBS", "VERBS", "ControlServer"]

log = logging.getLogger(__name__)

VERBS: Final[Mapping[str, Callable[..., Coroutine[Any, Any, Any]]]] = MappingProxyType(
    {
        "create_endpoint": EndpointService.create_endpoint,
        "update_endpoint": EndpointService.update_endpoint,
        "show_endpoint": EndpointService.show_endpoint,
        "list_endpoints": EndpointService.list_endpoints,
        "delete_endpoint": EndpointService.delete_endpoint,
        "get_credentials": EndpointService.get_credentials,
        "regenerate_keys": EndpointService.regenerate_keys,
        "create_deployment": EndpointService.create_deployment,
        "update_deployment": EndpointService.update_deployment,
        "show_deployment": EndpointService.show_deployment,
        "list_deployments": EndpointService.list_deployments,
        "delete_deployment": EndpointService.delete_deployment,
        "get_logs": EndpointService.get_logs,
    }
)
LONG_VERBS: Final = frozenset({"create_deployment", "update_deployment"})
"""Verbs that report steps."""

HAND_OVER: Final = "hand_over"
"""Not a verb of users: the server leaves its processes to another one and exits."""

ALIVE_S: Final = 3.0
"""Between two lines of an answer."""


class ControlServer:
    """Serves an `EndpointService` on a unix socket that only its owner can open."""

    def __init__(
        self, service: EndpointService, socket_path: Path, hand_over: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._service = service
        self._verbs: Mapping[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            HAND_OVER: hand_over,
            **{name: partial(function, service) for name, function in VERBS.items()},
        }
        self._path = socket_path
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. The socket of a server that was killed is replaced; raises Conflict when a server listens on it."""
        application = web.Application(client_max_size=4 * 1024 * 1024)
        application.router.add_post("/{verb}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        listener = bind_private_socket(
            self._path, f"a `clearsight serve` is already running on this workspace ({self._path})"
        )
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Stop listening, and cancel what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        self._path.unlink(missing_ok=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        verb = request.match_info["verb"]
        if verb not in self._verbs:
            raise web.HTTPNotFound(text=f"no verb {verb}")
        arguments = json.loads(await request.read())
        no_wait = bool(arguments.pop("no_wait", False))
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        task = asyncio.create_task(self._run(verb, arguments, events))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            await response.prepare(request)
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), ALIVE_S)
                except TimeoutError:
                    event = {}
                if no_wait and event.get("step", RESOLVING) != RESOLVING:  # stored; the verb continues
                    event = {"result": None}
                await response.write(json.dumps(event).encode() + b"\n")
                if event and "step" not in event:
                    break
            await response.write_eof()
        except ConnectionError:
            log.info("the client of %s has gone; the verb continues", verb)
        return response

    async def _run(self, verb: str, arguments: dict[str, Any], events: "asyncio.Queue[dict[str, Any]]") -> None:
        if verb in LONG_VERBS:
            arguments["on_step"] = lambda step: events.put_nowait({"step": step})
        try:
            result = await self._verbs[verb](**arguments)
            events.put_nowait({"result": view_of(result, self._service.store.base_url)})
        except ClearsightError as error:
            events.put_nowait({"error": {"status": error.status, "message": str(error)}})
        except OSError as error:
            log.error("%s failed: %s", verb, os_error_message(error))
            events.put_nowait({"error": {"status": 500, "message": os_error_message(error)}})
        except asyncio.CancelledError:
            events.put_nowait({"error": {"status": 503, "message": "the server is being stopped"}})
        except Exception as error:
            log.exception("%s failed", verb)
            message = f"{type(error).__name__}: {error} (the server's log has the rest)"
            events.put_nowait({"error": {"status": 500, "message": message}})
