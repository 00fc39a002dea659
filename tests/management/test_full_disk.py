"""Every verb on a disk that cannot be written, and with a gateway that takes nothing.

The file on disk is the measure: what the server holds in memory and what the gateway got must say the same.
"""

import asyncio
import errno
import json
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clearsight.documents.deployment.document import parse_deployment
from clearsight.errors import ServerUnavailable
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.service import EndpointService
from clearsight.serving.management.store import StoreNotWritten
from clearsight.serving.supervisor.layout import measure_package, read_measurement

Verb = Callable[[EndpointService, dict[str, Any]], Awaitable[Any]]

CHANGES: dict[str, Verb] = {
    "create an endpoint": lambda service, _: service.create_endpoint({"name": "new"}),
    "replace an endpoint": lambda service, _: service.create_endpoint({"name": "fridge", "description": "new"}),
    "update an endpoint": lambda service, _: service.update_endpoint("fridge", {"tags.team": "vision"}),
    "move traffic": lambda service, _: service.update_endpoint("fridge", traffic={"blue": 50, "green": 50}),
    "delete an endpoint": lambda service, _: service.delete_endpoint("fridge"),
    "get a token": lambda service, _: service.get_credentials("shelf"),
    "replace the primary key": lambda service, _: service.regenerate_keys("fridge"),
    "replace the secondary key": lambda service, _: service.regenerate_keys("fridge", "secondary"),
    "create a deployment": lambda service, blue: service.create_deployment({**blue, "name": "red"}, all_traffic=True),
    "update a deployment": lambda service, _: service.update_deployment("fridge", "blue", {"instance_count": 2}),
    "describe a deployment": lambda service, _: service.update_deployment("fridge", "blue", {"description": "x"}),
    "restart a deployment": lambda service, _: service.update_deployment("fridge", "blue"),
    "delete a deployment": lambda service, _: service.delete_deployment("fridge", "green"),
}


@contextmanager
def failing(call: str, number: int) -> Iterator[None]:
    """From the `number`-th call on (0 is the first) a function of `os` fails as on a full disk."""
    real, count = getattr(os, call), 0

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    setattr(os, call, fail)
    try:
        yield
    finally:
        setattr(os, call, real)


