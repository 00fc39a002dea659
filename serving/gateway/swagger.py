"""The self-description of an endpoint: `swagger.json` in Swagger 2.0, OpenAPI 3.0 and OpenAPI 3.1."""

from functools import cache
from importlib.metadata import version as installed_version
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from clearsight.catalogue.algorithms import ALGORITHMS, PARAMETERS, ParameterRow
from clearsight.serving.gateway.answers import HttpAnswer, container_error

__all__ = ["VERSIONS", "swagger_document"]

VERSIONS: Final = ("2", "3", "3.1")
EXAMPLE_INPUT: Final = {"input_data": {"columns": ["image"], "index": [], "data": []}, "params": {}}
DESCRIPTIONS: Final = {
    200: "The scoring result: one object per row, in row order",
    401: "The credential is missing or wrong",
    404: "No such endpoint, no such deployment, or none with traffic",
    408: "The deployment did not answer within its request timeout",
    413: "The body is too large",
    424: "The model's server answered with an error, or not at all",
    429: "Too many requests at the same time",
}


def swagger_document(endpoint: str, query: str) -> HttpAnswer:
    """The document of `endpoint` in the version that `query` asks for (`version=2`, the default, `3` or `3.1`).

    404 for another version, with a message that lists the known ones.
    """
    version = parse_qs(query).get("version", ["2"])[-1]
    if version not in VERSIONS:
        return container_error(404, f"The version must be one of {', '.join(VERSIONS)}.")
    return HttpAnswer(200, _document(endpoint, version))


@cache
def _document(endpoint: str, version: str) -> bytes:
    is_v2 = version == "2"
    schemas = {
        "ServiceInput": {
            "type": "object",
            "required": ["input_data"],
            "properties": {
                "input_data": {
                    "type": "object",
                    "required": ["columns", "data"],
                    "properties": {
                        "columns": {"type": "array", "items": {"type": "string"}},
                        "index": {"type": "array", "items": {"type": "integer"}},
                        "data": {"type": "array", "items": {"type": "string"}},
                    },
                },
                "params": {
                    "type": "object",
                    "properties": {
                        "model_explainability": {"type": "boolean"},
                        "xai_parameters": {
                            "type": "object",
                            "properties": {
                                "xai_algorithm": {"type": "string", "enum": list(ALGORITHMS)},
                                **{row.key: _parameter(row, version) for row in PARAMETERS.values()},
                            },
                        },
                    },
                },
            },
            "example": EXAMPLE_INPUT,
        },
        "ServiceOutput": {"type": "array", "items": {"type": "object"}},
        "Job": {
            "type": "object",
            "required": ["id", "status"],
            "properties": {
                "id": {"type": "string"},
                "status": {"type": "string", "enum": ["Queued", "Running", "Completed", "Failed", "Canceled"]},
                "result": {"$ref": _schemas(is_v2) + "ServiceOutput"},
            },
        },
        "ErrorResponse": {"type": "object", "properties": {"message": {"type": "string"}}},
    }
    info = {
        "title": endpoint,
        "description": f"Online endpoint {endpoint}",
        "version": installed_version("clearsight"),
    }
    security: dict[str, Any] = {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}}
    prefix = f"/endpoints/{endpoint}"
    paths: dict[str, Any] = {
        "/": {"get": _operation("ServiceHealthCheck", "Health of the endpoint", _text(is_v2))},
        "/score": {"post": _score(is_v2, "RunMLService", "Score pictures")},
        "/explain": {"post": _score(is_v2, "ExplainMLService", "Score pictures and explain every score")},
        "/jobs/explain": {"post": _posted_job(is_v2)},
        "/jobs/explain/{id}": {
            "get": _job(is_v2, "GetExplainJob", "How a job stands, with its result once it is completed"),
            "delete": _job(is_v2, "DeleteExplainJob", "Cancel a job that has not ended, forget one that has"),
        },
        "/swagger.json": {
            "get": _operation("GetSwaggerSpec", "This document", {"200": {"description": "The document"}})
        },
    }
    document: dict[str, Any]
    if is_v2:
        document = {
            "swagger": "2.0", "info": info, "basePath": prefix, "schemes": ["http", "https"],
            "consumes": ["application/json"], "produces": ["application/json"],
            "securityDefinitions": security, "paths": paths, "definitions": schemas,
        }  # fmt: skip
    else:
        document = {
            "openapi": "3.0.3" if version == "3" else "3.1.0", "info": info, "servers": [{"url": prefix}],
            "paths": paths, "components": {"securitySchemes": security, "schemas": schemas},
        }  # fmt: skip
    return orjson.dumps(document)


def _parameter(row: ParameterRow, version: str) -> dict[str, Any]:
    """The schema of a key of `xai_parameters` as a version of the specification writes it.

    Before OpenAPI 3.1 an open end of a range is a flag beside the bound; Swagger 2.0 has no "either list or string".
    """
    schema = row.json_schema()
    if version == "2":
        schema.pop("anyOf", None)
    for bound in ("minimum", "maximum") if version != "3.1" else ():
        flag = f"exclusive{bound.capitalize()}"
        if flag in schema:
            schema |= {bound: schema[flag], flag: True}
    return schema


def _operation(operation_id: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": operation_id, "summary": summary, "responses": responses}


def _text(is_v2: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"schema": {"type": "string"}}
    content: dict[str, Any] = schema if is_v2 else {"content": {"text/plain": schema}}
    return {"200": {"description": "A deployment with traffic is ready", **content}}


def _schemas(is_v2: bool) -> str:
    return "#/definitions/" if is_v2 else "#/components/schemas/"


def _content(is_v2: bool, name: str) -> dict[str, Any]:
    schema = {"schema": {"$ref": _schemas(is_v2) + name}}
    return schema if is_v2 else {"content": {"application/json": schema}}


def _posted_job(is_v2: bool) -> dict[str, Any]:
    operation = _score(is_v2, "PostExplainJob", "Explain as a job, for what takes longer than a request may")
    answered = {"description": "The job; its place is in Location", **_content(is_v2, "Job")}
    refusals = {status: text for status, text in operation["responses"].items() if status not in ("200", "408")}
    return {**operation, "responses": {"202": answered, **refusals}}


def _job(is_v2: bool, operation_id: str, summary: str) -> dict[str, Any]:
    responses = {"200": {"description": "The job", **_content(is_v2, "Job")}}
    for status, text in (("401", DESCRIPTIONS[401]), ("404", "No such endpoint, or no such job")):
        responses[status] = {"description": text, **_content(is_v2, "ErrorResponse")}
    parameter: dict[str, Any] = {"name": "id", "in": "path", "required": True}
    parameter |= {"type": "string"} if is_v2 else {"schema": {"type": "string"}}
    return {
        **_operation(operation_id, summary, responses),
        "parameters": [parameter],
        "security": [{"Bearer": []}],
    }


def _score(is_v2: bool, operation_id: str, summary: str) -> dict[str, Any]:
    responses = {
        str(status): {"description": text, **_content(is_v2, "ServiceOutput" if status == 200 else "ErrorResponse")}
        for status, text in DESCRIPTIONS.items()
    }
    operation = _operation(operation_id, summary, responses)
    if is_v2:
        operation["parameters"] = [
            {"name": "serviceInputPayload", "in": "body", "required": True, **_content(is_v2, "ServiceInput")}
        ]
    else:
        operation["requestBody"] = {"required": True, **_content(is_v2, "ServiceInput")}
    operation["security"] = [{"Bearer": []}]
    return operation
