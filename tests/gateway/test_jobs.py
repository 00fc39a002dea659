"""Explanation jobs: submitted, polled, fetched, canceled, expired."""

import asyncio
import json
from typing import Any

import pytest

ROUTE = "/endpoints/fridge/jobs/explain"
BODY = b'{"input_data":{"columns":["image"],"data":["QQ=="]}}'
EXPLAINED = b'[{"probs": [0.25,0.75], "visualizations":"iVBO"}]'


class JobWorker:
    """Stands in for the explain lane's worker: `answers` maps bodies of jobs to answers; others keep running."""

    def __init__(self, upstream: Any, make_reply: Any) -> None:
        self.upstream, self.reply = upstream, make_reply
        self.commands: list[tuple[str, str]] = []
        self.answers: dict[bytes, bytes] = {}
        self.bodies: dict[str, bytes] = {}
        self.heads: list[bytes] = []
        self.is_busy = False
        upstream.behave = self.behave

    async def behave(self, head: bytes, body: bytes) -> bytes:
        fields = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n")[1:])
        if "x-clearsight-job" not in fields:
            return self.reply(200, EXPLAINED)
        verb, job_id = fields["x-clearsight-job"].split(" ")
        self.commands.append((verb, job_id))
        self.heads.append(head)
        if verb == "start":
            if self.is_busy:
                return self.reply(200, b"{}", x_clearsight_job="busy")
            self.bodies[job_id] = body
        if verb == "end":
            self.bodies.pop(job_id, None)
        if job_id not in self.bodies:
            return self.reply(200, b"{}", x_clearsight_job="unknown")
        done = self.answers.get(self.bodies[job_id])
        return done or self.reply(
            200, b'{"rows_done":0,"rows":1,"points_done":8,"points":100}', x_clearsight_job="running"
        )

    def finish(self, body: bytes = BODY, status: int = 200, answer: bytes = EXPLAINED, **headers: str) -> None:
        self.answers[body] = self.reply(status, answer, x_clearsight_job="done", **headers)

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.commands]


@pytest.fixture
def blue(gateway, make_reply):
    gateway.route(blue=gateway.deployment("blue", explain=gateway.explain_lane("blue", max_jobs=3)))
    return JobWorker(gateway.upstreams["blue"], make_reply)


@pytest.fixture
def ask(gateway, keys):
    async def send(path, method="GET", key=keys[0]):
        return await gateway.get(path, method, **({"Authorization": f"Bearer {key}"} if key else {}))

    return send


@pytest.fixture
def until(ask):
    """Poll a job until it has that status."""

    async def wait(path, status):
        async with asyncio.timeout(5):
            while (document := json.loads((await ask(path)).body))["status"] != status:
                await asyncio.sleep(0.01)
        return document

    return wait


async def post(gateway, body=BODY, **options):
    reply = await gateway.score(body, path=ROUTE, **options)
    assert reply.status == 202, reply
    document = json.loads(reply.body)
    assert document["status"] == "Queued"
    assert reply.headers["location"] == f"{ROUTE}/{document['id']}"
    return reply.headers["location"]


async def test_a_job_that_does_not_exist_is_404_with_the_possible_reasons(gateway, blue, ask):
    for method in ("GET", "DELETE"):
        reply = await ask(f"{ROUTE}/never", method)
        assert (reply.status, reply.code) == (404, "JobNotFound")
        assert b"restart" in reply.body
        assert b"expire" in reply.body
    assert (await ask(f"{ROUTE}/")).status == 404
    assert blue.commands == []


