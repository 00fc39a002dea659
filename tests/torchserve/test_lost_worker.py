"""A worker dies while TorchServe collects its next batch: the gateway loses no request of it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.serving.supervisor.torchserve_files import Admission, ServingPlan
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.asyncio
async def test_requests_of_a_batch_that_a_killed_worker_was_collecting(
    scripted_scorer: Path, behind_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    """The batch is collected for two seconds, so that the worker surely dies meanwhile.

    A request past the gateway shows what TorchServe does with it: it is forgotten.
    """
    plan = ServingPlan(
        "blue",
        scripted_scorer,
        ServingLayout(num_threads=1, batch_size=4, max_batch_delay_ms=2000),
        Admission(request_timeout_s=60),
        environment={"PYTHONPATH": str(scripted_scorer)},
    )
    process = TorchServeProcess(plan, tmp_path / "blue.log")
    lost_at: list[float] = []
    async with (
        behind_gateway(process, tmp_path / "home", 90) as front,
        aiohttp.ClientSession(front.url, headers=front.headers) as client,
    ):

        async def on_lost() -> None:
            lost_at.append(time.monotonic())
            await front.route(lost_workers=len(lost_at))

        async def ask(body: bytes) -> tuple[int, bytes]:
            async with client.post("score", data=body) as response:
                return response.status, await response.read()

        following = asyncio.create_task(process.follow_workers(on_lost))
        try:
            [(pid, _)] = await process.worker_states()
            past_gateway = asyncio.create_task(process.predict(b"a"))
            through_gateway = [asyncio.create_task(ask(body)) for body in (b"ab", b"abc")]
            await asyncio.sleep(1)
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.gather(*through_gateway) == [(200, b"[2]"), (200, b"[3]")]
            assert not past_gateway.done()
            past_gateway.cancel()
        finally:
            following.cancel()
    assert len(lost_at) == 1
    assert lost_at[0] - killed_at < 2
