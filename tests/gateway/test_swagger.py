"""The self-description against requests that are read, answers that are written, and errors that are answered."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import BadRequest
from clearsight.serving.gateway.mapping import OVERLOADED
from clearsight.serving.gateway.swagger import VERSIONS, swagger_document
from clearsight.wire.requests import parse_request

jsonschema = pytest.importorskip("jsonschema")

BODY = b'{"input_data":{"columns":["image"],"data":["QQ=="]}}'
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wire"
EXPLAIN = {"image_base64": "QQ==", "model_explainability": True, "xai_parameters": {"xai_algorithm": "xrai"}}


class Description:
    """A version of the document; `check` validates a value against one of its schemas."""

    def __init__(self, version: str) -> None:
        self.document = json.loads(swagger_document("fridge", f"version={version}").body)
        self.version = version
        self._validators: dict[str, Any] = {}

    def check(self, schema: dict[str, Any], value: Any) -> None:
        key = json.dumps(schema)
        if key not in self._validators:
            self._validators[key] = self._validator(schema)
        self._validators[key].validate(value)

    def _validator(self, schema: dict[str, Any]) -> Any:
        validator = jsonschema.Draft202012Validator if self.version == "3.1" else jsonschema.Draft4Validator
        place = "definitions" if self.version == "2" else "components"
        document = _with_null({place: self.document[place], "allOf": [schema]})
        validator.check_schema(document)
        return validator(document)

    def of_request(self, path: str) -> dict[str, Any]:
        operation = self.document["paths"][path]["post"]
        if self.version == "2":
            return dict(operation["parameters"][0]["schema"])
        return dict(operation["requestBody"]["content"]["application/json"]["schema"])

    def of_answer(self, path: str, status: int, method: str = "post") -> dict[str, Any]:
        response = self.document["paths"][path][method]["responses"][str(status)]
        return dict(response["schema"] if self.version == "2" else response["content"]["application/json"]["schema"])


def _with_null(schema: Any) -> Any:
    """`nullable` of OpenAPI 3.0, and what is usual in Swagger 2.0, as JSON Schema writes it."""
    if isinstance(schema, list):
        return [_with_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _with_null(value) for key, value in schema.items() if key not in ("nullable", "x-nullable")}
    return {"anyOf": [plain, {"type": "null"}]} if len(plain) < len(schema) else plain


described = functools.cache(Description)


@pytest.fixture(params=VERSIONS)
def description(request: pytest.FixtureRequest) -> Description:
    return described(request.param)


def table(data: list[Any], columns: tuple[str, ...] = ("image",), **rest: Any) -> dict[str, Any]:
    return {"columns": list(columns), "data": data, **rest}


REQUESTS = [
    {"input_data": table([])},
    {"input_data": table(["QQ=="])},  # R1
    {"input_data": table([["QQ=="], ["QQ=="]], index=[0, 1])},  # R2
    {"input_data": table(["QQ==", "QQ=="], index=["a", None])},  # R3
    {"input_data": table([json.dumps(EXPLAIN)])},  # R4
    {"input_data": table([[json.dumps(EXPLAIN)], EXPLAIN])},
    {"input_data": ["QQ==", ["QQ=="], EXPLAIN]},  # R6
    {"input_data": table([[1, "QQ==", None], ["x", "QQ==", {}]], ("id", "image", "more"))},
    {"input_data": table(["QQ=="], index=None), "params": None},
    {"input_data": table(["QQ=="]), "params": {"temperature": 1}},
    {"input_data": table(["QQ=="]), "params": {"model_explainability": True, "xai_parameters": None}},
    {
        "input_data": table(["QQ=="]),
        "params": {key: EXPLAIN[key] for key in ("model_explainability", "xai_parameters")},
    },
    {"input_data": table(["QQ=="], more=1), "more": 2},
]


def test_every_request_that_is_read_is_described(description: Description, check_rows: Any) -> None:
    def check(request_body: Any) -> None:
        parse_request(json.dumps(request_body).encode())
        for path in ("/score", "/explain", "/jobs/explain"):
            description.check(description.of_request(path), request_body)

    check_rows(check, REQUESTS)


@pytest.mark.parametrize(
    "request_body",
    [
        {},
        [],
        {"input_data": {"columns": ["image"]}},
        {"input_data": {"data": []}},
        {"input_data": table("QQ==")},  # type: ignore[arg-type]
        {"input_data": table([], params=1), "params": []},
        {"input_data": {"columns": "image", "data": []}},
    ],
)
def test_what_is_refused_for_its_form_is_not(description: Description, request_body: Any) -> None:
    with pytest.raises(BadRequest):
        parse_request(json.dumps(request_body).encode())
    with pytest.raises(jsonschema.ValidationError):
        description.check(description.of_request("/score"), request_body)


@pytest.mark.parametrize("file", [file.name for file in sorted(GOLDEN.glob("*.json")) if "error" not in file.name])
def test_every_answer_is_described_with_its_keys(description: Description, file: str) -> None:
    answer = json.loads((GOLDEN / file).read_bytes())
    description.check(description.of_answer("/score", 200), answer)
    for row in answer:
        for key in set(row) & {"probs", "boxes"}:
            with pytest.raises(jsonschema.ValidationError):
                description.check(description.of_answer("/score", 200), [{**row, key: "text"}])


@pytest.mark.parametrize("file", sorted(file.name for file in GOLDEN.glob("error*.json")))
def test_the_containers_errors_are_described(description: Description, file: str) -> None:
    description.check(description.of_answer("/score", 424), json.loads((GOLDEN / file).read_bytes()))


async def test_every_error_of_the_gateway_is_described(gateway, make_reply):
    blue, statuses = gateway.upstreams["blue"], {}

    async def collect(path="/score", **options):
        reply = await gateway.score(BODY, path=f"/endpoints/fridge{path}", **options)
        statuses.setdefault(reply.status, []).append((path, json.loads(reply.body)))

    await collect(key="wrong")
    await collect(pin="red")
    await collect(content_type="text/plain")
    await collect("/explain")
    blue.answer = make_reply(408, b'{"message":"out of time"}')
    await collect()
    blue.answer = make_reply(507, b'{"code":507,"type":"InternalServerException","message":"Worker died."}', mark=False)
    await collect()

    async def cut(head, body):
        return b""

    blue.behave = cut
    await collect()
    gateway.route(traffic={})
    await collect()
    await collect("/jobs/explain")
    gateway.route(blue=gateway.deployment("blue", upstreams=()))
    await collect()
    await collect("/jobs/explain")
    statuses[429] = [("/score", json.loads(OVERLOADED.body))]
    reply = await gateway.score(b"x" * 100_000)
    statuses.setdefault(reply.status, []).append(("/score", json.loads(reply.body)))
    assert set(statuses) == {401, 404, 408, 413, 424, 429, 503}
    for description in map(described, VERSIONS):
        for status, bodies in statuses.items():
            for path, body in bodies:
                description.check(description.of_answer(path, status), body)
                with pytest.raises(jsonschema.ValidationError):
                    description.check(description.of_answer(path, status), {"error": "text"})
