"""What a killed server left running is adopted or ended by the next one. The processes are real, and sleep."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from clearsight.serving.management.store import Failure


@pytest.fixture
async def left(
    server_process: Any, make_server: Callable[[], Any], blue: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """A server that was killed: blue with two instances, green with one. Its processes run on."""
    monkeypatch.setattr(server_process, "is_real", True)
    server = make_server()
    await server.service.create_endpoint({"name": "fridge"})
    await server.service.create_deployment({**blue, "instance_count": 2}, all_traffic=True)
    await server.service.create_deployment({**blue, "name": "green"})
    await server.fleet.release()
    yield server
    for process in server.processes:
        await process.stop()


async def adopt(server: Any) -> list[str]:
    return sorted(await server.fleet.adopt(server.ledger.load()))


def pids(server: Any) -> list[int]:
    document = json.loads((server.workspace.endpoints / "processes.json").read_bytes())
    return sorted(each["identity"]["pid"] for each in document["processes"])


async def test_everything_that_runs_is_adopted_and_nothing_started(left: Any, make_server: Callable[[], Any]) -> None:
    successor = make_server()
    assert await adopt(successor) == ["fridge/blue", "fridge/green"]
    await successor.service.restore(lambda name, step: pytest.fail(f"{name}: {step}"))
    await successor.fleet.publish()
    table = successor.gateway.table.endpoints["fridge"].deployments
    assert [len(table[name].upstreams) for name in ("blue", "green")] == [2, 1]
    assert pids(successor) == sorted(process.pid for process in left.processes)
    assert [record.state for record in await successor.service.list_deployments("fridge")] == ["Succeeded"] * 2
    await successor.fleet.release()


async def test_a_dead_process_of_an_adopted_deployment_is_replaced(left: Any, make_server: Callable[[], Any]) -> None:
    await left.processes[1].stop()
    successor = make_server()
    assert await adopt(successor) == ["fridge/blue", "fridge/green"]
    async with asyncio.timeout(5):
        while len(successor.fleet.table().endpoints["fridge"].deployments["blue"].upstreams) < 2:
            await asyncio.sleep(0.01)
    await successor.fleet.stop()


@pytest.mark.parametrize(
    ("state", "failure", "kept"),
    [("Updating", None, 1), ("Succeeded", Failure("ResourceNotReady", "x"), 1), ("Succeeded", None, 2)],
)
async def test_of_two_generations_the_one_with_the_traffic_is_adopted(
    left: Any, make_server: Callable[[], Any], state: Any, failure: Failure | None, kept: int
) -> None:
    """The server was killed while it updated green: before the new version was ready, after it failed, or while the
    old one finished its requests.
    """
    context = replace(left.fleet._running["fridge", "green"].servers[0].context, generation=2)
    newer = type(left.fleet._running["fridge", "green"].servers[0])(
        context, 0, type(left.processes[0])(left.processes[2].plan, left.processes[2].log_file)
    )
    await newer.start()
    record = left.store.get("fridge").deployment("green")
    left.store.put_deployment(replace(record, state=state, failure=failure, generation=2))
    successor = make_server()
    assert await adopt(successor) == ["fridge/blue", "fridge/green"]
    assert successor.fleet._running["fridge", "green"].generation == f"fridge--green-{kept}"
    ended = newer.process if kept == 1 else left.processes[2]
    assert ended.child.wait(5) == -9
    await successor.service.restore(lambda name, step: None)
    shown = await successor.service.show_deployment("fridge", "green")
    assert shown.state == "Succeeded"
    await successor.fleet.release()


async def test_processes_of_deleted_deployments_and_without_proof_are_ended(
    left: Any, make_server: Callable[[], Any], server_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left.store.put(left.store.get("fridge").without_deployment("green"))

    async def no_answer(self: Any) -> Any:
        raise TimeoutError

    monkeypatch.setattr(server_process, "worker_states", no_answer)
    successor = make_server()
    assert await adopt(successor) == []
    assert [process.child.wait(5) for process in left.processes] == [-9, -9, -9]
    assert pids(successor) == []


async def test_a_damaged_entry_is_ended_and_the_others_are_adopted(left: Any, make_server: Callable[[], Any]) -> None:
    file = left.workspace.endpoints / "processes.json"
    document = json.loads(file.read_bytes())
    del document["processes"][2]["details"]["plan"]["layout"]
    file.write_text(json.dumps(document))
    successor = make_server()
    assert await adopt(successor) == ["fridge/blue"]
    assert left.processes[2].child.wait(5) == -9
    await successor.fleet.release()
