"""Every status that a client can get, with headers and body."""

import asyncio
import gzip
import json
import re
import uuid
from collections import Counter

import pytest

from clearsight.serving.gateway.upstream import ConnectionBroken, _Connection

BODY = b'{"input_data":{"columns":["image"],"data":["QQ=="]}}'


async def test_an_empty_table_knows_no_endpoint(gateway):
    gateway.data_plane.swap(type(gateway.data_plane.table)())
    reply = await gateway.score(BODY)
    assert (reply.status, reply.code) == (404, "EndpointNotFound")


async def test_a_handlers_answer_passes_with_its_run_headers_and_those_of_the_gateway(gateway, make_reply):
    gateway.upstreams["blue"].answer = make_reply(
        200, b"[1]", x_ms_run_function_failed="False", x_ms_run_fn_exec_ms="1.5", x_secret="no", set_cookie="a=b"
    )
    reply = await gateway.score(BODY, x_ms_client_request_id="my id!/" + "x" * 60, x_request_id="mine")
    assert (reply.status, reply.body) == (200, b"[1]")
    names = {name.lower() for name in reply.headers}
    assert names == {
        "content-type", "content-length", "date", "x-request-id", "x-ms-request-id", "x-ms-client-request-id",
        "x-ms-server-version", "x-ms-run-function-failed", "x-ms-run-fn-exec-ms", "azureml-model-deployment",
    }  # fmt: skip
    assert uuid.UUID(reply.headers["x-request-id"]).version == 4
    assert reply.headers["x-ms-client-request-id"] == "myid" + "x" * 36
    assert reply.headers["azureml-model-deployment"] == "blue"
    assert reply.headers["content-type"] == "application/json"


async def test_the_upstream_sees_known_headers_and_nothing_of_the_client(gateway):
    await gateway.score(BODY, describe="True", explain="True", X_Forwarded_For="1.2.3.4", Cookie="a=b", TE="trailers")
    [(head, body)] = gateway.upstreams["blue"].requests
    first, *lines = head.decode().strip().split("\r\n")
    assert first == "POST /predictions/blue HTTP/1.1"
    assert {line.split(":")[0] for line in lines} == {
        "host", "content-type", "authorization", "x-request-id", "content-length", "x-clearsight-deadline"
    }  # fmt: skip
    assert "authorization: Bearer inner-token" in lines
    assert body == BODY


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x", "bearer\u00a0{key}"],
)
async def test_a_missing_malformed_or_wrong_credential_is_401(gateway, keys, header):
    headers = {} if header is None else {"Authorization": header.format(key=keys[0])}
    reply = await gateway.score(BODY, key=None, **headers)
    assert (reply.status, reply.code) == (401, "Unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert not gateway.upstreams["blue"].requests


async def test_both_keys_work_and_after_a_rotation_only_the_new_one(gateway, keys):
    assert [(await gateway.score(BODY, key=key)).status for key in keys] == [200, 200]
    gateway.route(keys=("the-new-primary-key-of-at-least-32-bytes", keys[1]))
    statuses = [
        (await gateway.score(BODY, key=key)).status
        for key in (keys[0], keys[1], "the-new-primary-key-of-at-least-32-bytes")
    ]
    assert statuses == [401, 200, 200]


async def test_an_endpoint_without_credentials_accepts_no_key(gateway, keys):
    gateway.route(keys=())
    assert (await gateway.score(BODY, key=keys[0])).status == 401
    assert (await gateway.score(BODY, key="")).status == 401


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/", 200, b"Healthy"),
        ("HEAD", "/", 200, b""),
        ("GET", "/endpoints/fridge/", 200, b"Healthy"),
        ("OPTIONS", "/endpoints/fridge/score", 200, b""),
        ("PUT", "/endpoints/fridge/score", 405, b'{"message":"The method is not allowed for the requested URL."}'),
        ("POST", "/", 405, b'{"message":"The method is not allowed for the requested URL."}'),
        ("GET", "/nothing", 404, b'{"message":"The requested URL was not found on the server."}'),
        ("GET", "/metrics", 404, b'{"message":"The requested URL was not found on the server."}'),
        ("GET", "/endpoints/fridge/other", 404, b'{"message":"The requested URL was not found on the server."}'),
    ],
)
async def test_routes_beside_scoring(gateway, method, path, status, body):
    reply = await gateway.get(path, method)
    assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize(
    ("verb", "upstream_path", "ready"),
    [("predict", "/predictions/blue", True), ("explain", "/explanations/blue-explain", True), ("predict", "", False)],
)
async def test_kserves_paths_are_those_of_the_endpoint(gateway, verb, upstream_path, ready):
    not_ready = {} if ready else {"upstreams": ()}
    gateway.route(blue=gateway.deployment("blue", explain=gateway.explain_lane("blue"), **not_ready))
    path, body = f"/v1/models/fridge:{verb}", b'{"instances":[{"data":"QQ=="}]}'
    assert (await gateway.score(body, key="wrong", path=path)).status == 401
    reply = await gateway.score(body, path=path)
    assert reply.status == (200 if ready else 503)
    sent = [(head.split()[1].decode(), content) for head, content in gateway.upstreams["blue"].requests]
    assert sent == ([(upstream_path, body)] if ready else [])
    state = await gateway.get("/v1/models/fridge")
    assert (state.status, json.loads(state.body)) == (200 if ready else 503, {"name": "fridge", "ready": ready})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/other", 404),
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v1/models/fridge", 405),
        ("POST", "/v1/models/fridge:train", 404),
        ("PUT", "/v1/models/fridge:predict", 405),
        ("GET", "/v1/models", 404),
        ("GET", "/v1/models/", 404),
    ],
)
async def test_what_kserves_protocol_lacks_is_refused(gateway, method, path, status):
    assert (await gateway.get(path, method)).status == status


