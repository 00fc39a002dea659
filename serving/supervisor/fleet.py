"""The running processes: one TorchServe per deployment, and the gateway whose routing table they determine."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from clearsight.documents.deployment.document import DeploymentDocument, Probe
from clearsight.documents.deployment.layout import MeasuredLayout
from clearsight.errors import ClearsightError, ServerUnavailable
from clearsight.executor import BackOff
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
    serving_plan,
)
from clearsight.serving.supervisor.ledger import ProcessLedger
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess

__all__ = ["Fleet"]

log = logging.getLogger(__name__)

DRAIN_MARGIN_S: Final = 10.0
DRAIN_POLL_S: Final = 0.05


@dataclass(slots=True)
class DeploymentProcess:
    """The running process of a deployment. `is_ready` is the state that the gateway gets."""

    document: DeploymentDocument
    process: TorchServeProcess
    generation: str
    is_ready: bool = True
    watcher: "asyncio.Task[None] | None" = None
    num_restarts: int = 0
    num_lost_workers: int = 0
    started_at: float = field(default_factory=time.monotonic)
    back_off: BackOff = field(default_factory=BackOff)


class Fleet:
    """Starts, watches, replaces and stops the processes of all deployments. Implements `service.Runtime`."""

    def __init__(
        self,
        workspace: Workspace,
        store: EndpointStore,
        gateway: GatewayProcess,
        ledger: ProcessLedger,
        num_cores: int,
        measure: bool = True,
    ) -> None:
        self._workspace = workspace
        self._store = store
        self._gateway = gateway
        self._ledger = ledger
        self._num_cores = num_cores
        self._measure = measure
        self._instances: dict[tuple[str, str], DeploymentProcess] = {}
        self._publishing = asyncio.Lock()
        self._published: Mapping[str, Endpoint] | None = None
        """What the gateway has taken; None when it has not taken the newest table."""
        self._superseded: list[DeploymentProcess] = []
        """Instances that the newest table no longer names, while the gateway may still use them."""
        self._ending: dict[asyncio.Task[None], DeploymentProcess] = {}
        self._version = int(time.time() * 1000)  # grows across restarts of the server

    @property
    def is_serving(self) -> bool:
        return True

    async def roll_out(self, record: DeploymentRecord, on_step: Step, save: Save) -> None:
        """Start the new process, save, move the traffic, drain and stop the old one."""
        document = record.document
        on_step("verifying the package")
        package = await asyncio.to_thread(ModelPackage.open, record.package)
        measured: Sequence[MeasuredLayout] = ()
        if self._measure and needs_measurement(document):
            measured = await measure_package(record.package, document, self._workspace, on_step)
        layout = choose_layout(document, measured, self._num_cores)
        explain = choose_explain_lane(document, package.task, self._num_cores)
        process = TorchServeProcess(
            replace(serving_plan(document, record.package, layout, explain), cache_dir=self._workspace.cache),
            log_file(self._workspace, record),
        )
        try:
            await self._start(process, on_step)
            save({**layout.to_record(), "explain": asdict(explain) if explain else None})
        except BaseException:
            await self._stop(process)
            raise
        key = (document.endpoint_name, document.name)
        predecessor = self._instances.get(key)
        instance = DeploymentProcess(
            document, process, f"{document.endpoint_name}--{document.name}-{record.generation}"
        )
        self._instances[key] = instance
        instance.watcher = asyncio.create_task(self._watch(instance))
        try:
            await self.publish()
        except ServerUnavailable:
            if predecessor is not None:
                self._superseded.append(predecessor)
            raise
        if predecessor is not None:
            on_step("draining the previous version")
            await self._end(predecessor)

    async def publish(self) -> None:
        """Send the gateway a table made of the store and the running processes. Raises ServerUnavailable.

        A gateway that does not answer is being restarted, and gets the table then; one that refuses the table, since
        its disk is full for example, gets it again by `publish_if_changed`.
        """
        async with self._publishing:
            self._version += 1
            table = self.table()
            try:
                await self._gateway.put_table(table)
            except BaseException:
                self._published = None  # it may have taken the table all the same
                raise
            self._published = table.endpoints
            for instance in self._superseded:
                task = asyncio.create_task(self._end(instance))
                self._ending[task] = instance
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
        if self.table().endpoints != self._published:
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
        )

    def _routed(self, endpoint: EndpointRecord, name: str) -> Deployment:
        instance = self._instances.get((endpoint.name, name))
        document = instance.document if instance else endpoint.deployments[name].document
        settings = document.request_settings
        max_running = settings.max_concurrent_requests_per_instance * document.instance_count
        no_key_file = str(self._workspace.endpoints / "none")
        return Deployment(
            ready=instance is not None and instance.is_ready,
            generation=instance.generation if instance else f"{endpoint.name}--{name}-0",
            upstream=Upstream(
                socket=str(instance.process.folder.inference_socket),
                path=instance.process.path,
                key_file=str(instance.process.folder.key_file),
            )
            if instance
            else Upstream(socket="/dev/null", path=f"/predictions/{name}", key_file=no_key_file),
            max_running=max_running,
            max_in_flight=2 * max_running,
            request_timeout_s=settings.request_timeout_ms / 1000,
            explain=_explain_lane(instance) if instance else None,
            lost_workers=instance.num_lost_workers if instance else 0,
            model=self._model_name(instance.process.plan.package) if instance else "",
        )

    def _model_name(self, package: Path) -> str:
        """`name:version` of a registered package, `runs:/…` of a run's; empty for one outside the workspace."""
        reference = reference_of(package, self._workspace)
        return reference.removeprefix("azureml:") if is_reference(reference) else ""

    async def retire(self, endpoint: str, deployment: str) -> None:
        """Drain and stop a deployment that has left the routing table, once the gateway has taken that table."""
        instance = self._instances.pop((endpoint, deployment), None)
        if instance is None:
            return
        if self._published is None:
            self._superseded.append(instance)
        else:
            await self._end(instance)

    async def stop(self) -> None:
        """Stop every process. The gateway must have drained before."""
        instances = [*self._instances.values(), *self._superseded, *self._ending.values()]
        for task in self._ending:
            task.cancel()
        self._instances.clear()
        self._superseded.clear()
        await asyncio.gather(*(self._end(instance, drain=False) for instance in instances))

    async def _start(self, process: TorchServeProcess, on_step: Step = lambda step: None) -> None:
        await process.start()
        if process.pid is not None:
            self._ledger.add(process.pid, process.folder.root)
        await process.wait_ready(on_step=on_step)

    async def _stop(self, process: TorchServeProcess) -> None:
        await process.stop()
        if process.pid is not None:
            self._ledger.remove(process.pid)

    async def _end(self, instance: DeploymentProcess, drain: bool = True) -> None:
        if instance.watcher is not None:
            instance.watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await instance.watcher
        if drain:
            await self._drain(instance)
        await self._stop(instance.process)

    async def _drain(self, instance: DeploymentProcess) -> None:
        """Wait until the gateway counts no request of this generation, at most for the time limit of one."""
        deadline = time.monotonic() + instance.document.request_settings.request_timeout_ms / 1000 + DRAIN_MARGIN_S
        while time.monotonic() < deadline:
            with contextlib.suppress(ServerUnavailable):
                if not (await self._gateway.in_flight()).get(instance.generation):
                    return
            await asyncio.sleep(DRAIN_POLL_S)
        log.warning("%s still has requests in flight; stopping it", instance.generation)

    async def _watch(self, instance: DeploymentProcess) -> None:
        """Probe an instance, and restart it when it ends or fails its liveness probe. Never returns."""
        while True:
            try:
                await self._watch_until_dead(instance)
                await self._restart(instance)
            except ClearsightError as error:
                log.error("%s: %s", instance.generation, error)

    async def _watch_until_dead(self, instance: DeploymentProcess) -> None:
        readiness, liveness = instance.document.readiness_probe, instance.document.liveness_probe
        ended = asyncio.create_task(instance.process.wait())
        following = asyncio.create_task(instance.process.follow_workers(partial(self._worker_lost, instance)))
        num_failures = num_successes = 0
        try:
            while True:
                done, _ = await asyncio.wait([ended], timeout=min(readiness.period, liveness.period))
                if done:
                    log.error("%s ended with exit code %d", instance.generation, ended.result())
                    return
                is_up = await self._probe(instance, readiness)
                num_failures, num_successes = (0, num_successes + 1) if is_up else (num_failures + 1, 0)
                age_s = time.monotonic() - instance.started_at
                if is_up and num_successes >= readiness.success_threshold:
                    await self._set_ready(instance, True)
                elif num_failures >= readiness.failure_threshold and age_s > readiness.initial_delay:
                    await self._set_ready(instance, False)
                if num_failures >= liveness.failure_threshold and age_s > liveness.initial_delay:
                    log.error("%s failed its liveness probe %d times", instance.generation, num_failures)
                    return
        finally:
            ended.cancel()
            following.cancel()

    @staticmethod
    async def _probe(instance: DeploymentProcess, probe: Probe) -> bool:
        """True when at least one worker is READY. TorchServe restarts workers by itself."""
        try:
            async with asyncio.timeout(probe.timeout):
                return any(status == "READY" for _, status in await instance.process.worker_states())
        except (ServerUnavailable, TimeoutError):
            return False

    async def _set_ready(self, instance: DeploymentProcess, is_ready: bool) -> None:
        if instance.is_ready != is_ready:
            log.warning("%s is %s", instance.generation, "ready" if is_ready else "not ready")
            instance.is_ready = is_ready
            await self.publish_or_warn()

    async def _worker_lost(self, instance: DeploymentProcess) -> None:
        log.warning("%s lost a worker; TorchServe starts another", instance.generation)
        instance.num_lost_workers += 1
        await self.publish_or_warn()

    async def _restart(self, instance: DeploymentProcess) -> None:
        """Replace a process that has ended by a new one of the same plan."""
        await self._set_ready(instance, False)
        await self._stop(instance.process)
        await instance.back_off.restart(partial(self._replace, instance), instance.generation)
        await self._set_ready(instance, True)

    async def _replace(self, instance: DeploymentProcess) -> None:
        process = TorchServeProcess(instance.process.plan, instance.process.log_file)
        try:
            await self._start(process)
        except BaseException:
            await self._stop(process)
            raise
        instance.num_restarts += 1
        instance.process = process
        instance.started_at = time.monotonic()
        instance.generation = f"{instance.generation.partition('+')[0]}+{instance.num_restarts}"


def _explain_lane(instance: DeploymentProcess) -> ExplainLane | None:
    process, plan = instance.process, instance.process.plan
    if plan.explain is None:
        return None
    return ExplainLane(
        path=process.explain_path,
        implied_path=process.implied_path,
        max_running=1,
        max_in_flight=plan.explain.max_in_flight,
        request_timeout_s=plan.admission.request_timeout_s,
        max_jobs=plan.explain.max_jobs,
        job_timeout_s=plan.explain.job_timeout_s,
    )
