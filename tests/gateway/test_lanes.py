"""Explanations in a lane of their own: which requests take it, and that neither lane blocks the other."""

import asyncio
import json
import time
from collections import Counter

import pytest

PLAIN = b'{"input_data":{"columns":["image"],"data":["QQ=="]}}'
ASKS = (
    b'{"input_data":{"columns":["image"],"data":["{\\"image_base64\\":\\"QQ==\\",\\"model_explainability\\":true}"]}}'
)
ESCAPED = ASKS.replace(b"model_", b"model\\\\u005f")
EXPLAIN_ROUTE = "/endpoints/fridge/explain"


def paths(upstream) -> list[str]:
    return [head.split(b" ", 2)[1].decode() for head, _ in upstream.requests]


def headers(head: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n")[1:])


@pytest.fixture
def blue(gateway, make_reply):
    """Blue has an explain lane; its predict entry rejects requests for explanations, escaped keys included."""
    gateway.route(blue=gateway.deployment("blue", explain=gateway.explain_lane("blue")))
    upstream = gateway.upstreams["blue"]

    async def behave(head, body):
        if head.startswith(b"POST /predictions/blue "):
            if b"explainability" in body:
                return make_reply(421, b'{"message":"wrong lane"}', x_clearsight_lane="explain")
            return make_reply(200, b"[predicted]")
        return make_reply(200, b"[explained]")

    upstream.behave = behave
    return upstream


async def test_a_plain_body_is_predicted_and_one_with_the_key_is_explained(gateway, blue):
    assert [(await gateway.score(body)).body for body in (PLAIN, ASKS)] == [b"[predicted]", b"[explained]"]
    assert paths(blue) == ["/predictions/blue", "/predictions/blue-explain"]
    assert blue.requests[1][1] == ASKS
    refused = ASKS.replace(b"true", b"false")
    assert (await gateway.score(refused)).body == b"[explained]"  # sent there by the stand-in handler, not by the scan
    assert paths(blue)[2:] == ["/predictions/blue", "/predictions/blue-explain"]


async def test_a_request_with_an_escaped_key_is_sent_again_exactly_once(gateway, blue, make_reply):
    reply = await gateway.score(ESCAPED)
    assert (reply.status, reply.body) == (200, b"[explained]")
    assert paths(blue) == ["/predictions/blue", "/predictions/blue-explain"]
    assert [body for _, body in blue.requests] == [ESCAPED, ESCAPED]
    assert not any("lane" in name for name in reply.headers)
    blue.requests.clear()
    blue.behave = blue._answer
    blue.answer = make_reply(421, b'{"message":"again"}', x_clearsight_lane="explain")
    reply = await gateway.score(ESCAPED)
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"], reply.body) == (
        424, "400", b'{"message":"again"}',
    )  # fmt: skip
    assert len(blue.requests) == 2


async def test_a_421_that_is_not_the_handlers_own_is_no_wrong_lane(gateway, blue, make_reply):
    blue.behave = blue._answer
    blue.answer = make_reply(421, b"{}", mark=False)
    reply = await gateway.score(PLAIN)
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (424, "421")
    assert len(blue.requests) == 1


async def test_the_route_explain_explains_every_row_whatever_the_body(gateway, blue, keys):
    assert (await gateway.score(PLAIN, path=EXPLAIN_ROUTE)).body == b"[explained]"
    assert paths(blue) == ["/explanations/blue-explain"]
    assert (await gateway.score(PLAIN, path=EXPLAIN_ROUTE, key="wrong")).status == 401
    assert (await gateway.get(EXPLAIN_ROUTE, "OPTIONS")).status == 200
    assert (await gateway.get(EXPLAIN_ROUTE, Authorization=f"Bearer {keys[0]}")).status == 424
    assert len(blue.requests) == 1


async def test_without_the_lane_no_body_is_scanned_and_explanations_are_refused_as_400(gateway, make_reply):
    blue = gateway.upstreams["blue"]
    assert (await gateway.score(ASKS)).status == 200
    assert paths(blue) == ["/predictions/blue"]
    blue.answer = make_reply(421, b'{"message":"switched off"}', x_clearsight_lane="explain")
    for reply in (await gateway.score(ASKS), await gateway.score(PLAIN, path=EXPLAIN_ROUTE)):
        assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (424, "400")
        assert "switched off" in json.loads(reply.body)["message"]
    assert len(blue.requests) == 2


