"""A workspace, a store, a runtime that only records calls, and a server whose gateway and processes are fakes."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from clearsight.errors import ClearsightError, ServerUnavailable
from clearsight.executor import ProcessIdentity
from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.table import RoutingTable
from clearsight.serving.management.control import VERBS
from clearsight.serving.management.service import EndpointService, Save, Step
from clearsight.serving.management.store import DeploymentRecord, EndpointStore
from clearsight.serving.management.views import view_of
from clearsight.serving.supervisor import fleet as fleet_module
from clearsight.serving.supervisor import server as server_module
from clearsight.serving.supervisor.fleet import Fleet
from clearsight.serving.supervisor.ledger import ProcessEntry, ProcessLedger
from clearsight.serving.supervisor.torchserve_files import ServingPlan
from clearsight.tasks import Task


class Registry:
    """A model registry that resolves every reference."""

    def resolve(self, reference: str) -> Path:
        return Path("/packages") / reference.replace(":", "-")


class RecordingRuntime:
    """Records the calls of the service. `failure` is raised by the next roll-out."""

    is_serving = True

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.running: set[tuple[str, str]] = set()
        self.failure: ClearsightError | None = None

    async def roll_out(self, record: DeploymentRecord, on_step: Step, save: Save) -> None:
        on_step("starting")
        self.notes.append(f"roll out {record.name} {record.generation}")
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        save({"workers": record.document.instance_count})
        await self.publish()

    def is_running(self, endpoint: str, deployment: str) -> bool:
        return (endpoint, deployment) in self.running

    async def publish(self) -> None:
        self.notes.append("publish")

    async def retire(self, endpoint: str, deployment: str) -> None:
        self.notes.append(f"retire {deployment}")


class ServiceWithViews(EndpointService):
    """The service, whose verbs return what the control socket sends."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in VERBS:
            return value

        async def shown(*args: Any, **options: Any) -> Any:
            return view_of(await value(*args, **options), self.store.base_url)

        return shown


@pytest.fixture
def runtime() -> RecordingRuntime:
    return RecordingRuntime()


@pytest.fixture
def service(workspace: Workspace, runtime: RecordingRuntime) -> EndpointService:
    """With the clock at 1000 s."""
    return ServiceWithViews(EndpointStore(workspace), Registry(), runtime, clock=lambda: 1000.0)  # type: ignore[arg-type]


@pytest.fixture
def blue() -> dict[str, Any]:
    return {
        "name": "blue",
        "endpoint_name": "fridge",
        "model": "azureml:od-fridge:1",
        "instance_type": "Standard_DS3_v2",
        "instance_count": 1,
    }


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
    """A TorchServe that is ready at once. It is a process that sleeps where `is_real`, else none at all."""

    path = "/predictions/x"
    all: ClassVar[list["Process"]] = []
    is_real: ClassVar[bool] = False
    failure: ClassVar[OSError | None] = None
    """Raised by the next starts."""

    def __init__(self, plan: Any, log_file: Path) -> None:
        if self.failure:
            raise self.failure
        self.plan, self.log_file = plan, log_file
        self.folder = SimpleNamespace(inference_socket=f"/s{len(self.all)}", key_file="/k", root=Path("/nowhere"))
        self.is_running = False
        self.identity: ProcessIdentity | None = None
        self.returncode: int | None = None
        self.has_ended = asyncio.Event()
        self.child: subprocess.Popen[bytes] | None = None
        self.all.append(self)

    @classmethod
    def adopt(cls, entry: ProcessEntry) -> "Process":
        process = cls(ServingPlan.from_document(entry.details["plan"]), Path(entry.details["log_file"]))
        process.identity = entry.identity
        process.is_running = entry.is_alive()
        process.returncode = None if process.is_running else -1
        return process

    def details(self) -> dict[str, Any]:
        return {"plan": self.plan.to_document(), "log_file": str(self.log_file)}

    @property
    def pid(self) -> int | None:
        return self.identity.pid if self.identity else None

    @property
    def managed(self) -> Any:
        return SimpleNamespace(cpu_ns=lambda: 0, kill=lambda: None)

    async def start(self) -> None:
        if self.is_real:
            self.child = subprocess.Popen(["sleep", "60"], start_new_session=True)
            self.identity = ProcessIdentity.of(self.child.pid)
        self.is_running = True

    def end(self) -> None:
        """As if it were killed."""
        self.is_running, self.returncode = False, -9
        self.has_ended.set()

    async def stop(self) -> None:
        self.is_running = False
        if self.child:
            self.child.kill()
            self.child.wait()

    async def wait_ready(self, **_: Any) -> None: ...

    async def check(self) -> None: ...

    async def worker_states(self) -> list[tuple[int, str]]:
        if not self.is_running:
            raise ServerUnavailable("no answer")
        return [(1, "READY")]

    async def has_ready_worker(self) -> bool:
        return any(status == "READY" for _, status in await self.worker_states())

    def memory_bytes(self) -> int:
        return 0

    async def wait(self) -> int:
        await self.has_ended.wait()
        return -9

    async def follow_workers(self, lost: Any) -> None:
        await asyncio.get_running_loop().create_future()


class Server:
    """The service with the real fleet, two endpoints, and deployments `blue` (all traffic) and `green`."""

    def __init__(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fleet_module, "TorchServeProcess", Process)
        monkeypatch.setattr(server_module, "TorchServeProcess", Process)
        monkeypatch.setattr(fleet_module, "serving_plans", lambda document, *_: [
            ServingPlan("x", Path("/p")) for _ in range(min(2, document.instance_count))])  # fmt: skip
        monkeypatch.setattr(fleet_module.ModelPackage, "open", lambda _: SimpleNamespace(task=Task.DETECTION))
        monkeypatch.setattr(Process, "all", [])
        self.processes = Process.all
        self.workspace = workspace
        self.gateway = Gateway()
        self.store = EndpointStore(workspace)
        self.ledger = ProcessLedger(workspace.endpoints / "processes.json")
        self.fleet = Fleet(workspace, self.store, self.ledger, 2, "1", measure=False)
        self.fleet.gateway = self.gateway  # type: ignore[assignment]
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
        assert sum(process.is_running for process in self.processes) >= num_serving


def _states(record: dict[str, Any]) -> list[str]:
    return [deployment["state"] for deployment in record["deployments"].values()]


@pytest.fixture
def make_server(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Server]:
    """Another server on the same workspace."""
    return lambda: Server(workspace, monkeypatch)


@pytest.fixture
async def server(make_server: Callable[[], Server], blue: dict[str, Any]) -> AsyncIterator[Server]:
    server = make_server()
    await server.prepare(blue)
    server.check()
    yield server
    await server.fleet.stop()


@pytest.fixture
def server_process() -> type[Process]:
    """What the servers start."""
    return Process
