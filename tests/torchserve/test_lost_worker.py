"""A worker dies while TorchServe collects its next batch: the gateway loses no request of it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.serving.gateway.table import Upstream
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
            await front.route(upstreams=(replace(front.upstream, lost_workers=len(lost_at)),))

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


def _plan(scripted_scorer: Path, request_timeout_s: float) -> ServingPlan:
    return ServingPlan(
        "blue",
        scripted_scorer,
        ServingLayout(num_threads=1),
        Admission(request_timeout_s=request_timeout_s, max_running=4),
        environment={"PYTHONPATH": str(scripted_scorer)},
    )


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.asyncio
async def test_a_queue_full_of_requests_that_were_given_up_refuses_nobody(
    scripted_scorer: Path, behind_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    """The only worker is dead for longer than a request may last, so that TorchServe's queue fills with what timed out.

    TorchServe then says of each request that the model has no worker.
    """
    process = TorchServeProcess(_plan(scripted_scorer, request_timeout_s=3), tmp_path / "blue.log")
    async with (
        behind_gateway(process, tmp_path / "home", 90) as front,
        aiohttp.ClientSession(front.url, headers=front.headers) as client,
    ):

        async def ask() -> tuple[int, bytes]:
            async with client.post("score", data=b"work 0.05") as response:
                return response.status, await response.read()

        async def on_lost() -> None:
            await front.route(upstreams=(replace(front.upstream, lost_workers=1),))

        following = asyncio.create_task(process.follow_workers(on_lost))
        [(pid, _)] = await process.worker_states()
        os.kill(pid, signal.SIGKILL)
        asked: list[asyncio.Task[tuple[int, bytes]]] = []
        try:
            async with asyncio.timeout(60):
                while not any(task.done() and task.result()[0] == 200 for task in asked):
                    asked.append(asyncio.create_task(ask()))
                    await asyncio.sleep(0.25)
            answers = await asyncio.gather(*asked)
            later = await asyncio.gather(*(ask() for _ in range(4)))
        finally:
            following.cancel()
    assert [status for status, _ in later] == [200] * 4
    others = {(status, b"No worker" in body) for status, body in answers if status != 200}
    assert others <= {(408, False), (503, True)}
    assert (503, True) in others


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.asyncio
async def test_requests_of_a_process_that_was_killed_are_answered_by_the_next(
    scripted_scorer: Path, behind_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    plan = _plan(scripted_scorer, request_timeout_s=60)
    process, successor = (TorchServeProcess(plan, tmp_path / f"{name}.log") for name in ("first", "second"))
    async with (
        behind_gateway(process, tmp_path / "home", 90) as front,
        aiohttp.ClientSession(front.url, headers=front.headers) as client,
    ):

        async def ask() -> tuple[int, bytes]:
            async with client.post("score", data=b"work 0.2") as response:
                return response.status, await response.read()

        [(pid, _)] = await process.worker_states()
        asked = [asyncio.create_task(ask()) for _ in range(8)]
        await asyncio.sleep(0.5)
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        await front.route(upstreams=())
        try:
            await successor.start()
            await successor.wait_ready(90)
            folder = successor.folder
            upstream = Upstream(str(folder.inference_socket), successor.path, str(folder.key_file))
            await front.route(upstreams=(upstream,))
            answers = await asyncio.gather(*asked)
            [(next_pid, _)] = await successor.worker_states()
        finally:
            await successor.stop()
    assert {status for status, _ in answers} == {200}
    assert {body for _, body in answers} == {b"[%d]" % pid, b"[%d]" % next_pid}
