"""The routing table as a document."""

import json

import pytest

from clearsight.errors import InvalidDocument
from clearsight.serving.gateway.table import Deployment, Endpoint, ExplainLane, RoutingTable, Upstream


def upstream(name: str) -> dict[str, object]:
    return {"socket": f"/run/{name}.sock", "path": f"/predictions/{name}", "key_file": "/run/k", "lost_workers": 2}


EXPLAIN = {
    "upstream": upstream("blue"),
    "ready": True,
    "implied_path": "/explanations/blue-explain",
    "max_running": 1,
    "max_in_flight": 8,
    "request_timeout_s": 90.0,
    "max_jobs": 8,
    "job_timeout_s": 900.0,
}

DOCUMENT = {
    "version": 7,
    "num_task_failures": 3,
    "endpoints": {
        "fridge": {
            "auth_mode": "key",
            "key_hashes": ["0" * 64, "a" * 64],
            "traffic": {"blue": 90, "green": 10},
            "deployments": {
                name: {
                    "generation": f"{name}-1",
                    "upstreams": [upstream(name)],
                    "max_running": 16,
                    "max_in_flight": 32,
                    "request_timeout_s": 5.0,
                    "explain": lane,
                    "model": "fridge:1",
                }
                for name, lane in (("blue", EXPLAIN), ("green", None))
            },
        }
    },
}


def changed(key_path: str, value: object) -> bytes:
    """The document with the value at `key_path` (dotted) replaced, or removed when the value is `...`."""
    document = json.loads(json.dumps(DOCUMENT))
    *path, last = key_path.split(".")
    part = document
    for key in path:
        part = part[int(key) if key.isdecimal() else key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return json.dumps(document).encode()


def test_the_empty_table_round_trips():
    assert RoutingTable().to_json() == b'{"version":0,"endpoints":{},"num_task_failures":0}'
    assert RoutingTable.from_json(b"{}") == RoutingTable()


def test_a_table_round_trips():
    content = json.dumps(DOCUMENT).encode()
    table = RoutingTable.from_json(content)
    green = Upstream("/run/green.sock", "/predictions/green", "/run/k", lost_workers=2)
    assert table.endpoints["fridge"].deployments["green"] == Deployment(
        "green-1", (green,), 16, 32, 5.0, model="fridge:1"
    )
    explain = {**EXPLAIN, "upstream": Upstream(**upstream("blue"))}
    assert table.endpoints["fridge"].deployments["blue"].explain == ExplainLane(**explain)
    assert json.loads(table.to_json()) == DOCUMENT


@pytest.mark.parametrize(
    ("key_path", "value"),
    [
        ("version", -1),
        ("version", "7"),
        ("extra", 1),
        ("endpoints", []),
        ("endpoints.fridge.auth_mode", "none"),
        ("endpoints.fridge.key_hashes", ["0" * 63]),
        ("endpoints.fridge.key_hashes", ["A" * 64]),
        ("endpoints.fridge.key_hashes", ...),
        ("endpoints.fridge.traffic", {"blue": 90}),
        ("endpoints.fridge.traffic", {"blue": 110, "green": -10}),
        ("endpoints.fridge.traffic", {"red": 100}),
        ("endpoints.fridge.traffic", {"blue": 99.5}),
        ("endpoints.fridge.deployments.blue.upstreams", ...),
        ("endpoints.fridge.deployments.blue.explain.ready", "yes"),
        ("endpoints.fridge.deployments.blue.generation", ""),
        ("endpoints.fridge.deployments.blue.max_running", 0),
        ("endpoints.fridge.deployments.blue.max_in_flight", 0),
        ("endpoints.fridge.deployments.blue.request_timeout_s", 0),
        ("endpoints.fridge.deployments.blue.request_timeout_s", 301),
        ("endpoints.fridge.deployments.blue.model", "two words"),
        ("endpoints.fridge.deployments.blue.upstreams.0.socket", "relative.sock"),
        ("endpoints.fridge.deployments.blue.upstreams.0.socket", "/" + "x" * 107),
        ("endpoints.fridge.deployments.blue.upstreams.0.path", "/a b"),
        ("endpoints.fridge.deployments.blue.upstreams.0.path", "/a\r\nX: y"),
        ("endpoints.fridge.deployments.blue.upstreams.0.extra", 1),
        ("endpoints.fridge.deployments.blue.explain.max_running", 0),
        ("endpoints.fridge.deployments.blue.explain.implied_path", ...),
        ("endpoints.fridge.deployments.blue.explain.request_timeout_s", 301),
    ],
)
def test_a_fault_is_named_with_its_key_path(key_path, value):
    with pytest.raises(InvalidDocument) as error:
        RoutingTable.from_json(changed(key_path, value))
    targets = [fault.target for fault in error.value.faults]
    assert any(key_path.startswith(target) or target.startswith(key_path) for target in targets), targets


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_other_documents_are_refused(content):
    with pytest.raises(InvalidDocument):
        RoutingTable.from_json(content)


@pytest.mark.parametrize("traffic", [{}, {"blue": 0}, {"blue": 100}])
def test_traffic_may_sum_to_0_or_100(traffic):
    deployments = RoutingTable.from_json(json.dumps(DOCUMENT)).endpoints["fridge"].deployments
    assert Endpoint("key", (), traffic, deployments).traffic == traffic