async def test_the_result_is_the_synchronous_answer_byte_for_byte(gateway, blue, ask, until):
    blue.finish(x_explanation_degraded="1")
    path = await post(gateway)
    document = await until(path, "Completed")
    reply = await ask(path)
    synchronous = await gateway.score(BODY, path="/endpoints/fridge/explain")
    assert reply.body.endswith(b',"result":' + synchronous.body + b"}")
    assert document["result"] == json.loads(EXPLAINED)
    assert (document["deployment"], reply.headers["x-explanation-degraded"]) == ("blue", "1")
    assert document["created"] < document["expires"]
    async with asyncio.timeout(3):
        while blue.verbs() != ["start", "end"]:
            await asyncio.sleep(0.01)
    head = blue.heads[0]
    assert head.startswith(b"POST /explanations/blue-explain ")
    assert b"x-clearsight-deadline: " in head


async def test_a_running_job_reports_its_progress_and_a_second_one_waits(gateway, blue, ask, until):
    first, second = await post(gateway), await post(gateway, BODY + b" ")
    document = await until(first, "Running")
    assert document["progress"] == {"rows_done": 0, "rows": 1, "points_done": 8, "points": 100}
    assert json.loads((await ask(second)).body)["status"] == "Queued"
    page = gateway.metrics.page().decode()
    for status in ("queued", "running"):
        assert f'clearsight_explain_jobs{{deployment="blue",endpoint="fridge",status="{status}"}} 1.0' in page
    blue.finish()
    assert "progress" not in await until(first, "Completed")
    blue.finish(BODY + b" ", 422, b'{"message":"too large"}')
    document = await until(second, "Failed")
    assert document["error"] == {"status": 424, "model_status": 422, "message": "too large"}
    page = gateway.metrics.page().decode()
    for status in ("completed", "failed"):
        assert (
            f'clearsight_explain_jobs_ended_total{{deployment="blue",endpoint="fridge",status="{status}"}} 1.0' in page
        )
    assert 'clearsight_explain_jobs{deployment="blue",endpoint="fridge",status="running"} 0.0' in page
    assert {line["Lane"] for line in gateway.log_lines()} == {"jobs"}


async def test_out_of_time_is_a_failure_with_408(gateway, blue, until):
    blue.finish(status=408, answer=b'{"message":"out of time"}')
    document = await until(await post(gateway), "Failed")
    assert document["error"] == {"status": 408, "model_status": 408, "message": "out of time"}


async def test_a_canceled_job_is_ended_in_its_worker_and_the_next_one_begins_when_that_is_free(
    gateway, blue, ask, until
):
    running, queued, last = [await post(gateway, BODY + b" " * number) for number in range(3)]
    await until(running, "Running")
    blue.is_busy = True
    for path in (queued, running):
        document = json.loads((await ask(path, "DELETE")).body)
        assert (document["status"], "result" in document) == ("Canceled", False)
    async with asyncio.timeout(3):
        while blue.verbs().count("start") < 3:
            await asyncio.sleep(0.01)
    assert ("end", running.rsplit("/", 1)[1]) in blue.commands
    assert not any(job_id == queued.rsplit("/", 1)[1] for _, job_id in blue.commands)
    assert json.loads((await ask(last)).body)["status"] == "Queued"
    blue.is_busy = False
    blue.finish(BODY + b"  ")
    await until(last, "Completed")
    assert json.loads((await ask(running)).body)["status"] == "Canceled"


async def test_many_cancellations_that_wait_for_a_busy_worker_fail_no_other_job(gateway, blue, ask, until):
    free = asyncio.Event()

    async def behave(head, body):
        await free.wait()  # the worker answers a request meanwhile
        return await blue.behave(head, body)

    gateway.upstreams["blue"].behave = behave
    for _ in range(5):
        await ask(await post(gateway), "DELETE")
    path = await post(gateway, BODY + b" ")
    await gateway.clock.advance(1.0)
    assert json.loads((await ask(path)).body)["status"] == "Queued"
    free.set()
    await until(path, "Running")
    blue.finish(BODY + b" ")
    await until(path, "Completed")