async def test_the_deadline_of_the_worker_is_15_percent_before_that_of_the_gateway(gateway, blue):
    lane = gateway.explain_lane("blue", request_timeout_s=2.0)
    gateway.route(blue=gateway.deployment("blue", explain=lane))
    before = time.monotonic()
    await gateway.score(ASKS, x_clearsight_deadline="1", explain="True")
    after = time.monotonic()
    sent = headers(blue.requests[0][0])
    assert set(sent) == {
        "host", "content-type", "authorization", "x-request-id", "content-length", "x-clearsight-deadline"
    }  # fmt: skip
    assert before + 1.7 - 0.01 <= float(sent["x-clearsight-deadline"]) <= after + 1.7


async def test_the_deadline_of_a_prediction_is_that_of_the_gateway(gateway, blue):
    gateway.route(blue=gateway.deployment("blue", request_timeout_s=3.0))
    before = time.monotonic()
    await gateway.score(PLAIN, x_clearsight_deadline="1")
    assert before + 3.0 - 0.01 <= float(headers(blue.requests[0][0])["x-clearsight-deadline"]) <= time.monotonic() + 3.0


async def test_time_in_the_wrong_lane_counts_against_the_limit_of_the_right_one(gateway, blue):
    swift, arrivals = blue.behave, asyncio.Queue()

    async def slow(head, body):
        ended = asyncio.get_running_loop().create_future()
        await arrivals.put(ended)
        await ended
        return await swift(head, body)

    blue.behave = slow
    request = asyncio.create_task(gateway.score(ESCAPED))
    wrong_lane = await arrivals.get()
    await gateway.clock.advance(3.5)
    wrong_lane.set_result(None)
    await arrivals.get()
    await gateway.clock.advance(1.4)
    assert not request.done()
    await gateway.clock.advance(0.2)
    reply = await request
    assert (reply.status, reply.code) == (408, "RequestTimeout")


async def test_a_degraded_explanation_and_the_handlers_own_408_reach_the_client(gateway, blue, make_reply):
    blue.behave = blue._answer
    blue.answer = make_reply(200, b"[]", x_explanation_degraded="1")
    assert (await gateway.score(ASKS)).headers["x-explanation-degraded"] == "1"
    blue.answer = make_reply(408, b'{"message":"out of time"}')
    reply = await gateway.score(ASKS)
    assert (reply.status, reply.body) == (408, b'{"message":"out of time"}')


class TestAdmission:
    @pytest.fixture
    def held(self, gateway, blue):
        """Explanations do not end before the event is set."""
        swift, gate = blue.behave, asyncio.Event()

        async def behave(head, body):
            if b"-explain" in head:
                await gate.wait()
            return await swift(head, body)

        blue.behave = behave
        yield gate
        gate.set()

    async def explanations(self, gateway, count):
        requests = [asyncio.create_task(gateway.score(ASKS)) for _ in range(count)]
        async with asyncio.timeout(3):
            while gateway.data_plane.in_flight()["blue-1"] < min(count, 4):
                await asyncio.sleep(0.005)
        return requests

    async def test_a_full_explain_lane_is_429_and_predictions_go_on(self, gateway, blue, held):
        requests = await self.explanations(gateway, 10)
        async with asyncio.timeout(3):
            while sum(request.done() for request in requests) < 6:
                await asyncio.sleep(0.005)
        assert {(await gateway.score(PLAIN)).status for _ in range(20)} == {200}
        assert paths(blue).count("/predictions/blue-explain") == 1  # one at a time
        held.set()
        replies = await asyncio.gather(*requests)
        assert Counter(reply.status for reply in replies) == {200: 4, 429: 6}
        assert {reply.headers.get("retry-after") for reply in replies if reply.status == 429} == {"1"}

    async def test_a_full_predict_lane_does_not_block_an_explanation(self, gateway, blue, held):
        lane = gateway.explain_lane("blue")
        gateway.route(blue=gateway.deployment("blue", max_running=1, max_in_flight=1, explain=lane))
        swift, predicting = blue.behave, asyncio.Event()

        async def behave(head, body):
            if b"-explain" not in head:
                await predicting.wait()
            return await swift(head, body)

        blue.behave = behave
        held.set()
        prediction = asyncio.create_task(gateway.score(PLAIN))
        async with asyncio.timeout(3):
            while not blue.requests:
                await asyncio.sleep(0.005)
        assert [(await gateway.score(body)).status for body in (PLAIN, ASKS)] == [429, 200]
        predicting.set()
        assert (await prediction).status == 200

    async def test_a_drain_waits_for_explanations_too(self, gateway, blue, held):
        [request] = await self.explanations(gateway, 1)
        gateway.route(blue=gateway.deployment("blue", generation="blue-2"))
        assert gateway.data_plane.in_flight() == {"blue-1": 1, "blue-2": 0, "green-1": 0}
        held.set()
        assert (await request).body == b"[explained]"
        assert gateway.data_plane.in_flight() == {"blue-2": 0, "green-1": 0}

    async def test_a_removed_lane_finishes_its_requests(self, gateway, blue, held):
        [request] = await self.explanations(gateway, 1)
        gateway.route(blue=gateway.deployment("blue"))
        assert gateway.data_plane.in_flight()["blue-1"] == 1
        assert (await gateway.score(PLAIN, path=EXPLAIN_ROUTE)).status == 424
        held.set()
        assert (await request).body == b"[explained]"


