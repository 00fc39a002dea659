"""`clearsight serve`: one process that owns the workspace's endpoints while it runs.

It starts the gateway and the server processes of the stored deployments, receives verbs on the control socket, and
restarts processes that end or hang. It stops in this order: the gateway drains (running requests finish, new ones are
refused), then the servers end.

Processes survive a server that is killed, and one that hands over to `clearsight serve --take-over`. The next server
adopts those that run its own version of the code. Others go on serving until it has started successors beside them.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Final

from clearsight.background import BackOff, first_of, keep_running
from clearsight.errors import Conflict, ServerUnavailable
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.client import take_over
from clearsight.serving.management.control import ControlServer
from clearsight.serving.management.service import EndpointService
from clearsight.serving.management.store import EndpointStore, StoreNotWritten
from clearsight.serving.supervisor.fleet import Fleet
from clearsight.serving.supervisor.gateway_process import GatewayAddress, GatewayProcess
from clearsight.serving.supervisor.heartbeat import watch_heartbeat
from clearsight.serving.supervisor.java import java_home
from clearsight.serving.supervisor.ledger import ProcessEntry, ProcessLedger
from clearsight.unix_sockets import is_listening
from clearsight.wire.lane_protocol import LANE_PROTOCOL

__all__ = ["ServeOptions", "serve"]

log = logging.getLogger(__name__)

HOUSEKEEPING_S: Final = 5.0
"""Between two checks for tokens that have expired and for files that could not be written."""

GATEWAY_GIVE_UP_S: Final = 300.0
"""A server whose gateway cannot be started for so long can no longer serve, and exits."""

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `clearsight serve` is started with."""

    host: str | None = None
    """None: that of a gateway that still runs, else `DEFAULT_HOST`."""
    port: int | None = None
    """None: that of a gateway that still runs, else `DEFAULT_PORT`."""
    measure: bool = True
    """Measure packages that were not measured on this machine; otherwise they run unbatched on the default backend."""
    metrics_port: int | None = None
    """Of the loopback address, for Prometheus. None: that of a gateway that still runs, else the metrics are on the
    gateway's control socket only."""
    take_over: bool = False
    """Have the server that runs on the workspace hand its processes over and exit."""


def code_version() -> str:
    """Two processes with the same text can work together."""
    return f"{metadata.version('clearsight')}, lane protocol {LANE_PROTOCOL}"


async def serve(workspace: Workspace, options: ServeOptions, report: Report) -> None:
    """Serve until SIGINT or SIGTERM, or until another server takes over. `report` gets one line per event.

    Raises Conflict when the workspace is served already, UserError when the address cannot be listened on, and
    ServerUnavailable when it can no longer serve.
    """
    java_home()  # reports a missing Java now, not at the first deployment
    store = EndpointStore(workspace)
    if options.take_over:
        await take_over(store, report)
    elif is_listening(workspace.control_socket):
        raise Conflict(
            f"a `clearsight serve` already serves the workspace {workspace.root} on {store.base_url}; "
            "to replace it without losing a request: clearsight serve --take-over"
        )
    with store.lock():
        await Supervisor(workspace, store, options, report).run()


