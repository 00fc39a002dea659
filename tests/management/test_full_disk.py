"""Every verb on a disk that cannot be written, and with a gateway that takes nothing.

The file on disk is the measure: what the server holds in memory and what the gateway got must say the same.
"""

import asyncio
import errno
import hashlib
import json
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from clearsight.errors import ServerUnavailable
from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.table import RoutingTable
from clearsight.serving.management.service import EndpointService
from clearsight.serving.management.store import EndpointStore, StoreNotWritten
from clearsight.serving.supervisor import fleet as fleet_module
from clearsight.serving.supervisor.fleet import Fleet
from clearsight.serving.supervisor.ledger import ProcessLedger
from clearsight.tasks import Task


class Gateway:
    """Keeps the last table, or refuses it."""

    def __init__(self) -> None:
        self.table = RoutingTable()
        self.refuses = False

    async def put_table(self, table: RoutingTable) -> None:
        if self.refuses:
            raise ServerUnavailable("its disk is full")
        self.table = table

    async def in_flight(self) -> dict[str, int]:
        return {}


class Process:
    """A TorchServe that is ready at once and never ends."""

    pid = None
    path = "/predictions/x"
    all: ClassVar[list["Process"]] = []

    def __init__(self, plan: Any, log_file: Path) -> None:
        self.plan, self.log_file = SimpleNamespace(explain=None, package=Path("/packages")), log_file
        self.folder = SimpleNamespace(inference_socket="/s", key_file="/k", root=Path("/r"))
        self.is_running = False
        self.all.append(self)

    async def start(self) -> None:
        self.is_running = True

    async def stop(self) -> None:
        self.is_running = False

    async def wait_ready(self, **_: Any) -> None: ...

    async def wait(self) -> int:
        return await asyncio.get_running_loop().create_future()

    async def follow_workers(self, lost: Any) -> None:
        await asyncio.get_running_loop().create_future()


class Registry:
    def resolve(self, reference: str) -> Path:
        return Path("/packages") / reference.replace(":", "-")


class Server:
    """The service with the real fleet, two endpoints, and deployments `blue` (all traffic) and `green`."""

    def __init__(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fleet_module, "TorchServeProcess", Process)
        monkeypatch.setattr(fleet_module, "serving_plan", lambda *_: SimpleNamespace())
        monkeypatch.setattr(fleet_module, "replace", lambda plan, **_: plan)
        monkeypatch.setattr(fleet_module.ModelPackage, "open", lambda _: SimpleNamespace(task=Task.DETECTION))
        monkeypatch.setattr(Process, "all", [])
        self.workspace = workspace
        self.gateway = Gateway()
        self.store = EndpointStore(workspace)
        ledger = ProcessLedger(workspace.endpoints / "processes.json")
        self.fleet = Fleet(workspace, self.store, self.gateway, ledger, 2, measure=False)  # type: ignore[arg-type]
        self.service = EndpointService(self.store, Registry(), self.fleet)  # type: ignore[arg-type]

    async def prepare(self, blue: dict[str, Any]) -> None:
        await self.service.create_endpoint({"name": "fridge"})
        await self.service.create_endpoint({"name": "shelf", "auth_mode": "aml_token"})
        await self.service.create_deployment(blue, all_traffic=True)
        await self.service.create_deployment({**blue, "name": "green"})

    def stored(self) -> dict[str, Any]:
        return dict(json.loads((self.workspace.endpoints / "store.json").read_bytes())["endpoints"])

    def check(self) -> None:
        """Memory, disk and gateway agree on endpoints, credentials, traffic and deployments."""
        assert self.store.endpoints() == EndpointStore(self.workspace).endpoints()
        stored = self.stored()
        assert set(self.gateway.table.endpoints) == set(stored)
        for name, endpoint in self.gateway.table.endpoints.items():
            record = stored[name]
            keys = [record["primary_key"], record["secondary_key"]]
            if record["document"]["auth_mode"] == "aml_token":
                keys = [token["value"] for token in record["tokens"]]
            assert endpoint.key_hashes == tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys)
            assert endpoint.traffic == record["document"].get("traffic", {})
            states = {each: deployment["state"] for each, deployment in record["deployments"].items()}
            routed = set(endpoint.deployments)
            assert routed <= set(states)
            assert {each for each in set(states) - routed if states[each] != "Creating"} == set()
        num_serving = sum(state == "Succeeded" for record in stored.values() for state in _states(record))
        assert sum(process.is_running for process in Process.all) >= num_serving


def _states(record: dict[str, Any]) -> list[str]:
    return [deployment["state"] for deployment in record["deployments"].values()]


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


@pytest.fixture
async def server(workspace: Workspace, blue: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    server = Server(workspace, monkeypatch)
    await server.prepare(blue)
    server.check()
    yield server
    await server.fleet.stop()


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
async def test_what_cannot_be_stored_is_not_in_force(server: Server, blue: dict[str, Any], verb: str) -> None:
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
    server: Server, blue: dict[str, Any], verb: str, call: str
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
    server: Server, blue: dict[str, Any], verb: str
) -> None:
    before, table = server.stored(), server.gateway.table
    running = [process for process in Process.all if process.is_running]
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
    server: Server, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, steps = Server(workspace, monkeypatch), []
    with no_byte_fits():
        await again.service.restore(lambda name, step: steps.append((name, step)))
    assert [name for name, step in steps if step == "ready"] == ["fridge/blue", "fridge/green"]
    again.check()
    await again.fleet.stop()
