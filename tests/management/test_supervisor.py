"""The run of `clearsight serve`: real store, ledger, control socket and fleet; the gateway is a process that sleeps."""

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from clearsight.errors import ServerUnavailable
from clearsight.executor import ManagedProcess, ProcessIdentity
from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.table import RoutingTable
from clearsight.serving.management.client import call
from clearsight.serving.supervisor import supervisor as supervisor_module
from clearsight.serving.supervisor.gateway_process import GatewayAddress
from clearsight.serving.supervisor.ledger import ProcessEntry
from clearsight.serving.supervisor.supervisor import ServeOptions, serve


class Gateway:
    """Counts its starts. `can_start` decides about the next."""

    can_start = True
    all: list["Gateway"] = []  # noqa: RUF012

    def __init__(self, workspace: Workspace, address: GatewayAddress, listener: Any = None) -> None:
        self.address, self.folder = address, workspace.root / "gateway"
        self.process = ManagedProcess(workspace.logs / "gateway.log")
        self.is_stopped = False
        self.all.append(self)

    @classmethod
    async def adopt(cls, workspace: Workspace, entry: ProcessEntry) -> "Gateway":
        details = entry.details
        gateway = cls(workspace, GatewayAddress(details["host"], details["port"], details["metrics_port"]))
        gateway.process = ManagedProcess.adopt(entry.identity, workspace.logs / "gateway.log")
        return gateway

    async def start(self, table: RoutingTable) -> None:
        if not self.can_start:
            raise ServerUnavailable("the gateway cannot start")
        await self.process.start(["sleep", "60"])

    def entry(self, code_version: str) -> ProcessEntry | None:
        identity = ProcessIdentity.of(self.process.pid or 0)
        details = {"kind": "gateway", "host": self.address.host, "port": self.address.port, "metrics_port": None}
        return identity and ProcessEntry(identity, self.folder, code_version, details)

    def copy_listener(self) -> None: ...

    def release(self) -> None: ...

    async def check(self) -> None: ...

    async def put_table(self, table: RoutingTable) -> None: ...

    async def in_flight(self) -> dict[str, int]:
        return {}

    async def stop(self) -> None:
        self.is_stopped = True
        await self.process.stop(5)


@pytest.fixture
async def start(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """Starts `serve`, and waits until it serves; returns the task and the lines that it reported."""
    monkeypatch.setattr(supervisor_module, "GatewayProcess", Gateway)
    monkeypatch.setattr(supervisor_module, "java_home", lambda: None)
    monkeypatch.setattr(Gateway, "all", [])
    monkeypatch.setattr("clearsight.background.FIRST_PAUSE_S", 0.001)

    async def start(**options: Any) -> tuple["asyncio.Task[None]", list[str]]:
        lines: list[str] = []
        task = asyncio.create_task(serve(workspace, ServeOptions(**options), lines.append))
        async with asyncio.timeout(10):
            while not any("serving on" in line for line in lines) and not task.done():
                await asyncio.sleep(0.005)
        return task, lines

    yield start
    for gateway in Gateway.all:
        gateway.process.kill()
        await gateway.process.wait()


async def stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_another_server_takes_over_and_keeps_the_gateway_and_its_address(
    start: Any, workspace: Workspace
) -> None:
    first, _ = await start(port=8123)
    await asyncio.to_thread(call, workspace, "create_endpoint", {"document": {"name": "fridge"}})
    second, lines = await start(take_over=True)
    await first  # it ended by itself, without an error
    gateway, adopted = Gateway.all
    assert (gateway.is_stopped, adopted.process.pid) == (False, gateway.process.pid)
    assert any("adopted the running gateway" in line for line in lines)
    assert "serving on http://127.0.0.1:8123; stop with Ctrl-C" in lines
    assert [each["name"] for each in await asyncio.to_thread(call, workspace, "list_endpoints", {})] == ["fridge"]
    await stop(second)
    assert adopted.is_stopped
    assert await gateway.process.wait() == -15


async def test_a_gateway_on_another_address_or_of_another_version_is_replaced(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = await start(port=8123)
    second, _ = await start(port=8124, take_over=True)
    monkeypatch.setattr(supervisor_module, "code_version", lambda: "newer")
    third, lines = await start(take_over=True)
    await asyncio.gather(first, second)
    assert [gateway.is_stopped for gateway in Gateway.all] == [False, True, False, True, False]  # adopted ones stop
    assert Gateway.all[-1].address.port == 8124
    assert any("of another version" in line for line in lines)
    await stop(third)


async def test_without_a_server_there_is_nothing_to_take_over(start: Any) -> None:
    task, lines = await start(take_over=True)
    assert lines[0] == "no server runs on the workspace; nothing to take over"
    await stop(task)


async def test_a_gateway_that_ends_is_started_again_and_given_up_at_last(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, _ = await start()
    [gateway] = Gateway.all
    first = gateway.process.pid
    subprocess.run(["kill", "-9", str(first)], check=True)
    async with asyncio.timeout(10):
        while gateway.process.pid == first:
            await asyncio.sleep(0.005)
    monkeypatch.setattr(Gateway, "can_start", False)
    monkeypatch.setattr(supervisor_module, "GATEWAY_GIVE_UP_S", 0.02)
    gateway.process.kill()
    with pytest.raises(ServerUnavailable, match="cannot start"):
        await task  # and the command exits with 1


async def test_a_server_that_cannot_write_takes_over_all_the_same(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = await start(port=8123)

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)
    second, lines = await start(port=8124, take_over=True)
    await first
    assert "serving on http://127.0.0.1:8124; stop with Ctrl-C" in lines
    assert not second.done()
    await stop(second)