async def test_results_expire_and_a_delete_forgets_them_at_once(gateway, blue, ask, until):
    blue.finish()
    kept, deleted = await post(gateway), await post(gateway)
    await until(kept, "Completed")
    await until(deleted, "Completed")
    assert (await ask(deleted, "DELETE")).status == 200
    assert (await ask(deleted)).status == 404
    await gateway.clock.advance(59.9)
    assert (await ask(kept)).status == 200
    await gateway.clock.advance(0.1)
    assert (await ask(kept)).status == 404
    assert gateway.data_plane.jobs.num_bytes == 0


async def test_only_a_key_of_the_endpoint_sees_or_ends_its_jobs(gateway, blue, ask, until):
    path = await post(gateway)
    assert (await gateway.score(BODY, path=ROUTE, key="wrong")).status == 401
    for method in ("GET", "DELETE"):
        for key in (None, "wrong"):
            assert (await ask(path, method, key)).status == 401
        assert (await ask(path.replace("fridge", "other"), method)).code == "EndpointNotFound"
    assert (await ask(path, "POST")).status == 405
    assert (await ask(ROUTE)).status == 405
    assert (await gateway.score(BODY, path=ROUTE, Content_Type="text/plain")).status == 424
    await until(path, "Running")
    assert len(path.rsplit("/", 1)[1]) >= 32


async def test_a_full_queue_and_a_full_store_are_429(gateway, blue, ask, until):
    paths = [await post(gateway) for _ in range(3)]
    reply = await gateway.score(BODY, path=ROUTE)
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "TooManyRequests", "10")
    for path in paths:
        await ask(path, "DELETE")
    large = BODY + b" " * 55_000
    await post(gateway, BODY)
    reply = await gateway.score(large, path=ROUTE)
    assert (reply.status, reply.headers["retry-after"]) == (429, "10")
    assert b"bytes of jobs" in reply.body


async def test_the_pin_chooses_and_a_deployment_without_the_lane_refuses(gateway, blue, ask):
    reply = await gateway.score(BODY, path=ROUTE, pin="green")
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (424, "400")
    assert json.loads((await ask(await post(gateway, pin="blue"))).body)["deployment"] == "blue"


async def test_a_lost_worker_fails_its_job_and_the_next_one_works(gateway, blue, until):
    path = await post(gateway)
    await until(path, "Running")
    blue.bodies.clear()
    document = await until(path, "Failed")
    assert document["error"]["status"] == 424
    assert "worker that computed the job was lost" in document["error"]["message"]
    blue.finish()
    await until(await post(gateway), "Completed")


async def test_a_job_starts_again_on_a_replaced_deployment_and_fails_on_a_deleted_one(gateway, blue, until):
    path = await post(gateway)
    await until(path, "Running")
    lane = gateway.explain_lane("blue")
    gateway.route(blue=gateway.deployment("blue", generation="blue-2", explain=lane))
    async with asyncio.timeout(3):
        while blue.verbs().count("start") < 2:
            await asyncio.sleep(0.01)
    gateway.route(blue=gateway.deployment("blue", generation="blue-3"))
    assert (await until(path, "Failed"))["error"]["status"] == 404


async def test_a_stopping_gateway_cancels_its_jobs_and_notifies_the_worker(gateway, blue, ask, until):
    path, queued = await post(gateway), await post(gateway)
    await until(path, "Running")
    async with asyncio.timeout(2):
        await gateway.data_plane.jobs.close()
    assert blue.commands[-1] == ("end", path.rsplit("/", 1)[1])
    for asked in (path, queued):
        document = json.loads((await ask(asked)).body)
        assert (document["status"], document["error"]["message"]) == ("Canceled", "The gateway is being stopped.")
    assert (await gateway.score(BODY, path=ROUTE)).status == 503


async def test_a_job_counts_against_no_requests_limits_or_bytes(gateway, blue, until):
    await until(await post(gateway), "Running")
    assert gateway.data_plane.num_body_bytes == 0
    assert (await gateway.score(BODY, path="/endpoints/fridge/explain")).body == EXPLAINED
