"""The ledger of processes and the control socket, with real processes and sockets."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import ClearsightError, Conflict, NotFound
from clearsight.executor import ProcessIdentity
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.client import call
from clearsight.serving.management.control import ControlServer
from clearsight.serving.management.service import EndpointService
from clearsight.serving.supervisor.ledger import ProcessEntry, ProcessLedger


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)


def entry(process: "subprocess.Popen[bytes]", folder: Path) -> ProcessEntry:
    folder.mkdir()
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    return ProcessEntry(identity, folder, "1", {"kind": "server", "generation": 3})


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"ledger_version": 99}', '{"1": [2, "/x"]}'])
def test_an_absent_damaged_or_unknown_ledger_has_no_processes(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "processes.json").write_text(content)
    assert ProcessLedger(tmp_path / "processes.json").load() == []


def test_the_next_server_finds_what_is_recorded_and_ends_only_those_processes(tmp_path: Path) -> None:
    file = tmp_path / "processes.json"
    found, dead, reused, removed = (sleeper() for _ in range(4))
    try:
        ledger = ProcessLedger(file)
        entries = [entry(process, tmp_path / str(process.pid)) for process in (found, dead, reused, removed)]
        for each in entries:
            ledger.add(each)
        ledger.remove(removed.pid)
        dead.kill()
        dead.wait()
        document = json.loads(file.read_text())
        document["processes"][2]["identity"]["started_at_tick"] += 1  # the id was given to another process since
        file.write_text(json.dumps(document))
        successor = ProcessLedger(file)
        recorded = list(successor.load())
        assert recorded[:2] == entries[:2]
        assert [each.is_alive() for each in recorded] == [True, False, False]
        assert [successor.end(each) for each in recorded[1:]] == [False, False]
        assert not entries[1].folder.exists()
        assert successor.end(entries[0])
        assert found.wait(5) == -9
        assert not entries[0].folder.exists()
        assert [process.poll() for process in (reused, removed)] == [None, None]
        assert json.loads(file.read_text())["processes"] == []
    finally:
        for process in (found, dead, reused, removed):
            process.kill()
            process.wait()


def test_a_ledger_on_a_full_disk_keeps_its_entries_and_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = sleeper()
    try:
        ledger = ProcessLedger(tmp_path / "processes.json")
        with monkeypatch.context() as full:
            full.setattr("os.fsync", raise_no_space)
            ledger.add(entry(process, tmp_path / "x"))
        assert ProcessLedger(tmp_path / "processes.json").load() == []
        ledger.flush()
        assert len(ProcessLedger(tmp_path / "processes.json").load()) == 1
    finally:
        process.kill()
        process.wait()


def raise_no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def no_hand_over() -> None:
    raise AssertionError("nobody asked for it")


async def in_thread(function: Any, *arguments: Any, **options: Any) -> Any:
    return await asyncio.to_thread(function, *arguments, **options)


async def test_verbs_go_through_the_socket_with_steps_results_and_errors(
    workspace: Workspace, service: EndpointService, blue: dict[str, Any]
) -> None:
    server = ControlServer(service, workspace.control_socket, no_hand_over)
    await server.start()
    try:
        assert workspace.control_socket.stat().st_mode & 0o777 == 0o600
        await in_thread(call, workspace, "create_endpoint", {"document": {"name": "fridge"}})
        steps: list[str] = []
        shown = await in_thread(call, workspace, "create_deployment", {"document": blue}, on_step=steps.append)
        assert (shown["provisioning_state"], steps) == ("Succeeded", ["resolving the model", "starting"])
        green = {"document": {**blue, "name": "green"}, "no_wait": True}
        assert await in_thread(call, workspace, "create_deployment", green) is None
        with pytest.raises(Conflict, match="already has"):
            await in_thread(call, workspace, "create_deployment", green)
        with pytest.raises(NotFound, match="no deployment 'red'"):
            await in_thread(call, workspace, "show_deployment", {"endpoint_name": "fridge", "name": "red"})
        with pytest.raises(Conflict, match="already running"):
            await ControlServer(service, workspace.control_socket, no_hand_over).start()
    finally:
        await server.stop()
    assert not workspace.control_socket.exists()


async def test_a_verb_goes_on_without_its_client_and_leaves_no_traceback(
    workspace: Workspace,
    service: EndpointService,
    runtime: Any,
    blue: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await service.create_endpoint({"name": "fridge"})
    at_work, gone = asyncio.Event(), asyncio.Event()
    roll_out = runtime.roll_out

    async def slow(record: Any, on_step: Any, save: Any) -> None:
        at_work.set()
        await gone.wait()
        for number in range(100):
            on_step(f"step {number}")
            await asyncio.sleep(0)
        await roll_out(record, on_step, save)

    monkeypatch.setattr(runtime, "roll_out", slow)
    server = ControlServer(service, workspace.control_socket, no_hand_over)
    await server.start()
    try:
        _, writer = await asyncio.open_unix_connection(str(workspace.control_socket))
        body = json.dumps({"document": blue}).encode()
        writer.write(b"POST /create_deployment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await at_work.wait()
        writer.transport.abort()
        await asyncio.sleep(0.05)  # the server has seen the end of the connection
        gone.set()
        await asyncio.gather(*server._tasks)
        await asyncio.sleep(0.05)
    finally:
        await server.stop()
    assert service.store.get("fridge").deployment("blue").state == "Succeeded"
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


async def test_what_the_system_refuses_is_one_line(
    workspace: Workspace, service: EndpointService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/logs/blue.log")

    monkeypatch.setattr(service.store, "get", refuse)
    server = ControlServer(service, workspace.control_socket, no_hand_over)
    await server.start()
    try:
        with pytest.raises(ClearsightError, match=r"^/logs/blue\.log: Read-only file system; change its permissions"):
            await in_thread(call, workspace, "show_endpoint", {"name": "fridge"})
    finally:
        await server.stop()
    assert not any(record.exc_info for record in caplog.records)


async def test_a_workspace_with_a_long_path_has_a_socket_all_the_same(tmp_path: Path, service: EndpointService) -> None:
    workspace = Workspace(tmp_path / ("x" * 120))
    server = ControlServer(service, workspace.control_socket, no_hand_over)
    await server.start()
    try:
        assert await in_thread(call, workspace, "list_endpoints", {}) == []
    finally:
        await server.stop()


async def test_the_socket_of_a_killed_server_is_replaced(workspace: Workspace, service: EndpointService) -> None:
    workspace.root.mkdir()
    subprocess.run(
        [sys.executable, "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({str(workspace.control_socket)!r})"],
        check=True,
    )
    assert workspace.control_socket.is_socket()
    assert await in_thread(call, workspace, "list_endpoints", {}) == []  # directly from the store
    server = ControlServer(service, workspace.control_socket, no_hand_over)
    await server.start()
    await server.stop()


async def test_without_a_server_verbs_write_the_store_and_say_so(workspace: Workspace) -> None:
    said: list[str] = []
    created = await in_thread(
        call,
        workspace,
        "create_endpoint",
        {"document": {"name": "fridge"}},
        on_offline=lambda: said.append("nothing serves"),
    )
    assert created["name"] == "fridge"
    assert said == ["nothing serves"]
    assert [endpoint["name"] for endpoint in await in_thread(call, workspace, "list_endpoints", {})] == ["fridge"]
