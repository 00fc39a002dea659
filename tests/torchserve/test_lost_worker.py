"""A worker dies while TorchServe collects its next batch: through the gateway, nothing of it is lost."""

import asyncio
import hashlib
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from clearsight.serving.gateway.table import Deployment, Endpoint, RoutingTable, Upstream
from clearsight.serving.gateway_process import GatewayProcess
from clearsight.serving.torchserve_files import ServingPlan
from clearsight.serving.workers import TorchServeProcess
from clearsight.workspace import Workspace

KEY = "a-key-of-the-endpoint"


@pytest.mark.torchserve
@pytest.mark.asyncio
async def test_requests_of_a_batch_that_a_killed_worker_was_collecting(scripted_scorer: Path, tmp_path: Path) -> None:
    """The batch is collected for two seconds, so that the worker surely dies meanwhile.

    A request past the gateway shows what TorchServe does with it: it is forgotten.
    """
    plan = ServingPlan(
        "blue",
        scripted_scorer,
        batch_size=4,
        max_batch_delay_ms=2000,
        environment={"PYTHONPATH": str(scripted_scorer)},
    )
    process = TorchServeProcess(plan, tmp_path / "blue.log")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gateway = GatewayProcess(Workspace(tmp_path / "home"), "127.0.0.1", port)
    tasks: list[asyncio.Task[None]] = []
    try:
        await process.start()
        await process.wait_ready(90)
        await gateway.start()
        upstream = Upstream(str(process.folder.inference_socket), process.path, str(process.folder.key_file))
        blue = Deployment(True, "blue-1", upstream, 4, 8, 60.0)
        hashes = (hashlib.sha256(KEY.encode()).hexdigest(),)
        table = RoutingTable(1, {"fridge": Endpoint("key", hashes, {"blue": 100}, {"blue": blue})})
        await gateway.put_table(table)
        lost_at: list[float] = []

        async def on_lost() -> None:
            lost_at.append(time.monotonic())
            told = replace(table.endpoints["fridge"], deployments={"blue": replace(blue, lost_workers=len(lost_at))})
            await gateway.put_table(RoutingTable(1 + len(lost_at), {"fridge": told}))

        tasks.append(asyncio.create_task(process.follow_workers(on_lost)))
        [(pid, _)] = await process.worker_states()
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        ) as client:

            async def ask(body: bytes) -> tuple[int, bytes]:
                async with client.post("/endpoints/fridge/score", data=body) as response:
                    return response.status, await response.read()

            past_gateway = asyncio.create_task(process.predict(b"a"))
            through_gateway = [asyncio.create_task(ask(body)) for body in (b"ab", b"abc")]
            await asyncio.sleep(1)
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.gather(*through_gateway) == [(200, b"[2]"), (200, b"[3]")]
            assert not past_gateway.done()
            past_gateway.cancel()
        assert len(lost_at) == 1
        assert lost_at[0] - killed_at < 2
    finally:
        for task in tasks:
            task.cancel()
        await gateway.stop()
        await process.stop()