@contextmanager
def no_byte_fits() -> Iterator[None]:
    """No file of this process may grow, whoever writes it: the kernel refuses each write."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("verb", CHANGES)
async def test_what_cannot_be_stored_is_not_in_force(server: Any, blue: dict[str, Any], verb: str) -> None:
    before = server.stored()
    with no_byte_fits(), pytest.raises(StoreNotWritten, match=r"store\.json cannot be written: File too large"):
        await CHANGES[verb](server.service, blue)
    assert server.stored() == before
    server.check()
    await CHANGES[verb](server.service, blue)
    server.check()
    assert server.stored() != before


async def _failure(verb: Awaitable[Any]) -> str | None:
    try:
        await verb
    except StoreNotWritten as error:
        return str(error)
    return None


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("verb", CHANGES)
async def test_a_disk_that_fills_up_at_any_write_of_a_verb_leaves_one_state(
    server: Any, blue: dict[str, Any], verb: str, call: str
) -> None:
    for number in range(10):
        with failing(call, number):
            failed = await _failure(CHANGES[verb](server.service, blue))
        if failed is None:
            break
        assert "No space left on device" in failed
        server.check()
        assert not list(server.workspace.endpoints.glob(".*.tmp"))
        if verb == "create a deployment" and "red" in server.store.get("fridge").deployments:
            await server.service.update_endpoint("fridge", traffic={"blue": 100})
            await server.service.delete_deployment("fridge", "red")  # what it left may be removed, and be made anew
    else:
        pytest.fail("the verb writes more than ten times")
    assert number > 0
    server.check()


@pytest.mark.parametrize("verb", set(CHANGES) - {"describe a deployment"})
async def test_a_verb_that_the_gateway_does_not_take_says_so_and_reaches_it_later(
    server: Any, blue: dict[str, Any], verb: str
) -> None:
    before, table = server.stored(), server.gateway.table
    running = [process for process in server.processes if process.is_running]
    server.gateway.refuses = True
    with pytest.raises(ServerUnavailable, match=r"stored|removed from the store.*its disk is full"):
        await CHANGES[verb](server.service, blue)
    assert server.stored() != before
    assert server.gateway.table is table
    assert all(process.is_running for process in running)  # the gateway still sends requests there
    server.gateway.refuses = False
    await server.fleet.publish_if_changed()
    await asyncio.gather(*server.fleet._ending)
    server.check()
    replaced = verb in ("update a deployment", "restart a deployment", "delete a deployment", "delete an endpoint")
    assert all(process.is_running for process in running) != replaced


async def test_a_server_that_cannot_write_starts_its_deployments_all_the_same(
    server: Any, make_server: Callable[[], Any]
) -> None:
    again, steps = make_server(), []
    with no_byte_fits():
        await again.service.restore(lambda name, step: steps.append((name, step)))
    assert [name for name, step in steps if step == "ready"] == ["fridge/blue", "fridge/green"]
    again.check()
    await again.fleet.stop()


async def test_a_deployment_that_the_system_refuses_does_not_keep_the_others_from_starting(
    server: Any, make_server: Callable[[], Any], server_process: Any
) -> None:
    again, steps = make_server(), []
    server_process.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/clearsight-1")
    await again.service.restore(lambda name, step: steps.append((name, step)))
    reason = "/tmp/clearsight-1: No space left on device; free some space and try again"
    assert {step for _, step in steps if step.startswith("failed")} == {f"failed: {reason}"}
    failures = [record.failure.message for record in again.store.get("fridge").deployments.values()]
    assert failures == [reason] * 2
    server_process.failure = None
    steps.clear()
    await again.service.restore(lambda name, step: steps.append((name, step)))
    assert sorted(name for name, step in steps if step == "ready") == ["fridge/blue", "fridge/green"]
    again.check()
    await again.fleet.stop()


async def test_an_interrupted_operation_is_no_obstacle_on_a_full_disk(
    server: Any, make_server: Callable[[], Any]
) -> None:
    """Its processes were adopted, and the state cannot be stored: the other deployments start all the same."""
    server.store.put_deployment(replace(server.store.get("fridge").deployment("blue"), state="Updating"))
    again, steps = make_server(), []
    again.fleet.is_running = lambda endpoint, name: name == "blue"
    with no_byte_fits():
        await again.service.restore(lambda name, step: steps.append((name, step)))
    assert ("fridge/green", "ready") in steps
    await again.fleet.stop()


async def test_a_measurement_that_cannot_be_kept_is_used_all_the_same(
    workspace: Workspace, blue: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"backend": "openvino", "precision": "f32", "workers": 1, "threads": 2, "batch_size": 4,
           "images_per_s": 9.0, "latency_ms": 1.0}  # fmt: skip

    content = json.dumps({"rows": [row], "choice": row}).encode()

    async def measure(*_: Any) -> bytes:
        return content

    monkeypatch.setattr("clearsight.serving.supervisor.layout._run_measurement", measure)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "manifest.json").write_text("{}")
    with no_byte_fits():
        measured = await measure_package(tmp_path, parse_deployment(blue), workspace, lambda step: None)
    assert measured == read_measurement(content)
    assert not list(workspace.endpoints.rglob("*.json"))


async def test_a_process_that_ends_while_nothing_can_be_written_comes_back_when_something_can(
    server: Any, server_process: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder of the next process, the list of processes and the log are all on the full disk."""
    monkeypatch.setattr("clearsight.background.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("clearsight.background.MAX_PAUSE_S", 0.002)
    first = server.processes[0]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with no_byte_fits():
        server_process.failure = full
        first.end()
        async with asyncio.timeout(5):
            while caplog.text.count("could not be started again") < 3:
                await asyncio.sleep(0.001)
        assert not server.gateway.table.endpoints["fridge"].deployments["blue"].ready
        server_process.failure = None
        async with asyncio.timeout(5):
            while not server.gateway.table.endpoints["fridge"].deployments["blue"].ready:
                await asyncio.sleep(0.001)
    assert server.processes[-1].is_running
    assert not first.is_running
    server.check()


async def test_a_watcher_that_meets_the_unexpected_goes_on_and_is_counted(
    server: Any, server_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearsight.background.FIRST_PAUSE_S", 0.001)

    async def fail(self: Any) -> None:
        monkeypatch.setattr(server_process, "stop", stop)
        raise KeyError("a fault of ours")

    stop = server_process.stop
    monkeypatch.setattr(server_process, "stop", fail)
    server.processes[0].end()
    async with asyncio.timeout(5):
        while len(server.processes) < 3 or not server.gateway.table.endpoints["fridge"].deployments["blue"].ready:
            await asyncio.sleep(0.001)
    await server.fleet.publish_if_changed()
    assert server.gateway.table.num_task_failures == 1