async def test_an_unknown_endpoint_is_404_for_every_route(gateway):
    for path in ("/endpoints/other/", "/endpoints/other/swagger.json"):
        reply = await gateway.get(path)
        assert (reply.status, reply.code) == (404, "EndpointNotFound")
    assert (await gateway.score(BODY, path="/endpoints/other/score")).status == 404


async def test_an_endpoint_without_a_ready_deployment_is_unhealthy(gateway):
    gateway.route(blue=gateway.deployment("blue", upstreams=()))
    assert (await gateway.get("/endpoints/fridge/")).status == 503


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
async def test_a_coding_that_no_worker_reads_is_415_and_named(gateway, encoding):
    reply = await gateway.score(BODY, content_encoding=encoding)
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (424, "415")
    assert "Content-Encoding" in json.loads(reply.body)["message"]
    assert not gateway.upstreams["blue"].requests


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "identity", ""])
async def test_a_compressed_body_reaches_the_worker_as_it_is(gateway, encoding):
    body = gzip.compress(BODY)
    assert (await gateway.score(body, content_encoding=encoding)).status == 200
    assert [sent for _, sent in gateway.upstreams["blue"].requests] == [body]


@pytest.mark.parametrize(
    ("status", "headers", "mark", "expected"),
    [
        (200, {"x_ms_run_function_failed": "False"}, True, "False"),
        (400, {"x_ms_run_function_failed": "False"}, True, "False"),
        (408, {"x_ms_run_function_failed": "False"}, True, "False"),
        (421, {"x_ms_run_function_failed": "False"}, True, "False"),
        (500, {"x_ms_run_function_failed": "True"}, True, "True"),
        (404, {}, False, "False"),
        (507, {}, False, "True"),
    ],
)
async def test_every_answer_of_the_container_says_whether_its_function_failed(
    gateway, make_reply, status, headers, mark, expected
):
    gateway.upstreams["blue"].answer = make_reply(status, b"{}", mark=mark, x_ms_run_other="1", **headers)
    reply = await gateway.score(BODY)
    assert reply.headers["x-ms-run-function-failed"] == expected
    assert reply.headers["x-ms-run-other"] == "1"


async def test_answers_in_place_of_the_container_say_it_too(gateway):
    replies = [
        await gateway.score(BODY, content_type="text/plain"),
        await gateway.score(path="/endpoints/fridge/explain"),
    ]
    assert [reply.headers["x-ms-run-function-failed"] for reply in replies] == ["False"] * 2
    gateway.route(green=gateway.deployment("green", upstreams=()))
    assert (await gateway.score(pin="green")).headers["x-ms-run-function-failed"] == "True"


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_every_answer_of_a_deployment_names_its_model(gateway, make_reply, status):
    gateway.route(blue=gateway.deployment("blue", model="fridge:3"))
    gateway.upstreams["blue"].answer = make_reply(status)
    assert (await gateway.score(BODY)).headers["x-clearsight-model"] == "fridge:3"
    assert "x-clearsight-model" not in (await gateway.score(BODY, pin="green")).headers
    assert "x-clearsight-model" not in (await gateway.score(BODY, key="wrong")).headers


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x", "application/octet-stream"])
async def test_another_content_type_is_the_containers_415_and_never_reaches_it(gateway, content_type):
    reply = await gateway.score(BODY, content_type=content_type)
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (424, "415")
    assert json.loads(reply.body) == {"message": "Expects Content-Type to be application/json"}
    assert not gateway.upstreams["blue"].requests


