"""The request log and the metrics: their contents, and what must never be in them."""

import asyncio
import json

from clearsight.serving.gateway.request_log import RequestLog

COLUMNS = {
    "TimeGenerated", "Method", "Path", "EndpointName", "DeploymentName", "Protocol", "ResponseCode",
    "ResponseCodeReason", "ModelStatusCode", "ModelStatusReason", "RequestPayloadSize", "ResponsePayloadSize",
    "UserAgent", "XRequestId", "XMSClientRequestId", "TotalDurationMs", "RequestDurationMs", "ResponseDurationMs",
    "RequestThrottlingDelayMs", "ResponseThrottlingDelayMs", "AuthType", "Lane",
}  # fmt: skip


async def test_without_requests_the_log_is_empty(gateway):
    assert gateway.log_lines() == []


async def test_a_line_has_azures_columns_with_the_values_of_the_request(gateway):
    reply = await gateway.score(b"12345", x_ms_client_request_id="abc", User_Agent="agent/1 " + "x" * 100)
    [line] = gateway.log_lines()
    assert set(line) == COLUMNS
    assert line["XRequestId"] == reply.headers["x-request-id"]
    expected = {
        "Method": "POST", "Path": "/endpoints/fridge/score", "EndpointName": "fridge", "DeploymentName": "blue",
        "Lane": "predict",
        "Protocol": "HTTP/1.1", "ResponseCode": 200, "ResponseCodeReason": "OK", "ModelStatusCode": 200,
        "RequestPayloadSize": 5, "ResponsePayloadSize": len(reply.body), "XMSClientRequestId": "abc",
        "AuthType": "key", "UserAgent": "agent/1 " + "x" * 62,
    }  # fmt: skip
    assert {name: line[name] for name in expected} == expected
    assert 0 <= line["RequestDurationMs"] <= line["TotalDurationMs"] < 5000


async def test_errors_are_logged_and_health_probes_are_not(gateway, make_reply):
    gateway.upstreams["blue"].answer = make_reply(500, b"{}", phrase="Broken")
    await gateway.score()
    await gateway.score(key="wrong")
    await gateway.get("/")
    await gateway.get("/endpoints/fridge/")
    await gateway.raw(b"nonsense\r\n\r\n")
    lines = gateway.log_lines()
    assert [(line["ResponseCode"], line["ModelStatusCode"], line["ModelStatusReason"]) for line in lines] == [
        (424, 500, "Broken"),
        (401, None, ""),
        (400, None, ""),
    ]


async def test_a_client_cannot_forge_a_line_and_keys_and_bodies_never_appear(gateway, keys):
    forged = '"}\\n{"ResponseCode":500}\\u0000[METRICS]'
    await gateway.score(b"secret picture", User_Agent=forged, x_ms_client_request_id=forged)
    await gateway.score(b"secret picture", key="a-wrong-secret-key", path="/endpoints/fridge/score?key=in-query")
    head = f"POST /endpoints/\u00ff\x85{{}}/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys[0]}\r\n"
    await gateway.raw(head.encode("latin-1") + b"User-Agent: a\xff\xfe\x85\r\nConnection: close\r\n\r\n")
    text = gateway.log.path
    lines = gateway.log_lines()
    assert len(lines) == 3
    content = text.read_bytes()
    assert content.count(b"\n") == 3
    for secret in (*keys, "a-wrong-secret-key", "in-query", "secret picture", "inner-token"):
        assert secret.encode() not in content


async def test_metrics_count_by_the_names_of_the_table(gateway, make_reply):
    await gateway.score(b"12345")
    await gateway.score(key="wrong")
    await gateway.score(path="/endpoints/unknown-name/score")
    gateway.upstreams["green"].answer = make_reply(400, b"{}")
    await gateway.score(pin="green")
    page = gateway.metrics.page().decode()
    prefix = "aml_requests_total{"
    counted = {line for line in page.splitlines() if line.startswith(prefix)}
    label = 'deployment="{}",endpoint="{}",lane="{}",mirrored="false",model_status_code="{}",status_code="{}"'
    assert counted == {
        prefix + label.format("blue", "fridge", "predict", 200, 200) + "} 1.0",
        prefix + label.format("", "fridge", "", "", 401) + "} 1.0",
        prefix + label.format("", "", "", "", 404) + "} 1.0",
        prefix + label.format("green", "fridge", "predict", 400, 424) + "} 1.0",
    }
    assert 'aml_network_bytes_total{direction="received"} 7.0' in page
    assert 'aml_request_latency_ms_count{deployment="blue",endpoint="fridge",lane="predict"} 1.0' in page
    assert 'aml_deployment_capacity{deployment="blue",endpoint="fridge",state="ready"} 64.0' in page
    assert "aml_connections_active" in page
    assert "unknown-name" not in page


async def test_the_file_rotates_by_size_and_old_files_go(tmp_path, gateway):
    log = RequestLog(tmp_path / "r.log", max_bytes=2000, num_kept=2)
    log.start(asyncio.get_running_loop())
    gateway.data_plane._log = log
    for _ in range(6):
        for _ in range(4):
            await gateway.score()
        log._flush(log._take())
    await log.stop()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.log.1", "r.log.2"]
    for file in tmp_path.iterdir():
        assert all(json.loads(line)["ResponseCode"] == 200 for line in file.read_text().splitlines())


async def test_a_disk_that_cannot_be_written_costs_lines_and_nothing_else(tmp_path, gateway):
    log = RequestLog(tmp_path / "logs" / "r.log")
    log.start(asyncio.get_running_loop())
    gateway.data_plane._log = log
    log.path.unlink()
    log.path.mkdir()
    assert (await gateway.score()).status == 200
    await log.stop()
    assert log.num_lost_lines == 1
