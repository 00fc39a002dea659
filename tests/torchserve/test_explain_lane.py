"""A real TorchServe with both lanes behind the forwarding of the gateway."""

import asyncio
import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from clearsight.serving.gateway.generation import Generation
from clearsight.serving.gateway.lane import is_wrong_lane
from clearsight.serving.gateway.table import Deployment, ExplainLane, Upstream
from clearsight.serving.supervisor.torchserve_files import ExplainPlan, ServingPlan
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess

pytestmark = [pytest.mark.torchserve, pytest.mark.asyncio]


def generation_of(process: TorchServeProcess) -> Generation:
    folder = process.folder
    upstream = Upstream(str(folder.inference_socket), process.path, str(folder.key_file))
    lane = ExplainLane(replace(upstream, path=process.explain_path), process.implied_path, 1, 4, 60.0)
    deployment = Deployment("blue-1", (upstream,), 4, 8, 60.0, lane)
    return Generation(deployment, 1_000_000, asyncio.get_running_loop())


@pytest.mark.slow
async def test_the_lanes_have_a_worker_each_and_do_not_disturb_each_other(
    scripted_scorer: Path, tmp_path: Path
) -> None:
    plan = ServingPlan(
        model_name="blue",
        package=scripted_scorer,
        explain=ExplainPlan(num_threads=1, max_in_flight=4),
        environment={"PYTHONPATH": str(scripted_scorer)},
    )
    process = TorchServeProcess(plan, tmp_path / "blue.log")
    try:
        await process.start()
        await process.wait_ready(90)
        generation = generation_of(process)
        loop = asyncio.get_running_loop()

        async def explain(body: bytes, *, is_implied: bool = False) -> dict[str, object]:
            answer = await generation.explain([body], len(body), "id", loop.time(), is_implied=is_implied)
            assert (answer.status, answer.headers["x-explanation-degraded"]) == (200, "1"), answer
            facts: dict[str, object] = json.loads(answer.body)
            return facts

        [(predicts, _)] = await process.worker_states()
        [(explains, _)] = await process.worker_states(plan.explain_name)
        assert is_wrong_lane(await generation.predict([b"asks"], 4, "id", loop.time()))
        facts = await explain(b"asks")
        assert (facts["pid"], facts["all"], facts["policy"]) == (explains, False, os.SCHED_IDLE)
        assert 50 < float(str(facts["left_s"])) < 51
        assert (await explain(b"asks", is_implied=True))["all"] is True
        status, body = await process.predict(b"asks", f"/v1/models/{plan.explain_name}:explain")
        assert (status, json.loads(body)["all"], json.loads(body)["left_s"]) == (200, True, None)
        assert [os.sched_getscheduler(pid) for pid in (predicts, explains)] == [os.SCHED_OTHER, os.SCHED_IDLE]

        outcomes: Counter[int] = Counter()
        slowest_s = 0.0
        is_over = asyncio.Event()

        async def predict_on() -> None:
            nonlocal slowest_s
            while not is_over.is_set():
                started = loop.time()
                outcomes[(await generation.predict([b"abc"], 3, "id", started)).status] += 1
                slowest_s = max(slowest_s, loop.time() - started)

        client = asyncio.create_task(predict_on())
        running = asyncio.create_task(explain(b"asks 0.5"))
        await asyncio.sleep(0.2)
        os.kill(explains, signal.SIGKILL)
        after = await running  # sent a second time, and answered by the new worker that TorchServe started
        assert after["pid"] not in (predicts, explains)
        assert after["policy"] == os.SCHED_IDLE
        is_over.set()
        await client
        assert set(outcomes) == {200}
        assert outcomes[200] > 50
        assert slowest_s < 5
        assert await process.worker_states() == [(predicts, "READY")]
        log = process.log_file.read_text()
        assert "this worker is of the explain lane" in log
        assert "this worker is of the predict lane" in log
        generation.close()
    finally:
        await process.stop()
