"""`clearsight serve`: one process that owns the workspace's endpoints while it runs.

It starts the gateway and one TorchServe per stored deployment, receives verbs on the control socket, and restarts
processes that end. It stops in this order: the gateway drains (running requests finish, new ones are refused), then
TorchServe ends.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from clearsight.errors import Conflict
from clearsight.executor import BackOff
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.control import ControlServer
from clearsight.serving.management.service import EndpointService
from clearsight.serving.management.store import EndpointStore
from clearsight.serving.supervisor.fleet import Fleet
from clearsight.serving.supervisor.gateway_process import GatewayProcess
from clearsight.serving.supervisor.java import java_home
from clearsight.serving.supervisor.ledger import ProcessLedger
from clearsight.unix_sockets import is_listening

__all__ = ["ServeOptions", "serve"]

log = logging.getLogger(__name__)

TOKEN_CHECK_S: Final = 5.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `clearsight serve` is started with."""

    host: str = "127.0.0.1"
    port: int = 8000
    measure: bool = True
    """Measure packages that were not measured on this machine; otherwise they run unbatched on the default backend."""
    metrics_port: int | None = None
    """Of the loopback address, for Prometheus; None: the metrics are on the gateway's control socket only."""


async def serve(workspace: Workspace, options: ServeOptions, report: Report) -> None:
    """Serve until SIGINT or SIGTERM. `report` gets one line per event.

    Raises Conflict when the workspace is served already, and ServerUnavailable when the gateway cannot listen.
    """
    java_home()  # reports a missing Java now, not at the first deployment
    store = EndpointStore(workspace)
    if is_listening(workspace.control_socket):
        raise Conflict(f"a `clearsight serve` already serves the workspace {workspace.root} on {store.base_url}")
    with store.lock():
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopping.set)
        ledger = ProcessLedger(workspace.endpoints / "processes.json")
        if num_ended := ledger.sweep():
            report(f"ended {num_ended} processes of an earlier server that was killed")
        gateway = GatewayProcess(workspace, options.host, options.port, options.metrics_port)
        fleet = Fleet(workspace, store, gateway, ledger, len(os.sched_getaffinity(0)), options.measure)
        service = EndpointService(store, ModelRegistry(workspace), fleet)
        control = ControlServer(service, workspace.control_socket)
        background: list[asyncio.Task[None]] = []
        try:
            await _start_gateway(gateway, fleet, ledger)
            store.set_base_url(_base_url(options))
            await control.start()
            report(f"serving on {store.base_url}; stop with Ctrl-C")
            background += [
                asyncio.create_task(_watch_gateway(gateway, fleet, ledger)),
                asyncio.create_task(_expire_tokens(fleet)),
                asyncio.create_task(_restore(service, report)),
            ]
            await stopping.wait()
            report("stopping: the gateway finishes running requests")
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await gateway.stop()
            await control.stop()
            await fleet.stop()
            ledger.sweep()
            report("stopped")


def _base_url(options: ServeOptions) -> str:
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host  # noqa: S104
    return f"http://[{host}]:{options.port}" if ":" in host else f"http://{host}:{options.port}"


async def _start_gateway(gateway: GatewayProcess, fleet: Fleet, ledger: ProcessLedger) -> None:
    await gateway.start()
    if gateway.process.pid is not None:
        ledger.add(gateway.process.pid, gateway.folder)
    await fleet.publish_or_warn()


async def _watch_gateway(gateway: GatewayProcess, fleet: Fleet, ledger: ProcessLedger) -> None:
    """Restart the gateway whenever it ends, after a pause that doubles while it does not stay up."""
    back_off = BackOff()
    while True:
        pid = gateway.process.pid
        code = await gateway.process.wait()
        log.error("the gateway ended with exit code %d; starting it again", code)
        if pid is not None:
            ledger.remove(pid)
        await back_off.restart(partial(_start_gateway, gateway, fleet, ledger), "the gateway")


async def _expire_tokens(fleet: Fleet) -> None:
    while True:
        await asyncio.sleep(TOKEN_CHECK_S)
        await fleet.publish_if_changed()


async def _restore(service: EndpointService, report: Report) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await service.restore(lambda name, step: report(f"{name}: {step}"))
