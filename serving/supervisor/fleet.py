"""The running server processes of all deployments, and the gateway's routing table, which they determine."""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from clearsight.documents.deployment.document import DeploymentDocument
from clearsight.documents.deployment.layout import MeasuredLayout
from clearsight.errors import ServerUnavailable
from clearsight.runs.package import ModelPackage
from clearsight.runs.package_reference import is_reference, reference_of
from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.table import Deployment, Endpoint, ExplainLane, RoutingTable, Upstream
from clearsight.serving.management.service import Save, Step
from clearsight.serving.management.store import DeploymentRecord, EndpointRecord, EndpointStore
from clearsight.serving.supervisor.deployment_logs import log_file
from clearsight.serving.supervisor.gateway_process import GatewayProcess
from clearsight.serving.supervisor.layout import (
    choose_explain_lane,
    choose_layout,
    measure_package,
    needs_measurement,
    serving_plans,
)
from clearsight.serving.supervisor.ledger import ProcessEntry, ProcessLedger
from clearsight.serving.supervisor.memory import available_bytes
from clearsight.serving.supervisor.server import ServerContext, WatchedServer
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess

__all__ = ["Fleet"]

log = logging.getLogger(__name__)

DRAIN_MARGIN_S: Final = 10.0
DRAIN_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class RunningDeployment:
    """The server processes of one generation of a deployment."""

    document: DeploymentDocument
    generation: str
    servers: Sequence[WatchedServer]
    """The first has the explain lane, where there is one."""


