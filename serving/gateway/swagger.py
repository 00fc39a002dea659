"""The self-description of an endpoint: `swagger.json` in Swagger 2.0, OpenAPI 3.0 and OpenAPI 3.1."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version as installed_version
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from clearsight.catalogue.algorithms import ALGORITHMS, PARAMETERS, ParameterRow
from clearsight.serving.gateway.answers import HttpAnswer, container_error

__all__ = ["VERSIONS", "swagger_document"]

VERSIONS: Final = ("2", "3", "3.1")
CORNERS: Final = ("topX", "topY", "bottomX", "bottomY")
EXAMPLE_INPUT: Final = {"input_data": {"columns": ["image"], "index": [], "data": []}, "params": {}}
DESCRIPTIONS: Final = {
    200: "The scoring result: one object per row, in row order",
    401: "The credential is missing or wrong",
    404: "No such endpoint, no such deployment, or none with traffic",
    408: "The deployment did not answer within its request timeout, or an explanation was out of time",
    413: "The body is too large",
    424: "The model's server answered with an error, or not at all",
    429: "Too many requests at the same time",
    500: "The gateway failed",
    503: "No deployment with traffic is ready, or it has no worker",
}
ERROR_OF_STATUS: Final[Mapping[int, str]] = MappingProxyType({408: "AnyError", 424: "AnyError"})
"""Name of the schema of an error body; of any other status it is the gateway's own."""

Schema = dict[str, Any]


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
    schemas = _bodies(version)
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


def _bodies(version: str) -> dict[str, Schema]:
    """The schemas of requests, answers and errors, by name."""
    is_v2 = version == "2"
    text, number, anything = {"type": "string"}, {"type": "number"}, dict[str, Any]()

    def ref(name: str) -> Schema:
        return {"$ref": _schemas(is_v2) + name}

    def listed(items: Schema) -> Schema:
        return {"type": "array", "items": items}

    def either(*schemas: Schema, otherwise: Schema = anything) -> Schema:
        """One of several schemas; Swagger 2.0 cannot say so, and gets `otherwise`."""
        return dict(otherwise) if is_v2 else {"anyOf": list(schemas)}

    def nullable(schema: Schema) -> Schema:
        if version == "3.1":
            return {**schema, "type": [schema["type"], "null"]}
        return {**schema, "x-nullable" if is_v2 else "nullable": True}

    explained: Schema = {
        "model_explainability": nullable({"type": "boolean"}),
        "xai_parameters": nullable(
            {
                "type": "object",
                "properties": {
                    "xai_algorithm": {"type": "string", "enum": list(ALGORITHMS)},
                    **{row.key: _parameter(row, version) for row in PARAMETERS.values()},
                },
            }
        ),
    }
    table: Schema = {
        "required": ["columns", "data"],
        "properties": {
            "columns": listed(text),
            "index": nullable(listed(anything)),
            "data": listed(ref("Row")),
        },
    }
    scores: Schema = {
        "probs": listed(number),
        "labels": listed(text),
        "visualizations": either(text, listed(text)),
        "attributions": dict(anything),
        "explanation_details": either({"type": "object"}, listed({"type": "object"})),
    }
    objects: Schema = {"boxes": listed(ref("Box")), "explanations": listed(ref("BoxExplanation"))}
    error: Schema = {"type": "object", "required": ["code", "message"], "properties": {"code": text, "message": text}}
    described = "classification has probs and labels, detection and segmentation boxes"
    return {
        "ServiceInput": {
            "type": "object",
            "required": ["input_data"],
            "properties": {
                "input_data": either({"type": "object", **table}, listed(ref("Row")), otherwise=table),
                "params": nullable({"type": "object", "properties": explained}),
            },
            "example": EXAMPLE_INPUT,
        },
        "Row": {
            "description": "An image as base64 text, JSON text of an explanation request, or a list of one such "
            "value, with several columns a list of one value for each",
            **either(text, listed(anything), ref("ExplanationCell")),
        },
        "ExplanationCell": {
            "type": "object",
            "required": ["image_base64"],
            "properties": {"image_base64": either(text, listed(anything)), **explained},
        },
        "ServiceOutput": listed(ref("Prediction")),
        "Prediction": {
            "description": f"Of one row: {described}",
            **either(
                {"type": "object", "required": ["probs", "labels"], "properties": scores},
                {"type": "object", "required": ["boxes"], "properties": objects},
                otherwise={"type": "object", "properties": {**scores, **objects}},
            ),
        },
        "Box": {
            "type": "object",
            "required": ["box", "label", "score"],
            "properties": {
                "box": {
                    "type": "object",
                    "required": list(CORNERS),
                    "properties": {corner: {"type": "number", "minimum": 0, "maximum": 1} for corner in CORNERS},
                },
                "label": text,
                "score": number,
                "polygon": listed(listed(number)),
                "rle": {"type": "object", "properties": {"size": listed({"type": "integer"}), "counts": text}},
            },
        },
        "BoxExplanation": {
            "type": "object",
            "required": ["index"],
            "properties": {
                "index": {"type": "integer", "minimum": 0},
                "visualizations": text,
                "attributions": dict(anything),
                "explanation_details": {"type": "object"},
            },
        },
        "Job": {
            "type": "object",
            "required": ["id", "status"],
            "properties": {
                "id": text,
                "status": {"type": "string", "enum": ["Queued", "Running", "Completed", "Failed", "Canceled"]},
                "deployment": text,
                "created": text,
                "expires": text,
                "progress": {"type": "object"},
                "error": {
                    "type": "object",
                    "required": ["message"],
                    "properties": {
                        "message": text,
                        "status": {"type": "integer"},
                        "model_status": {"type": "integer"},
                    },
                },
                "result": ref("ServiceOutput"),
            },
        },
        "ErrorResponse": {
            "description": "An error of the model's server",
            "type": "object",
            "required": ["message"],
            "properties": {"message": text},
        },
        "GatewayError": {
            "description": "An error of the gateway",
            "type": "object",
            "required": ["error"],
            "properties": {"error": error},
        },
        "AnyError": {
            "description": "An error of the model's server, or of the gateway when that gave no answer",
            **either(
                ref("ErrorResponse"),
                ref("GatewayError"),
                otherwise={"type": "object", "properties": {"message": text, "error": error}},
            ),
        },
    }


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
        responses[status] = {"description": text, **_content(is_v2, "GatewayError")}
    parameter: dict[str, Any] = {"name": "id", "in": "path", "required": True}
    parameter |= {"type": "string"} if is_v2 else {"schema": {"type": "string"}}
    return {
        **_operation(operation_id, summary, responses),
        "parameters": [parameter],
        "security": [{"Bearer": []}],
    }


def _score(is_v2: bool, operation_id: str, summary: str) -> dict[str, Any]:
    responses = {
        str(status): {
            "description": text,
            **_content(is_v2, "ServiceOutput" if status == 200 else ERROR_OF_STATUS.get(status, "GatewayError")),
        }
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
