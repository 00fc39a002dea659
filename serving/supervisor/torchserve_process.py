"""One TorchServe process: start, ready, stop.

Ready means: every worker is READY **and** real predictions are answered; TorchServe's own `/ping` says Healthy without
a worker. The gateway drains: a SIGTERM resets open connections, so `stop` is for a process that has none.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import psutil
from PIL import Image

from clearsight.errors import ServerUnavailable
from clearsight.executor import ManagedProcess, ProcessIdentity
from clearsight.serving.supervisor.heartbeat import CALL_TIMEOUT_S
from clearsight.serving.supervisor.ledger import ProcessEntry
from clearsight.serving.supervisor.torchserve_files import RunFolder, ServingPlan

__all__ = ["TorchServeProcess", "WorkersFailed", "warm_up_body"]

POLL_S: Final = 0.1
FOLLOW_S: Final = 0.25
STOP_TIMEOUT_S: Final = 10.0
LOG_TAIL_LINES: Final = 20


class WorkersFailed(ServerUnavailable):
    """TorchServe ended, or its workers did not become ready in time."""


class TorchServeProcess:
    """One TorchServe with its workers, isolated as `torchserve_files` describes."""

    def __init__(self, plan: ServingPlan, log_file: Path, adopted: ProcessEntry | None = None) -> None:
        self.plan = plan
        self.log_file = log_file.absolute()
        if adopted is None:
            self.folder = RunFolder.create()
            self.managed = ManagedProcess(self.log_file)
        else:
            self.folder = RunFolder(adopted.folder)
            self.managed = ManagedProcess.adopt(adopted.identity, self.log_file)
        self._is_stopped = False

    @classmethod
    def adopt(cls, entry: ProcessEntry) -> Self:
        """The process that an earlier server recorded. Raises KeyError or TypeError for other details."""
        return cls(ServingPlan.from_document(entry.details["plan"]), Path(entry.details["log_file"]), adopted=entry)

    def details(self) -> dict[str, Any]:
        """What `adopt` needs, as plain data."""
        return {"plan": self.plan.to_document(), "log_file": str(self.log_file)}

    @property
    def pid(self) -> int | None:
        return self.managed.pid

    @property
    def identity(self) -> ProcessIdentity | None:
        return self.managed.identity

    @property
    def returncode(self) -> int | None:
        """Exit code of Java; None before the start and while it runs."""
        return self.managed.returncode

    @property
    def path(self) -> str:
        """Path of predictions on the inference socket."""
        return f"/predictions/{self.plan.model_name}"

    @property
    def explain_path(self) -> str:
        """Path of the explain lane, for requests whose rows say what is to be explained."""
        return f"/predictions/{self.plan.explain_name}"

    @property
    def implied_path(self) -> str:
        """Path of the explain lane, for requests of which every row is to be explained."""
        return f"/explanations/{self.plan.explain_name}"

    async def start(self) -> None:
        """Write the folder and start Java; the log file gets what it prints."""
        self.folder.write(self.plan, self.log_file)
        await self.managed.start(
            self.folder.command(),
            folder=self.folder.work,
            environment=self.folder.environment(self.plan, os.environ),
        )

    async def wait(self) -> int:
        """Wait until Java has ended; its exit code."""
        return await self.managed.wait()

    async def wait_ready(self, timeout_s: float = 150.0, on_step: Callable[[str], None] = lambda step: None) -> None:
        """Wait until all workers are READY and have answered an image each. Raises WorkersFailed."""
        deadline = time.monotonic() + timeout_s
        on_step("starting")
        while not await self._are_workers_ready():
            self._check_alive()
            if time.monotonic() > deadline:
                raise WorkersFailed(f"the workers must be READY within {timeout_s:.0f} s, but are not\n{self._tail()}")
            await asyncio.sleep(POLL_S)
        on_step("warm-up")
        await self._warm_up(deadline)

    def _check_alive(self) -> None:
        with contextlib.suppress(OSError):
            raise WorkersFailed(self.folder.diagnostic_file.read_text().partition("\n")[0])
        if (code := self.managed.returncode) is not None:
            raise WorkersFailed(f"TorchServe ended with exit code {code}\n{self._tail()}")

    async def worker_states(self, model_name: str | None = None) -> list[tuple[int, str]]:
        """Process id and status (`READY`, `UNLOADED`, …) of every worker of a model entry. Raises ServerUnavailable.

        Without a name: of the predict lane.
        """
        status, body = await self._call("management", "GET", f"/models/{model_name or self.plan.model_name}")
        if status != 200:
            raise ServerUnavailable(f"TorchServe answers {status} about its workers: {body[:200]!r}")
        described: list[dict[str, Any]] = json.loads(body)
        return [(int(worker["pid"]), str(worker["status"])) for worker in described[0]["workers"]]

    async def has_ready_worker(self) -> bool:
        """Whether at least one worker of the predict lane is READY; TorchServe restarts workers by itself.

        Raises ServerUnavailable.
        """
        return any(status == "READY" for _, status in await self.worker_states())

    async def check(self) -> None:
        """One heartbeat. Raises ServerUnavailable without an answer."""
        await self.worker_states()

    def memory_bytes(self) -> int:
        """Memory that Java and its workers have for themselves (unique set size); 0 when it has ended."""
        total = 0
        with contextlib.suppress(psutil.Error):
            java = psutil.Process(self.pid)
            for process in (java, *java.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().uss
        return total

    async def follow_workers(self, on_lost: Callable[[], Awaitable[None]]) -> None:
        """Call `on_lost` whenever workers of the predict lane have died. Never returns."""
        living: set[int] = set()
        while True:
            if len(living) < self.plan.layout.workers:  # TorchServe starts others
                with contextlib.suppress(ServerUnavailable):
                    living |= {pid for pid, _ in await self.worker_states() if psutil.pid_exists(pid)}
            dead = {pid for pid in living if not psutil.pid_exists(pid)}
            if dead:
                living -= dead
                await on_lost()
            await asyncio.sleep(FOLLOW_S)

    async def _are_workers_ready(self) -> bool:
        wanted = {self.plan.model_name: self.plan.layout.workers}
        if self.plan.explain:
            wanted[self.plan.explain_name] = 1
        try:
            states = {name: await self.worker_states(name) for name in wanted}
        except ServerUnavailable:
            return False
        return all(
            len(states[name]) == workers and all(status == "READY" for _, status in states[name])
            for name, workers in wanted.items()
        )

    async def _warm_up(self, deadline: float) -> None:
        """Send images until each worker has got some. TorchServe hands queued batches to idle workers."""
        body = warm_up_body()
        for _ in range(2):
            calls = [self.predict(body) for _ in range(self.plan.layout.workers * self.plan.layout.batch_size)]
            if self.plan.explain:
                calls.append(self.predict(body, self.explain_path))
            try:
                async with asyncio.timeout(max(1.0, deadline - time.monotonic())):
                    answers = await asyncio.gather(*calls)
            except TimeoutError:
                raise WorkersFailed(f"the warm-up prediction took too long\n{self._tail()}") from None
            for status, answer in answers:
                if status != 200 or len(json.loads(answer)) != 1:
                    raise WorkersFailed(f"the warm-up prediction was answered with {status}: {answer[:500]!r}")

    async def predict(self, body: bytes, path: str | None = None) -> tuple[int, bytes]:
        """Score one JSON body without the gateway; `path` chooses another lane."""
        return await self._call("inference", "POST", path or self.path, body)

    async def _call(self, plane: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        socket = self.folder.inference_socket if plane == "inference" else self.folder.management_socket
        headers = {"Authorization": f"Bearer {self.folder.key(plane)}", "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S if plane == "management" else None)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
                session.request(method, f"http://localhost{path}", data=body, headers=headers) as response,
            ):
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or f"no answer within {CALL_TIMEOUT_S:.0f} s"
            raise ServerUnavailable(f"TorchServe does not answer on {socket}: {reason}") from error

    async def stop(self) -> None:
        """End Java and the workers, and remove the folder. Nothing must be in flight. A second call does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        await self.managed.stop(STOP_TIMEOUT_S)
        self.folder.remove()

    def _tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return "\n".join([f"last lines of {self.log_file}:", *lines[-LOG_TAIL_LINES:]])


def warm_up_body() -> bytes:
    """A request with one drawn image."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((320, 240)).convert("RGB").save(file, "JPEG")
    image = base64.b64encode(file.getvalue()).decode()
    return json.dumps({"input_data": {"columns": ["image"], "index": [0], "data": [image]}}).encode()