async def test_a_charset_is_tolerated(gateway):
    assert (await gateway.score(BODY, content_type="Application/JSON; charset=utf-8")).status == 200


async def test_get_on_score_is_the_containers_400(gateway, keys):
    reply = await gateway.get("/endpoints/fridge/score", Authorization=f"Bearer {keys[0]}")
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (424, "400")
    assert "input_data" in json.loads(reply.body)["message"]


@pytest.mark.parametrize("status", [201, 206, 400, 401, 404, 408, 413, 429, 500, 503, 507])
async def test_any_other_status_of_the_handler_is_424_with_its_body_unchanged(gateway, make_reply, status):
    gateway.upstreams["blue"].answer = make_reply(status, b'{"message":"row 1"}', phrase="Some thing")
    reply = await gateway.score(BODY)
    if status == 408:
        assert (reply.status, reply.body) == (408, b'{"message":"row 1"}')
        return
    assert (reply.status, reply.body) == (424, b'{"message":"row 1"}')
    assert reply.headers["ms-azureml-model-error-statuscode"] == str(status)
    assert reply.headers["ms-azureml-model-error-reason"] == "Some thing"
    assert len(gateway.upstreams["blue"].requests) == 1


async def test_a_reason_is_made_short_and_printable(gateway, make_reply):
    gateway.upstreams["blue"].answer = make_reply(422, b"", phrase="caf\u00e9\x01" + "y" * 200)
    reply = await gateway.score(BODY)
    assert re.fullmatch(r"[\x20-\x7e]{80}", reply.headers["ms-azureml-model-error-reason"])


async def test_torchserves_own_408_is_not_the_handlers(gateway, make_reply):
    gateway.upstreams["blue"].answer = make_reply(408, b"{}", mark=False)
    assert (await gateway.score(BODY)).status == 424


@pytest.mark.parametrize("status", [500, 503, 507])
async def test_a_lost_worker_is_tried_once_more(gateway, make_reply, status):
    blue = gateway.upstreams["blue"]
    answers = [make_reply(status, b'{"message":"Worker died."}', mark=False, connection="close"), make_reply()]

    async def behave(head, body):
        return answers[min(len(blue.requests), 2) - 1]

    blue.behave = behave
    assert (await gateway.score(BODY)).status == 200
    assert [body for _, body in blue.requests] == [BODY, BODY]
    answers[1] = answers[0]
    reply = await gateway.score(BODY)
    assert (reply.status, reply.headers["ms-azureml-model-error-statuscode"]) == (424, str(status))


async def test_a_connection_that_dies_before_the_answer_is_tried_once_more_on_a_new_one(gateway, make_reply):
    blue = gateway.upstreams["blue"]
    assert (await gateway.score(BODY)).status == 200

    async def behave(head, body):
        return b"" if len(blue.requests) == 2 else make_reply()

    blue.behave = behave
    assert (await gateway.score(BODY)).status == 200
    assert (len(blue.requests), blue.num_connections) == (3, 2)


async def test_a_connection_that_is_gone_before_the_request_is_broken():
    connection = _Connection(1000, asyncio.get_running_loop())
    with pytest.raises(ConnectionBroken, match="closed") as caught:
        await connection.exchange([b"POST / HTTP/1.1"])
    assert caught.value.may_retry


async def test_a_dead_upstream_is_tried_twice_and_is_424(gateway):
    blue = gateway.upstreams["blue"]

    async def behave(head, body):
        return b""

    blue.behave = behave
    reply = await gateway.score(BODY)
    assert (reply.status, reply.code, len(blue.requests)) == (424, "ModelUnreachable", 2)
    assert "ms-azureml-model-error-statuscode" not in reply.headers


async def test_a_request_waits_for_the_successor_of_a_dead_process_while_its_time_allows(gateway, make_reply):
    blue = gateway.upstreams["blue"]
    await blue.stop()
    in_vain, request = (asyncio.create_task(gateway.score(BODY)) for _ in range(2))
    await gateway.clock.advance(0.1)
    assert not in_vain.done()
    gateway.route(blue=gateway.deployment("blue", upstreams=()))
    await gateway.clock.advance(4.0)
    gateway.route(blue=gateway.deployment("blue", upstreams=(gateway.upstream("green"),)))
    assert (await request).status == (await in_vain).status == 200
    gateway.route()
    late = asyncio.create_task(gateway.score(BODY))
    await gateway.clock.advance(5.0)
    assert (await late).code == "DeploymentNotReady"


