"""The gateway as a process of its own: start, adoption, routing tables, in-flight counts, drained stop."""

import asyncio
import contextlib
import logging
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from clearsight.errors import ServerUnavailable
from clearsight.executor import ManagedProcess
from clearsight.files import write_atomically
from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.listener import bind_listener, receive_listener
from clearsight.serving.gateway.table import RoutingTable
from clearsight.serving.supervisor.heartbeat import CALL_TIMEOUT_S
from clearsight.serving.supervisor.ledger import ProcessEntry

__all__ = ["GatewayAddress", "GatewayProcess"]

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0
DRAIN_LIMIT_S: Final = 200.0
"""Above the longest request timeout (180 s), so that no running request is cut."""


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where a gateway listens. Its metrics are also on `metrics_port` of the loopback address, unless that is None."""

    host: str
    port: int
    metrics_port: int | None = None


class GatewayProcess:
    """The gateway process. Its sockets lie in a folder of its own with a short path.

    This object holds the listening socket too: while the gateway is started again, clients wait in its queue.
    """

    def __init__(
        self,
        workspace: Workspace,
        address: GatewayAddress,
        listener: socket.socket | None = None,
        adopted: ProcessEntry | None = None,
    ) -> None:
        self.address = address
        log_file = workspace.logs / "gateway.log"
        if adopted is None:
            self.folder = Path(tempfile.mkdtemp(prefix="clearsight-"))
            self.process = ManagedProcess(log_file)
        else:
            self.folder = adopted.folder
            self.process = ManagedProcess.adopt(adopted.identity, log_file)
        self._workspace = workspace
        self._listener = listener

    @classmethod
    async def adopt(cls, workspace: Workspace, entry: ProcessEntry) -> Self:
        """Take charge of a gateway that an earlier server started.

        Raises ServerUnavailable when it does not answer, KeyError for an entry of another kind.
        """
        details = entry.details
        address = GatewayAddress(details["host"], details["port"], details["metrics_port"])
        gateway = cls(workspace, address, adopted=entry)
        try:
            gateway._listener = receive_listener(gateway._sharing, CALL_TIMEOUT_S)
        except OSError as error:
            raise ServerUnavailable(f"the gateway does not hand out its listening socket: {error}") from error
        if (health := await gateway._call("GET", "/health")).get("pid") != entry.identity.pid:
            raise ServerUnavailable(
                f"another process than {entry.identity.pid} answers on {gateway._control}: {health}"
            )
        return gateway

    def copy_listener(self) -> socket.socket | None:
        """Another copy of the listening socket, for a successor; None before the start."""
        return self._listener.dup() if self._listener else None

    def entry(self, code_version: str) -> ProcessEntry | None:
        """What the next server needs to adopt it; None when it has ended."""
        details = {"kind": "gateway", **asdict(self.address)}
        identity = self.process.identity
        return None if identity is None else ProcessEntry(identity, self.folder, code_version, details)

    @property
    def _control(self) -> Path:
        return self.folder / "g.sock"

    @property
    def _sharing(self) -> Path:
        return self.folder / "l.sock"

    async def start(self, table: RoutingTable) -> None:
        """Start with `table` and wait until it answers.

        Raises UserError when the address cannot be listened on, and ServerUnavailable, with the end of its output,
        when the gateway ends or does not answer in time.
        """
        host, port, metrics_port = self.address.host, self.address.port, self.address.metrics_port
        if self._listener is None:
            self._listener = bind_listener(host, port)
        state = self._workspace.endpoints / "routing.json"
        with contextlib.suppress(OSError):  # as good as an old table: `put_table` follows
            write_atomically(state, table.to_json(), 0o600)
        listen_fd = self._listener.fileno()
        await self.process.start(
            [
                *[sys.executable, "-m", "clearsight.serving.gateway", "--host", host, "--port", str(port)],
                *["--listen-fd", str(listen_fd), "--share-listener", str(self._sharing)],
                *["--state", str(state), "--control", str(self._control)],
                *["--request-log", str(self._workspace.logs / "requests.jsonl"), "--drain-limit", str(DRAIN_LIMIT_S)],
                *([] if metrics_port is None else ["--metrics-port", str(metrics_port)]),
            ],
            pass_fds=[listen_fd],
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(ServerUnavailable):
                await self.check()
                return
            if self.process.returncode is not None or time.monotonic() > deadline:
                output = self.process.output().strip()
                await self.process.stop(DRAIN_LIMIT_S)
                raise ServerUnavailable(f"the gateway did not start on {host}:{port}: {output[-2000:]}")
            await asyncio.sleep(0.05)

    async def check(self) -> None:
        """One heartbeat. Raises ServerUnavailable when it does not answer."""
        await self._call("GET", "/health")

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
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(self._control)),
                    timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S),
                ) as session,
                session.request(method, f"http://localhost{path}", data=body) as response,
            ):
                if response.status != 200:
                    raise ServerUnavailable(f"the gateway refuses {path}: {await response.text()}")
                return await response.json()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or f"no answer within {CALL_TIMEOUT_S:.0f} s"
            raise ServerUnavailable(f"the gateway does not answer on {self._control}: {reason}") from error

    def release(self) -> None:
        """Give up the listening socket; the gateway keeps its own copy."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def stop(self) -> None:
        """Stop it after it has drained: it refuses new requests and finishes the running ones."""
        self.release()
        try:
            await self.check()
            grace_s = DRAIN_LIMIT_S + 5
        except ServerUnavailable:
            grace_s = 1.0  # it hangs or has ended: nothing will drain
        await self.process.stop(grace_s)
        for path in (self._control, self._sharing):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