class Fleet:
    """Starts, adopts, replaces and stops the processes of all deployments. Implements `service.Runtime`.

    `gateway` is the one that gets the tables; a restart of it keeps the object. None: it is not started yet, and gets
    its first table when it is.
    """

    def __init__(
        self,
        workspace: Workspace,
        store: EndpointStore,
        ledger: ProcessLedger,
        num_cores: int,
        code_version: str,
        measure: bool = True,
    ) -> None:
        self.gateway: GatewayProcess | None = None
        self.num_failures = 0
        """Failures of background tasks since the start of this process."""
        self._workspace = workspace
        self._store = store
        self._ledger = ledger
        self._num_cores = num_cores
        self._code_version = code_version
        self._measure = measure
        self._running: dict[tuple[str, str], RunningDeployment] = {}
        self._publishing = asyncio.Lock()
        self._published: RoutingTable | None = None
        """What the gateway has taken; None when it has not taken the newest table."""
        self._superseded: list[RunningDeployment] = []
        """Those that the newest table no longer names, while the gateway may still use them."""
        self._ending: dict[asyncio.Task[None], RunningDeployment] = {}
        self._version = int(time.time() * 1000)  # grows across restarts of the server

    @property
    def is_serving(self) -> bool:
        return True

    def is_running(self, endpoint: str, deployment: str) -> bool:
        """Whether there are processes of this deployment."""
        return (endpoint, deployment) in self._running

    def count_failure(self) -> None:
        self.num_failures += 1

    async def roll_out(self, record: DeploymentRecord, on_step: Step, save: Save) -> None:
        """Start the new processes, save, move the traffic, drain and stop the old ones."""
        document = record.document
        on_step("verifying the package")
        package = await asyncio.to_thread(ModelPackage.open, record.package)
        measured: Sequence[MeasuredLayout] = ()
        if self._measure and needs_measurement(document):
            measured = await measure_package(record.package, document, self._workspace, on_step)
        layout = choose_layout(document, measured, self._num_cores)
        explain = choose_explain_lane(document, package.task, self._num_cores)
        plans = [
            replace(plan, cache_dir=self._workspace.cache)
            for plan in serving_plans(document, record.package, layout, explain)
        ]
        context = self._context(document, record.generation)
        servers: list[WatchedServer] = []
        try:
            for index, plan in enumerate(plans):
                _check_memory(servers, len(plans))
                process = TorchServeProcess(plan, log_file(self._workspace, record, index))
                server = WatchedServer(context, index, process)
                await server.start(on_step)
                servers.append(server)
            save({**layout.to_record(), "servers": len(plans), "explain": asdict(explain) if explain else None})
        except BaseException:
            await asyncio.gather(*(server.stop() for server in servers))
            raise
        predecessor = self._put(RunningDeployment(document, context.name, servers))
        try:
            await self.publish()
        except ServerUnavailable:
            if predecessor is not None:
                self._superseded.append(predecessor)
            raise
        if predecessor is not None:
            on_step("draining the previous version")
            await self._end(predecessor)

    async def adopt(self, entries: Sequence[ProcessEntry]) -> Sequence[str]:
        """Take charge of the server processes that an earlier server of this version left; ends those of no use.

        Of a deployment that was being updated, the generation that had the traffic is adopted. Returns the names of
        the adopted deployments. A deployment of which some processes are gone gets others for them.
        """
        groups: dict[tuple[str, str], dict[int, dict[int, TorchServeProcess]]] = defaultdict(lambda: defaultdict(dict))
        for entry in entries:
            with contextlib.suppress(KeyError, TypeError):  # a damaged entry is ended below
                details = entry.details
                group = groups[details["endpoint"], details["deployment"]][details["generation"]]
                group[details["index"]] = TorchServeProcess.adopt(entry)
        adopted: set[int | None] = set()
        names = []
        for (endpoint, name), generations in groups.items():
            record = self._find(endpoint, name)
            if record is None:
                continue
            is_settled = record.state == "Succeeded" and record.failure is None
            generation = (max if is_settled else min)(generations)
            context = self._context(record.document, generation)
            processes = sorted(generations[generation].items())
            servers = [WatchedServer(context, index, process) for index, process in processes]
            if not any(await asyncio.gather(*(server.adopt() for server in servers))):
                continue
            adopted |= {process.pid for _, process in processes}
            self._put(RunningDeployment(record.document, context.name, servers))
            names.append(f"{endpoint}/{name}")
        for entry in entries:
            if entry.identity.pid not in adopted:
                self._ledger.end(entry)
        return names

    def _find(self, endpoint: str, name: str) -> DeploymentRecord | None:
        found = self._store.find(endpoint)
        return found.deployments.get(name) if found else None

    def _context(self, document: DeploymentDocument, generation: int) -> ServerContext:
        return ServerContext(
            endpoint=document.endpoint_name,
            deployment=document.name,
            generation=generation,
            readiness=document.readiness_probe,
            liveness=document.liveness_probe,
            ledger=self._ledger,
            code_version=self._code_version,
            on_change=self.publish_or_warn,
            on_failure=self.count_failure,
        )

    def _put(self, running: RunningDeployment) -> RunningDeployment | None:
        """Watch the processes and make them those of the deployment; returns the ones before."""
        key = (running.document.endpoint_name, running.document.name)
        predecessor = self._running.get(key)
        self._running[key] = running
        for server in running.servers:
            server.watch()
        return predecessor

    async def publish(self) -> None:
        """Send the gateway a table made of the store and the running processes. Raises ServerUnavailable.

        A gateway that does not answer is being restarted, and gets the table then; one that refuses the table, since
        its disk is full for example, gets it again by `publish_if_changed`.
        """
        async with self._publishing:
            self._version += 1
            table = self.table()
            if self.gateway is None:
                return
            try:
                await self.gateway.put_table(table)
            except BaseException:
                self._published = None  # it may have taken the table all the same
                raise
            self._published = table
            for running in self._superseded:
                task = asyncio.create_task(self._end(running))
                self._ending[task] = running
                task.add_done_callback(self._ending.pop)
            self._superseded.clear()

    async def publish_or_warn(self) -> None:
        """Send the table; a gateway that does not take it is a line in the log."""
        try:
            await self.publish()
        except ServerUnavailable as error:
            log.warning("the routing table was not sent: %s", error)

    async def publish_if_changed(self) -> None:
        """Send the table if it differs from the one that the gateway has, as it does when a token has expired."""
        if self._published is None or replace(self.table(), version=self._published.version) != self._published:
            await self.publish_or_warn()

    def table(self) -> RoutingTable:
        """The present routing table, made of the store and the running processes."""
        now = time.time()
        return RoutingTable(
            version=self._version,
            endpoints={
                endpoint.name: Endpoint(
                    auth_mode=endpoint.document.auth_mode,
                    key_hashes=endpoint.key_hashes(now),
                    traffic=dict(endpoint.traffic),
                    deployments={name: self._routed(endpoint, name) for name in endpoint.deployments},
                )
                for endpoint in self._store.endpoints()
            },
            num_task_failures=self.num_failures,
        )

    def _routed(self, endpoint: EndpointRecord, name: str) -> Deployment:
        running = self._running.get((endpoint.name, name))
        document = running.document if running else endpoint.deployments[name].document
        settings = document.request_settings
        max_running = settings.max_concurrent_requests_per_instance * document.instance_count
        return Deployment(
            generation=running.generation if running else f"{endpoint.name}--{name}-0",
            upstreams=tuple(_upstream(server) for server in running.servers if server.is_ready) if running else (),
            max_running=max_running,
            max_in_flight=2 * max_running,
            request_timeout_s=settings.request_timeout_ms / 1000,
            explain=_explain_lane(running.servers[0]) if running else None,
            model=self._model_name(running.servers[0].process.plan.package) if running else "",
        )

    def _model_name(self, package: Path) -> str:
        """`name:version` of a registered package, `runs:/…` of a run's; empty for one outside the workspace."""
        reference = reference_of(package, self._workspace)
        return reference.removeprefix("azureml:") if is_reference(reference) else ""

    async def retire(self, endpoint: str, deployment: str) -> None:
        """Drain and stop a deployment that has left the routing table, once the gateway has taken that table."""
        running = self._running.pop((endpoint, deployment), None)
        if running is None:
            return
        if self._published is None:
            self._superseded.append(running)
        else:
            await self._end(running)

    async def stop(self) -> None:
        """Stop every process. The gateway must have drained before."""
        all_running = [*self._running.values(), *self._superseded, *self._ending.values()]
        for task in self._ending:
            task.cancel()
        self._running.clear()
        self._superseded.clear()
        await asyncio.gather(*(self._end(running, drain=False) for running in all_running))

    async def release(self) -> None:
        """Stop watching. The processes go on, for the next server; those that drain are ended."""
        for running in self._running.values():
            await asyncio.gather(*(server.unwatch() for server in running.servers))
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _end(self, running: RunningDeployment, drain: bool = True) -> None:
        await asyncio.gather(*(server.unwatch() for server in running.servers))
        if drain:
            await self._drain(running)
        await asyncio.gather(*(server.stop() for server in running.servers))

    async def _drain(self, running: RunningDeployment) -> None:
        """Wait until the gateway counts no request of this generation, at most for the time limit of one."""
        deadline = time.monotonic() + running.document.request_settings.request_timeout_ms / 1000 + DRAIN_MARGIN_S
        while time.monotonic() < deadline and self.gateway is not None:
            with contextlib.suppress(ServerUnavailable):
                if not (await self.gateway.in_flight()).get(running.generation):
                    return
            await asyncio.sleep(DRAIN_POLL_S)
        log.warning("%s still has requests in flight; stopping it", running.generation)


