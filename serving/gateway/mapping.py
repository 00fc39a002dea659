"""Maps an answer of the model's server to one for the client, with the statuses of Azure's gateway."""

import re
from dataclasses import replace

from clearsight.serving.gateway.answers import FUNCTION_FAILED_HEADER, JSON, REASONS, HttpAnswer, error, model_error
from clearsight.serving.gateway.lane import is_from_handler, is_wrong_lane
from clearsight.serving.gateway.upstream import UpstreamAnswer
from clearsight.wire.lane_protocol import DEGRADED_HEADER, TELEMETRY_HEADER

__all__ = ["OVERLOADED", "map_answer", "not_ready", "unreachable"]

MAX_REASON_CHARS = 80
PASSED_HEADER = re.compile(rf"x-ms-run-[a-z0-9-]+|{DEGRADED_HEADER}")
NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]+")

NOT_READY_RETRY_S = 5
"""Of `Retry-After`: the next worker takes 7 to 9 s, the next process longer."""

OVERLOADED = error(
    429, "TooManyRequests", "The deployment has as many requests in flight as it may. Try again.", {"retry-after": "1"}
)


def map_answer(answer: UpstreamAnswer) -> HttpAnswer:
    """200 stays 200 and a handler's own 408 stays 408; everything else becomes 424.

    Of the headers only the content type, `x-ms-run-…` and, with 200 and 408, `x-explanation-degraded` pass. The status
    421 (wrong lane) is for the gateway alone: where the deployment has no other lane, the client gets 400.
    """
    headers = {name: _printable(value) for name, value in answer.headers.items() if PASSED_HEADER.fullmatch(name)}
    if is_wrong_lane(answer):
        return model_error(400, REASONS[400], answer.body, headers=headers)
    content_type = _printable(answer.headers.get("content-type", JSON))
    if answer.status == 200 or (answer.status == 408 and is_from_handler(answer)):
        telemetry = answer.headers.get(TELEMETRY_HEADER, "")
        return HttpAnswer(
            answer.status, answer.body, content_type, headers, model_status=answer.status, telemetry=telemetry
        )
    reason = _printable(answer.reason)[:MAX_REASON_CHARS] or REASONS.get(answer.status, "Unknown")
    headers.pop(DEGRADED_HEADER, None)
    return model_error(answer.status, reason, answer.body, content_type, headers)


def not_ready(message: str) -> HttpAnswer:
    """503 with `Retry-After` for a deployment that should answer but has nothing that could."""
    return error(503, "DeploymentNotReady", f"{message}. Try again.", {"retry-after": str(NOT_READY_RETRY_S)})


def unreachable(reason: str) -> HttpAnswer:
    """424 for a container that gave no answer: there is no status of its own to report."""
    refusal = error(
        424,
        "ModelUnreachable",
        f"The model's server gave no answer: {reason}.",
        {"ms-azureml-model-error-reason": reason, FUNCTION_FAILED_HEADER: "True"},
    )
    return replace(refusal, model_reason=reason)


def _printable(text: str) -> str:
    return NOT_PRINTABLE.sub(" ", text).strip() if NOT_PRINTABLE.search(text) else text