async def test_a_request_of_a_killed_process_is_sent_to_another_one(gateway, make_reply):
    """Nothing of an answer reaches the client before all of it is there, so that a cut one does not matter."""
    blue, green = gateway.upstreams["blue"], gateway.upstreams["green"]
    both = (gateway.upstream("blue"), gateway.upstream("green"))
    gateway.route(blue=gateway.deployment("blue", upstreams=both))

    async def behave(head, body):
        return make_reply()[:-6] + b"<cut>"

    blue.behave = green.behave = behave
    assert (await gateway.score(BODY)).code == "ModelUnreachable"
    assert (len(blue.requests), len(green.requests)) == (1, 1)
    green.behave = green._answer
    for _ in range(10):
        assert (await gateway.score(BODY)).status == 200


async def test_requests_are_spread_over_the_processes(gateway, make_reply):
    names, arrived = ("blue", "green"), []

    async def behave(head, body):
        arrived.append(None)
        while len(arrived) < 8:
            await asyncio.sleep(0.001)
        return make_reply()

    for name in names:
        gateway.upstreams[name].behave = behave
    gateway.route(blue=gateway.deployment("blue", upstreams=tuple(gateway.upstream(name) for name in names)))
    replies = await asyncio.gather(*(gateway.score(BODY) for _ in range(8)))
    assert [reply.status for reply in replies] == [200] * 8
    assert [len(gateway.upstreams[name].requests) for name in names] == [4, 4]


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n[1]<cut>", 2),
        (b"HTTP/1.1 200 OK\r\ncontent-le<cut>", 2),
        (b"HTTP/1.1 200 OK\r\n\r\n[1]<cut>", 1),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\n[1]\r\n0\r\n\r\n<cut>", 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\n<cut>", 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1][2]<cut>", 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n<cut>", 1),
        (b"nonsense\r\n\r\n<cut>", 1),
    ],
)
async def test_a_cut_answer_is_asked_for_once_more_and_a_malformed_one_is_not(gateway, answer, tries):
    gateway.upstreams["blue"].answer = answer
    reply = await gateway.score(BODY)
    assert (reply.status, reply.code) == (424, "ModelUnreachable")
    assert len(gateway.upstreams["blue"].requests) == tries


async def test_a_large_answer_in_many_pieces_arrives_complete(gateway, make_reply):
    body = bytes(range(256)) * 200
    gateway.upstreams["blue"].answer = make_reply(200, body)
    assert (await gateway.score(BODY)).body == body


async def test_a_refused_token_is_read_again(gateway, make_reply):
    blue = gateway.upstreams["blue"]

    async def behave(head, body):
        if b"Bearer renewed" in head:
            return make_reply()
        blue.key_file.write_text('{"inference":{"key":"renewed"}}')
        return make_reply(400, b'{"code":400,"type":"InvalidKeyException"}', mark=False, connection="close")

    blue.behave = behave
    assert [(await gateway.score(BODY)).status for _ in range(3)] == [200, 200, 200]
    assert len(blue.requests) == 4


async def test_a_damaged_token_file_is_424(gateway):
    gateway.upstreams["blue"].key_file.write_text("{}")
    assert (await gateway.score(BODY)).code == "ModelUnreachable"


async def test_a_slow_upstream_is_408_at_the_limit_and_its_late_answer_is_dropped(gateway, make_reply):
    arrived, late = asyncio.Event(), asyncio.Event()

    async def slow(head, body):
        arrived.set()
        await late.wait()
        return make_reply(200, b"[late]")

    async def prompt(head, body):
        return make_reply(200, b"[prompt]")

    gateway.upstreams["blue"].behave = slow
    request = asyncio.create_task(gateway.score(BODY))
    await arrived.wait()
    await gateway.clock.advance(4.8)
    assert not request.done()
    await gateway.clock.advance(0.2)
    reply = await request
    assert (reply.status, reply.code) == (408, "RequestTimeout")
    gateway.upstreams["blue"].behave = prompt
    assert (await gateway.score(BODY)).body == b"[prompt]"
    late.set()
    await gateway.clock.advance(1.0)
    assert (await gateway.score(BODY)).body == b"[prompt]"