class Supervisor:
    """One run of `clearsight serve`, which holds the lock of the store."""

    def __init__(self, workspace: Workspace, store: EndpointStore, options: ServeOptions, report: Report) -> None:
        self._workspace = workspace
        self._store = store
        self._options = options
        self._report = report
        self._code_version = code_version()
        self._ledger = ProcessLedger(workspace.endpoints / "processes.json")
        self._fleet = Fleet(
            workspace, store, self._ledger, len(os.sched_getaffinity(0)), self._code_version, options.measure
        )
        self._service = EndpointService(store, ModelRegistry(workspace), self._fleet)
        self._control = ControlServer(self._service, workspace.control_socket, self._hand_over)
        self._gateway: GatewayProcess | None = None
        self._earlier_gateway: GatewayProcess | None = None
        self._address = _address(options, [])
        self._stopping = asyncio.Event()
        self._is_handing_over = False

    async def run(self) -> None:
        """Serve until the end. See `serve`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            await first_of(self._serve(), self._stopping.wait())
        finally:
            await (self._release() if self._is_handing_over else self._stop())

    async def _serve(self) -> None:
        """Take charge of what an earlier server left, start the rest, and watch. Ends only by an exception."""
        ours, others = self._read_ledger()
        self._address = _address(self._options, [*ours, *others])
        await self._adopt(ours, others)
        if others:
            self._report("starting successors of the processes of another version, which serve until then")
            await self._restore()
        gateway = self._gateway
        if gateway is None:
            gateway = await self._start_gateway()
        self._fleet.gateway = gateway
        base_url = _base_url(self._address)
        try:
            self._store.set_base_url(base_url)
        except StoreNotWritten as error:  # only verbs show it; what was adopted must not end for it
            log.warning("verbs go on showing the URL %s: %s", self._store.base_url, error)
        await self._fleet.publish_or_warn()
        if self._earlier_gateway is not None:
            self._report("the gateway before finishes its requests")
            await self._earlier_gateway.stop()
            self._ledger.remove(self._earlier_gateway.process.pid)
            self._earlier_gateway = None
        for entry in others:
            self._ledger.end(entry)
        await self._control.start()
        self._report(f"serving on {base_url}; stop with Ctrl-C")
        await first_of(
            self._watch_gateway(gateway),
            self._guard(self._keep_house, "housekeeping"),
            self._guard(self._restore_once, "restoring deployments"),
        )

    async def _guard(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        await keep_running(task, name, self._fleet.count_failure)

    def _read_ledger(self) -> tuple[Sequence[ProcessEntry], Sequence[ProcessEntry]]:
        """Processes of an earlier server: those of this version of the code, and living ones of another."""
        ours: list[ProcessEntry] = []
        others: list[ProcessEntry] = []
        for entry in self._ledger.load():
            if entry.code_version == self._code_version:
                ours.append(entry)
            elif entry.is_alive():
                others.append(entry)
            else:
                self._ledger.end(entry)
        return ours, others

    async def _adopt(self, ours: Sequence[ProcessEntry], others: Sequence[ProcessEntry]) -> None:
        """Adopt what can be adopted, and find the gateway that must be replaced, if there is one."""
        for entry in [*ours, *others]:
            if entry.details.get("kind") != "gateway":
                continue
            try:
                gateway = await GatewayProcess.adopt(self._workspace, entry)
            except (ServerUnavailable, KeyError, TypeError) as error:
                if self._ledger.end(entry):
                    self._report(f"ended the gateway of an earlier server: {error}")
                continue
            if entry in ours and gateway.address == self._address:
                self._gateway = gateway
                self._report(f"adopted the running gateway, process {entry.identity.pid}")
            else:
                self._earlier_gateway = gateway
        servers = [entry for entry in ours if entry.details.get("kind") == "server"]
        for name in await self._fleet.adopt(servers):
            self._report(f"{name}: adopted, running")

    async def _start_gateway(self) -> GatewayProcess:
        """Start a gateway: on the listening socket of the one before if it has the same address."""
        earlier, address = self._earlier_gateway, self._address
        listener = None
        if earlier is not None and (earlier.address.host, earlier.address.port) == (address.host, address.port):
            listener = earlier.copy_listener()
        gateway = GatewayProcess(self._workspace, address, listener)
        self._gateway = gateway
        await self._launch(gateway)
        return gateway

    async def _launch(self, gateway: GatewayProcess) -> None:
        await gateway.start(self._fleet.table())
        entry = gateway.entry(self._code_version)
        if entry is not None:
            self._ledger.add(entry)

    async def _watch_gateway(self, gateway: GatewayProcess) -> None:
        """Restart the gateway whenever it ends or hangs, after a pause that doubles while it does not stay up.

        Raises what prevented its start for `GATEWAY_GIVE_UP_S`.
        """
        back_off = BackOff()
        while True:
            reason = await first_of(self._end_of_gateway(gateway), watch_heartbeat(gateway.check, gateway.process))
            log.error("the gateway must be started again: %s", reason)
            pid = gateway.process.pid
            gateway.process.kill()
            await gateway.process.wait()
            self._ledger.remove(pid)
            await back_off.restart(partial(self._launch, gateway), "the gateway", GATEWAY_GIVE_UP_S)
            log.warning("the gateway serves again")
            await self._fleet.publish_or_warn()

    async def _end_of_gateway(self, gateway: GatewayProcess) -> str:
        return f"it ended with exit code {await gateway.process.wait()}"

    async def _keep_house(self) -> None:
        """Drop tokens that have expired, and write what could not be written before."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self._ledger.flush()
            await self._fleet.publish_if_changed()

    async def _restore_once(self) -> None:
        await self._restore()
        await asyncio.Event().wait()

    async def _restore(self) -> None:
        await self._service.restore(lambda name, step: self._report(f"{name}: {step}"))

    async def _hand_over(self) -> None:
        """Exit and leave the processes to another server. Raises Conflict while a verb changes a deployment."""
        self._service.check_idle()
        self._is_handing_over = True
        self._stopping.set()

    async def _release(self) -> None:
        await self._control.stop()
        await self._fleet.release()
        if self._gateway is not None:
            self._gateway.release()
        self._report("handed over to another `clearsight serve`; its processes go on")

    async def _stop(self) -> None:
        self._report("stopping: the gateway finishes running requests")
        for gateway in (self._earlier_gateway, self._gateway):
            if gateway is not None:
                await gateway.stop()
        await self._control.stop()
        await self._fleet.stop()
        for entry in self._ledger.load():
            self._ledger.end(entry)
        self._report("stopped")


def _address(options: ServeOptions, entries: Sequence[ProcessEntry]) -> GatewayAddress:
    """What the options ask for; what they leave open as a gateway has it that still runs."""
    details = next((entry.details for entry in entries if entry.details.get("kind") == "gateway"), {})
    metrics_port = details.get("metrics_port") if options.metrics_port is None else options.metrics_port
    return GatewayAddress(
        host=options.host or details.get("host") or DEFAULT_HOST,
        port=options.port or details.get("port") or DEFAULT_PORT,
        metrics_port=metrics_port,
    )


def _base_url(address: GatewayAddress) -> str:
    host = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host  # noqa: S104
    return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"