def _check_memory(servers: Sequence[WatchedServer], num_servers: int) -> None:
    """Raise ServerUnavailable when there is no room for another process like the largest of `servers`."""
    needed = max((server.process.memory_bytes() for server in servers), default=0)
    available = available_bytes()
    if available < needed:
        raise ServerUnavailable(
            f"{num_servers} server processes must fit into memory, but the first takes {needed / 1e6:.0f} MB and only "
            f"{available / 1e6:.0f} MB are left for another; set instance_count: 1, or free memory"
        )


def _upstream(server: WatchedServer) -> Upstream:
    process = server.process
    return Upstream(
        socket=str(process.folder.inference_socket),
        path=process.path,
        key_file=str(process.folder.key_file),
        lost_workers=server.num_lost_workers,
    )


def _explain_lane(server: WatchedServer) -> ExplainLane | None:
    process, plan = server.process, server.process.plan
    if plan.explain is None:
        return None
    return ExplainLane(
        upstream=replace(_upstream(server), path=process.explain_path, lost_workers=0),
        implied_path=process.implied_path,
        max_running=1,
        max_in_flight=plan.explain.max_in_flight,
        request_timeout_s=plan.admission.request_timeout_s,
        max_jobs=plan.explain.max_jobs,
        job_timeout_s=plan.explain.job_timeout_s,
        ready=server.is_ready,
    )
