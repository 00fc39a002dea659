"""The gateway as a child process: start, routing tables, in-flight counts, drained stop."""

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp

from clearsight.errors import ServerUnavailable
from clearsight.executor import ManagedProcess
from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.table import RoutingTable

__all__ = ["GatewayProcess"]

START_TIMEOUT_S: Final = 30.0
DRAIN_LIMIT_S: Final = 200.0
"""Above the longest request timeout (180 s), so that no running request is cut."""


class GatewayProcess:
    """The gateway process. Its control socket lies in a folder of its own with a short path.

    Its metrics are also on `metrics_port` of the loopback address, unless that is None.
    """

    def __init__(self, workspace: Workspace, host: str, port: int, metrics_port: int | None = None) -> None:
        self.host = host
        self.port = port
        self.metrics_port = metrics_port
        self.folder = Path(tempfile.mkdtemp(prefix="clearsight-"))
        self.process = ManagedProcess(workspace.logs / "gateway.log")
        self._control = self.folder / "g.sock"
        self._state = workspace.endpoints / "routing.json"
        self._request_log = workspace.logs / "requests.jsonl"

    async def start(self) -> None:
        """Start and wait until it listens. Raises ServerUnavailable with the end of its output."""
        self._state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self.process.start(
            [
                *[sys.executable, "-m", "clearsight.serving.gateway", "--host", self.host, "--port", str(self.port)],
                *["--state", str(self._state), "--control", str(self._control)],
                *["--request-log", str(self._request_log), "--drain-limit", str(DRAIN_LIMIT_S)],
                *([] if self.metrics_port is None else ["--metrics-port", str(self.metrics_port)]),
            ]
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(ServerUnavailable):
                await self._call("GET", "/health")
                return
            if self.process.returncode is not None or time.monotonic() > deadline:
                output = self.process.output().strip()
                await self.stop()
                raise ServerUnavailable(f"the gateway did not start on {self.host}:{self.port}: {output[-2000:]}")
            await asyncio.sleep(0.05)

    async def put_table(self, table: RoutingTable) -> None:
        """Put `table` in force. Raises ServerUnavailable."""
        await self._call("PUT", "/table", table.to_json())

    async def in_flight(self) -> dict[str, int]:
        """Requests waiting or running, per generation. Raises ServerUnavailable."""
        counts: dict[str, int] = await self._call("GET", "/in-flight")
        return counts

    async def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._control))) as session,
                session.request(method, f"http://localhost{path}", data=body) as response,
            ):
                if response.status != 200:
                    raise ServerUnavailable(f"the gateway refuses {path}: {await response.text()}")
                return await response.json()
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnavailable(f"the gateway does not answer on {self._control}: {error}") from error

    async def stop(self) -> None:
        """Stop it after it has drained: it refuses new requests and finishes the running ones."""
        await self.process.stop(DRAIN_LIMIT_S + 5)
        with contextlib.suppress(OSError):
            self._control.unlink(missing_ok=True)
            self.folder.rmdir()