class TestDeploymentChoice:
    async def test_2000_requests_at_90_to_10_split_within_four_standard_deviations(self, gateway):
        gateway.route(traffic={"blue": 90, "green": 10})
        counts = Counter()

        async def client():
            for _ in range(200):
                counts[(await gateway.score(b"{}")).headers["azureml-model-deployment"]] += 1

        await asyncio.gather(*(client() for _ in range(10)))
        assert sum(counts.values()) == 2000
        assert abs(counts["green"] - 200) <= 45
        assert counts["green"] == len(gateway.upstreams["green"].requests)

    async def test_the_header_pins_a_deployment_without_traffic(self, gateway):
        assert (await gateway.score(pin="green")).headers["azureml-model-deployment"] == "green"
        assert len(gateway.upstreams["green"].requests) == 1

    async def test_the_header_with_an_unknown_name_is_404(self, gateway):
        for name in ("red", "", "x" * 500, "\u00e9"):
            reply = await gateway.score(pin=name)
            assert (reply.status, reply.code) == (404, "DeploymentNotFound")

    async def test_a_pinned_deployment_that_is_not_ready_is_424(self, gateway):
        gateway.route(green=gateway.deployment("green", upstreams=()))
        reply = await gateway.score(pin="green")
        assert (reply.status, reply.code) == (424, "ModelUnreachable")

    async def test_weight_on_a_deployment_that_is_not_ready_goes_to_the_ready_ones(self, gateway):
        gateway.route(traffic={"blue": 90, "green": 10}, blue=gateway.deployment("blue", upstreams=()))
        names = {(await gateway.score()).headers["azureml-model-deployment"] for _ in range(20)}
        assert names == {"green"}

    @pytest.mark.parametrize("traffic", [{}, {"blue": 0}])
    async def test_no_deployment_with_traffic_is_404(self, gateway, traffic):
        gateway.route(traffic=traffic, green=gateway.deployment("green", upstreams=()))
        reply = await gateway.score()
        assert (reply.status, reply.code) == (404, "NoValidDeployments")
        assert b"has traffic. Set traffic" in reply.body

    @pytest.mark.parametrize("traffic", [{"green": 100}, {"green": 100, "blue": 0}])
    @pytest.mark.parametrize("path", ["score", "explain", "jobs/explain"])
    async def test_traffic_without_a_ready_deployment_is_503_and_asks_to_try_again(self, gateway, traffic, path):
        gateway.route(traffic=traffic, green=gateway.deployment("green", upstreams=()))
        reply = await gateway.score(path=f"/endpoints/fridge/{path}")
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "DeploymentNotReady", "5")
        assert b"that has traffic is ready" in reply.body
        assert b"Set traffic" not in reply.body


class TestSwagger:
    @pytest.mark.parametrize(("query", "key"), [("", "swagger"), ("?version=2", "swagger"), ("?version=3", "openapi"),
                                                ("?version=3.1", "openapi")])  # fmt: skip
    async def test_each_version_describes_the_routes(self, gateway, keys, query, key):
        reply = await gateway.get(f"/endpoints/fridge/swagger.json{query}", Authorization=f"Bearer {keys[0]}")
        document = json.loads(reply.body)
        assert document[key].startswith({"": "2.0", "?version=2": "2.0", "?version=3": "3.0"}.get(query, "3.1"))
        assert document["paths"]["/score"]["post"]["operationId"] == "RunMLService"
        assert document["paths"]["/"]["get"]["operationId"] == "ServiceHealthCheck"
        assert document["paths"]["/swagger.json"]["get"]["operationId"] == "GetSwaggerSpec"
        schemas = document["definitions"] if key == "swagger" else document["components"]["schemas"]
        assert {"ServiceInput", "ServiceOutput", "Job", "ErrorResponse", "GatewayError"} <= set(schemas)
        jobs = document["paths"]["/jobs/explain"]["post"], document["paths"]["/jobs/explain/{id}"]["get"]
        assert [operation["operationId"] for operation in jobs] == ["PostExplainJob", "GetExplainJob"]
        assert "202" in jobs[0]["responses"]
        assert schemas["ServiceInput"]["example"] == {
            "input_data": {"columns": ["image"], "index": [], "data": []},
            "params": {},
        }

    async def test_an_unknown_version_is_404_and_lists_the_known_ones(self, gateway, keys):
        reply = await gateway.get("/endpoints/fridge/swagger.json?version=4", Authorization=f"Bearer {keys[0]}")
        assert (reply.status, json.loads(reply.body)) == (404, {"message": "The version must be one of 2, 3, 3.1."})

    async def test_it_needs_the_key(self, gateway):
        assert (await gateway.get("/endpoints/fridge/swagger.json")).status == 401
