"""Answers to clients, and the error objects of Azure's gateway and container.

Azure's Python client reads `error.code` and `error.message`, or a top-level `message`; a body whose `error` is a
string makes it crash, so that is never sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import orjson

__all__ = ["FUNCTION_FAILED_HEADER", "REASONS", "HttpAnswer", "container_error", "error", "model_error"]

REASONS: Final[Mapping[int, str]] = {status.value: status.phrase for status in HTTPStatus}

FUNCTION_FAILED_HEADER: Final = "x-ms-run-function-failed"

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One HTTP answer. `headers` are lower-case names and values without control characters.

    `model_status` and `model_reason` come from the model's server, for the log and the metrics; None and empty when it
    got no request or gave no answer. `telemetry` is the cost of its explanations, as JSON, for the metrics.
    `must_close` ends the connection after the answer.
    """

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    model_status: int | None = None
    model_reason: str = ""
    telemetry: str = ""
    must_close: bool = False


def error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, *, must_close: bool = False
) -> HttpAnswer:
    """The gateway's own error: `{"error": {"code": …, "message": …}}`."""
    body = orjson.dumps({"error": {"code": code, "message": message}})
    return HttpAnswer(status, body, headers=headers or {}, code=code, must_close=must_close)


def container_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> HttpAnswer:
    """An error in the form of Azure's scoring container: `{"message": …}`."""
    return HttpAnswer(status, orjson.dumps({"message": message}), headers=headers or {})


def model_error(
    status: int, reason: str, body: bytes, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> HttpAnswer:
    """424 for a container that answered `status`: its body unchanged, its status and reason in headers.

    Whether the scoring function failed, as Azure's container says it, is told by its own header in `headers` or else
    by the status.
    """
    told = {
        "ms-azureml-model-error-statuscode": str(status),
        "ms-azureml-model-error-reason": reason,
        FUNCTION_FAILED_HEADER: str(status >= 500),
        **(headers or {}),
    }
    return HttpAnswer(424, body, content_type, told, "ModelError", status, reason)
