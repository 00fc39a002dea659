"""One server process of a deployment: started or adopted, probed, and started again when it ends or hangs."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from clearsight.background import BackOff, first_of, keep_running
from clearsight.documents.deployment.document import Probe
from clearsight.errors import ServerUnavailable
from clearsight.serving.management.service import Step
from clearsight.serving.supervisor.heartbeat import watch_heartbeat
from clearsight.serving.supervisor.ledger import ProcessEntry, ProcessLedger
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess

__all__ = ["ServerContext", "WatchedServer"]

log = logging.getLogger(__name__)

ADOPT_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What the server processes of one deployment's generation have in common."""

    endpoint: str
    deployment: str
    generation: int
    readiness: Probe
    liveness: Probe
    ledger: ProcessLedger
    code_version: str
    on_change: Callable[[], Awaitable[None]]
    """Called when a process becomes ready or not ready, or has lost a worker."""
    on_failure: Callable[[], None]
    """Called when a background task failed, for metrics."""

    @property
    def name(self) -> str:
        """The name of the generation in the routing table."""
        return f"{self.endpoint}--{self.deployment}-{self.generation}"


class WatchedServer:
    """A server process. `process` is replaced at each restart; `is_ready` says whether it gets requests."""

    def __init__(self, context: ServerContext, index: int, process: TorchServeProcess) -> None:
        self.context = context
        self.index = index
        """0, 1, … among the server processes of the deployment; the first has the explain lane."""
        self.process = process
        self.is_ready = False
        self.num_lost_workers = 0
        self._started_at = time.monotonic()
        self._back_off = BackOff()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.context.name}, server {self.index}, process {self.process.pid}"

    async def start(self, on_step: Step = lambda step: None) -> None:
        """Start the process and wait until it has answered. After an error, raised, nothing of it runs."""
        process = self.process
        try:
            await process.start()
            self._record()
            await process.wait_ready(on_step=on_step)
        except BaseException:
            await self._end_process()
            raise
        self.is_ready = True
        self._started_at = time.monotonic()

    async def adopt(self) -> bool:
        """Take charge of a process that an earlier server started; False when it does not prove that it is the one.

        Proof: the process answers on the socket in its folder to the key in its folder.
        """
        try:
            async with asyncio.timeout(ADOPT_TIMEOUT_S):
                self.is_ready = await self.process.has_ready_worker()
        except (ServerUnavailable, TimeoutError):
            return False
        self._record()
        return True

    def _record(self) -> None:
        identity, context = self.process.identity, self.context
        if identity is not None:
            details: dict[str, Any] = {
                "kind": "server",
                "endpoint": context.endpoint,
                "deployment": context.deployment,
                "generation": context.generation,
                "index": self.index,
                **self.process.details(),
            }
            context.ledger.add(ProcessEntry(identity, self.process.folder.root, context.code_version, details))

    def watch(self) -> None:
        """Begin to probe, and to start the process again when it ends."""
        self._watcher = asyncio.create_task(
            keep_running(self._watch, f"watching {self.context.name}", self.context.on_failure)
        )

    async def unwatch(self) -> None:
        """Stop probing; the process goes on."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def stop(self) -> None:
        """Stop the process, which must have no requests."""
        await self.unwatch()
        await self._end_process()

    async def _end_process(self) -> None:
        pid = self.process.pid
        await self.process.stop()
        self.context.ledger.remove(pid)

    async def _watch(self) -> None:
        while True:
            if self.process.returncode is None:
                reason = await self._watch_until_dead()
                log.error("%s: %s; starting another", self.name, reason)
            await self._restart()

    async def _watch_until_dead(self) -> str:
        """Why the process must be replaced: it ended, hangs, or failed its liveness probe."""
        reason: str = await first_of(
            self._wait_for_end(),
            watch_heartbeat(self.process.check, self.process.managed),
            self._probe(),
            self.process.follow_workers(self._worker_lost),
        )
        return reason

    async def _wait_for_end(self) -> str:
        return f"it ended with exit code {await self.process.wait()}"

    async def _probe(self) -> str:
        """Apply the probes of the document until the liveness probe has failed."""
        readiness, liveness = self.context.readiness, self.context.liveness
        num_failures = num_successes = 0
        while True:
            await asyncio.sleep(min(readiness.period, liveness.period))
            is_up = await self._has_ready_worker(readiness.timeout)
            num_failures, num_successes = (0, num_successes + 1) if is_up else (num_failures + 1, 0)
            age_s = time.monotonic() - self._started_at
            if is_up and num_successes >= readiness.success_threshold:
                await self._set_ready(True)
            elif num_failures >= readiness.failure_threshold and age_s > readiness.initial_delay:
                await self._set_ready(False)
            if num_failures >= liveness.failure_threshold and age_s > liveness.initial_delay:
                return f"it failed its liveness probe {num_failures} times"

    async def _has_ready_worker(self, timeout_s: float) -> bool:
        """Whether a worker is READY; False without an answer in time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.has_ready_worker()
        except (ServerUnavailable, TimeoutError):
            return False

    async def _set_ready(self, is_ready: bool) -> None:
        if self.is_ready != is_ready:
            log.warning("%s is %s", self.name, "ready" if is_ready else "not ready")
            self.is_ready = is_ready
            await self.context.on_change()

    async def _worker_lost(self) -> None:
        log.warning("%s lost a worker; TorchServe starts another", self.name)
        self.num_lost_workers += 1
        await self.context.on_change()

    async def _restart(self) -> None:
        """Replace a process that has ended or must end by a new one of the same plan."""
        self.process.managed.kill()  # now, so that the requests it holds go elsewhere while their time allows
        await self._set_ready(False)
        await self._end_process()
        await self._back_off.restart(self._replace, self.context.name)
        log.warning("%s serves again", self.name)
        await self.context.on_change()

    async def _replace(self) -> None:
        self.process = TorchServeProcess(self.process.plan, self.process.log_file)
        self.num_lost_workers = 0
        await self.start()
