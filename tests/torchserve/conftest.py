"""A gateway in front of a real TorchServe, and a scorer that misbehaves on demand.

The scorer gets into the worker through Python's own `sitecustomize`.
"""

import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.table import Deployment, Endpoint, ExplainLane, RoutingTable, Upstream
from clearsight.serving.supervisor.gateway_process import GatewayAddress, GatewayProcess
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess


class Front:
    """A gateway whose only endpoint, `fridge`, sends everything to one TorchServe."""

    key = "a-key-of-the-endpoint"

    def __init__(self, process: TorchServeProcess, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.workspace = Workspace(folder)
        self.gateway = GatewayProcess(self.workspace, GatewayAddress("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{port}/endpoints/fridge/"
        self.headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        timeout_s, explain = process.plan.admission.request_timeout_s, process.plan.explain
        upstream = Upstream(str(process.folder.inference_socket), process.path, str(process.folder.key_file))
        of_explain_lane = replace(upstream, path=process.explain_path)
        lane = explain and ExplainLane(of_explain_lane, process.implied_path, 1, explain.max_in_flight, timeout_s)
        self.upstream = upstream
        self._deployment = Deployment("blue-1", (upstream,), 4, 8, timeout_s, lane)
        self._version = 0

    async def route(self, **changes: Any) -> None:
        """Put a new table in force."""
        self._version += 1
        hashes = (hashlib.sha256(self.key.encode()).hexdigest(),)
        endpoint = Endpoint("key", hashes, {"blue": 100}, {"blue": replace(self._deployment, **changes)})
        await self.gateway.put_table(RoutingTable(self._version, {"fridge": endpoint}))


BehindGateway = Callable[[TorchServeProcess, Path, float], AbstractAsyncContextManager[Front]]


@pytest.fixture(scope="session")
def behind_gateway() -> BehindGateway:
    """Starts TorchServe, which must be ready within so many seconds, and a gateway with that folder; ends both."""

    @asynccontextmanager
    async def behind(process: TorchServeProcess, folder: Path, ready_s: float) -> AsyncIterator[Front]:
        front = Front(process, folder)
        try:
            await process.start()
            await process.wait_ready(ready_s)
            await front.gateway.start(RoutingTable())
            await front.route()
            yield front
        finally:
            await front.gateway.stop()
            await process.stop()

    return behind


SCRIPTED_SCORER = '''
"""Stands in for the Scorer: a body is a command for it."""
import json, os, sys, time, types
from dataclasses import dataclass

@dataclass
class Reply:
    status: int
    body: bytes
    num_rows: int = 1
    is_degraded: bool = False
    telemetry: object = None

class Scorer:
    class package:
        model_name = "scripted"
    backend, precision = "scripted", "f32"
    def warm_up(self): pass

def load_scorer(path, **options):
    if os.environ.get("SCRIPTED_FAILURE"):
        raise ImportError(os.environ["SCRIPTED_FAILURE"])
    return Scorer()

def answer_bodies(scorer, bodies, request_options, explain, timeout_s):
    replies = []
    for number, body in enumerate(bodies):
        word, _, rest = body.partition(b" ")
        if word == b"raise":
            raise ValueError(rest.decode("utf-8", "surrogateescape"))
        if word == b"status":
            replies.append(Reply(int(rest), b'{"message":"as asked"}'))
        elif word == b"big":
            replies.append(Reply(200, b"x" * int(rest)))
        elif word == b"work":
            time.sleep(float(rest))
            replies.append(Reply(200, b"[%d]" % os.getpid()))
        elif word == b"facts":
            replies.append(Reply(200, json.dumps({"pid": os.getpid(), "batch": len(bodies)}).encode()))
        elif word == b"asks" and explain.__class__.__name__ == "function":  # the predict lane rejects it
            replies.append(Reply(421, b'{"message":"wrong lane"}'))
        elif word == b"asks":
            time.sleep(float(rest or 0))
            options = request_options[number]
            left_s = options.deadline and options.deadline - time.monotonic()
            facts = {"pid": os.getpid(), "all": options.explains_all, "left_s": left_s}
            facts["policy"] = os.sched_getscheduler(0)
            replies.append(Reply(200, json.dumps(facts).encode(), is_degraded=True, telemetry={"chunk": 8, "rows": []}))
        else:
            replies.append(Reply(200, b"[%d]" % len(body)))
    return replies

for name, attribute in (("scorer", load_scorer), ("answering", answer_bodies)):
    module = types.ModuleType("clearsight.handlers.scoring." + name)
    setattr(module, attribute.__name__, attribute)
    sys.modules[module.__name__] = module
'''


@pytest.fixture(scope="session")
def scripted_scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "sitecustomize.py").write_text(SCRIPTED_SCORER)
    return folder
