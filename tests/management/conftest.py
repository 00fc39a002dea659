"""A workspace, a store and a runtime that only takes notes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import ClearsightError
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.control import VERBS
from clearsight.serving.management.service import EndpointService, Step
from clearsight.serving.management.store import DeploymentRecord, EndpointStore
from clearsight.serving.management.views import view_of


class Registry:
    """Knows every reference."""

    def resolve(self, reference: str) -> Path:
        return Path("/packages") / reference.replace(":", "-")


class NotedRuntime:
    """Takes notes of what the service asks for. `failure` is raised by the next roll-out."""

    is_serving = True

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failure: ClearsightError | None = None

    async def roll_out(self, record: DeploymentRecord, on_step: Step) -> Mapping[str, Any]:
        on_step("starting")
        self.notes.append(f"roll out {record.name} {record.generation}")
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        return {"workers": record.document.instance_count}

    async def publish(self) -> None:
        self.notes.append("publish")

    async def retire(self, endpoint: str, deployment: str) -> None:
        self.notes.append(f"retire {deployment}")


class ShownService(EndpointService):
    """The service with the results of its verbs as the control socket shows them."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in VERBS:
            return value

        async def shown(*args: Any, **options: Any) -> Any:
            return view_of(await value(*args, **options), self.store.base_url)

        return shown


@pytest.fixture
def runtime() -> NotedRuntime:
    return NotedRuntime()


@pytest.fixture
def service(workspace: Workspace, runtime: NotedRuntime) -> EndpointService:
    """With the clock at 1000 s."""
    return ShownService(EndpointStore(workspace), Registry(), runtime, clock=lambda: 1000.0)  # type: ignore[arg-type]


@pytest.fixture
def blue() -> dict[str, Any]:
    return {
        "name": "blue",
        "endpoint_name": "fridge",
        "model": "azureml:od-fridge:1",
        "instance_type": "Standard_DS3_v2",
        "instance_count": 1,
    }
