"""A workspace, a store and a runtime that only records calls."""

from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import ClearsightError
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.control import VERBS
from clearsight.serving.management.service import EndpointService, Save, Step
from clearsight.serving.management.store import DeploymentRecord, EndpointStore
from clearsight.serving.management.views import view_of


class Registry:
    """A model registry that resolves every reference."""

    def resolve(self, reference: str) -> Path:
        return Path("/packages") / reference.replace(":", "-")


class RecordingRuntime:
    """Records the calls of the service. `failure` is raised by the next roll-out."""

    is_serving = True

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failure: ClearsightError | None = None

    async def roll_out(self, record: DeploymentRecord, on_step: Step, save: Save) -> None:
        on_step("starting")
        self.notes.append(f"roll out {record.name} {record.generation}")
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        save({"workers": record.document.instance_count})
        await self.publish()

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