async def test_log_and_metrics_name_the_lane(gateway, blue, make_reply):
    await gateway.score(PLAIN)
    await gateway.score(ESCAPED)
    blue.behave = blue._answer
    blue.answer = make_reply(200, b"[]", x_explanation_degraded="1")
    await gateway.score(ASKS)
    assert [line["Lane"] for line in gateway.log_lines()] == ["predict", "explain", "explain"]
    page = gateway.metrics.page().decode()
    labels = 'deployment="blue",endpoint="fridge"'
    assert f'aml_request_latency_ms_count{{{labels},lane="predict"}} 1.0' in page
    assert f'aml_request_latency_ms_count{{{labels},lane="explain"}} 2.0' in page
    assert f"clearsight_explanations_degraded_total{{{labels}}} 1.0" in page
    assert f'aml_requests_total{{{labels},lane="explain",mirrored="false",model_status_code="200",' in page


async def test_the_cost_of_explanations_is_counted_and_not_sent_to_the_client(gateway, blue, make_reply):
    blue.behave = blue._answer
    telemetry = {
        "chunk": 4,
        "rows": [
            {"algorithm": "xrai", "ms": {"regions": 250, "gradients": 2100}, "degraded": True, "cached": False},
            {"algorithm": "xrai", "ms": {}, "degraded": False, "cached": True},
            {"algorithm": 'x"} 1', "ms": {}, "degraded": False, "cached": False},
        ],
    }
    for _ in range(2):
        blue.answer = make_reply(200, b"[]", x_clearsight_explained=json.dumps(telemetry))
        reply = await gateway.score(ASKS)
        assert not any("clearsight" in name for name in reply.headers)
    for status in (408, 422, 408):
        blue.answer = make_reply(status, b"{}")
        await gateway.score(ASKS)
    blue.answer = make_reply(200, b"[]", x_clearsight_explained="no JSON")
    assert (await gateway.score(ASKS)).status == 200
    page = gateway.metrics.page().decode()
    where = 'deployment="blue",endpoint="fridge"'
    phase = f'{{algorithm="xrai",{where},phase="regions"}}'
    assert f"clearsight_explanation_phase_ms_sum{phase} 500.0" in page
    assert f"clearsight_explanation_phase_ms_count{phase} 2.0" in page
    for algorithm, cached, degraded in (
        ("xrai", "false", "true"),
        ("xrai", "true", "false"),
        ("other", "false", "false"),
    ):
        labels = f'algorithm="{algorithm}",cached="{cached}",degraded="{degraded}",{where}'
        assert f"clearsight_explanations_total{{{labels}}} 2.0" in page
    assert f"clearsight_explanation_chunk_size{{{where}}} 4.0" in page
    assert f'clearsight_explanations_refused_total{{{where},status_code="408"}} 2.0' in page
    assert f'clearsight_explanations_refused_total{{{where},status_code="422"}} 1.0' in page


async def test_a_refused_prediction_does_not_count_as_a_refused_explanation(gateway, blue, make_reply):
    blue.behave = blue._answer
    blue.answer = make_reply(400, b"{}")
    await gateway.score(PLAIN)
    assert "refused_total{" not in gateway.metrics.page().decode()
