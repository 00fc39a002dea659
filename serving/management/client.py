"""Runs a verb: on the running server of the workspace or, when there is none, directly on the store."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from clearsight.errors import ClearsightError, Conflict, NotFound, ServerUnavailable, UserError
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.control import HAND_OVER, VERBS
from clearsight.serving.management.service import EndpointService, Save, Step
from clearsight.serving.management.store import DeploymentRecord, EndpointStore, StoreInUse
from clearsight.serving.management.views import view_of
from clearsight.unix_sockets import reachable_path

__all__ = ["READ_ONLY_VERBS", "OfflineRuntime", "call", "take_over"]

READ_ONLY_VERBS: Final = frozenset(
    {"show_endpoint", "list_endpoints", "get_credentials", "show_deployment", "list_deployments", "get_logs"}
)
"""Verbs that change nothing, but for a token that `get_credentials` renews."""

START_TIMEOUT_S: Final = 20.0
"""How long a verb waits for a server that holds the store while it starts or stops."""

POLL_S: Final = 0.2

SILENCE_S: Final = 15.0
"""A server writes a line at least every `control.ALIVE_S`; one that is silent for longer hangs."""

HAND_OVER_TIMEOUT_S: Final = 300.0
"""How long a server that hands over may finish requests of deployments that were replaced."""

ERRORS: Final[Mapping[int, type[ClearsightError]]] = {
    400: UserError,
    404: NotFound,
    409: Conflict,
    503: ServerUnavailable,
}


class OfflineRuntime:
    """The runtime of verbs without a server: they write the store, and the next server starts what it holds."""

    is_serving = False

    async def roll_out(self, record: DeploymentRecord, on_step: Step, save: Save) -> None:
        raise ServerUnavailable("no server runs")

    async def publish(self) -> None:
        """No gateway runs."""

    async def retire(self, endpoint: str, deployment: str) -> None:
        """No process runs."""

    def is_running(self, endpoint: str, deployment: str) -> bool:
        return False


def call(
    workspace: Workspace,
    verb: str,
    arguments: Mapping[str, Any],
    on_step: Step = lambda step: None,
    on_offline: Callable[[], None] = lambda: None,
) -> Any:
    """Run a verb to its end and return its result. Raises the ClearsightError that the verb raised.

    `on_offline` is called when no server runs and the verb has changed or read the store alone.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    is_waiting = False
    while True:
        # No socket, that of a killed server, or no workspace at all.
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
            return asyncio.run(_call_server(workspace, verb, arguments, on_step))
        try:
            result = _call_store(workspace, verb, arguments)
        except StoreInUse:
            if time.monotonic() > deadline:
                raise
            if not is_waiting:
                on_step("waiting for a server that starts or stops")
                is_waiting = True
            time.sleep(POLL_S)
        else:
            on_offline()
            return result


async def take_over(store: EndpointStore, report: Callable[[str], None]) -> None:
    """Have the server that runs on the workspace, if any, leave its processes and exit; returns when it has.

    Raises Conflict while it changes a deployment.
    """
    try:
        await _call_server(store.workspace, HAND_OVER, {}, lambda step: None)
    except (ConnectionRefusedError, FileNotFoundError):
        report("no server runs on the workspace; nothing to take over")
        return
    deadline = time.monotonic() + HAND_OVER_TIMEOUT_S
    while True:
        try:
            with store.lock():
                return
        except StoreInUse:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_S)


def _call_store(workspace: Workspace, verb: str, arguments: Mapping[str, Any]) -> Any:
    store = EndpointStore(workspace)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(store.lock())
        except OSError:  # the workspace cannot be written, but what it holds can be read
            if verb not in READ_ONLY_VERBS:
                raise
        service = EndpointService(store, ModelRegistry(workspace), OfflineRuntime())
        given = {name: value for name, value in arguments.items() if name != "no_wait"}
        return view_of(asyncio.run(VERBS[verb](service, **given)), store.base_url)


async def _call_server(workspace: Workspace, verb: str, arguments: Mapping[str, Any], on_step: Step) -> Any:
    """Raises FileNotFoundError or ConnectionRefusedError when no server listens."""
    with reachable_path(workspace.control_socket) as path:
        connector = aiohttp.UnixConnector(path)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**24) as session:
            try:
                async with session.post(f"http://localhost/{verb}", data=json.dumps(dict(arguments))) as response:
                    async for line in response.content:
                        event = json.loads(line)
                        if not event:
                            continue  # a sign of life
                        if "step" in event:
                            on_step(event["step"])
                        elif "error" in event:
                            error = event["error"]
                            raise ERRORS.get(error["status"], ClearsightError)(error["message"])
                        else:
                            return event["result"]
            except aiohttp.ClientConnectorError as error:
                raise error.os_error from None
            except TimeoutError:
                raise ServerUnavailable(
                    f"the server must answer within {SILENCE_S:.0f} s, but has not; it hangs: end it, "
                    "and start it again with `clearsight serve`, which adopts what runs"
                ) from None
            except aiohttp.ClientError as error:
                raise ServerUnavailable(f"the server stopped answering: {error}") from None
    raise ServerUnavailable("the server stopped answering before the end")
