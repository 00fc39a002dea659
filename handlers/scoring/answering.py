"""Answers a batch of requests: HTTP bodies in, HTTP bodies out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clearsight.errors import UserError
from clearsight.handlers.explain.parameters import wants_explanation
from clearsight.handlers.explain.telemetry import observed
from clearsight.handlers.scoring.budget import RequestBudget
from clearsight.handlers.scoring.scorer import Scorer
from clearsight.handlers.worker.explain_lane import NO_OPTIONS, ExplainRows, RequestOptions
from clearsight.wire.answers import Answer
from clearsight.wire.encoding import encode_answers
from clearsight.wire.errors import error_body, row_error
from clearsight.wire.requests import read_request

__all__ = ["Reply", "answer_bodies"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one body."""

    status: int
    """HTTP status: 200, or the status of the error."""
    body: bytes
    """JSON: a list with one object per row, within `{"predictions": …}` if the rows came as `instances`; or
    `{"message": …}`."""
    num_rows: int
    """Rows that were scored; 0 for a request that failed."""
    is_degraded: bool = False
    """Whether an explanation in it holds less than was requested."""
    telemetry: Mapping[str, Any] | None = None
    """Cost of its explanations, `explain.telemetry.Telemetry` as plain data; None without explanations."""


def answer_bodies(
    scorer: Scorer,
    bodies: Sequence[bytes],
    request_options: Sequence[RequestOptions] = (),
    explain: ExplainRows | None = None,
    timeout_s: float | None = None,
) -> list[Reply]:
    """Answer every body, in order; rows of all bodies are scored together, explanations one request at a time.

    `request_options` has one element per body, or is empty. A request with a row that is to be explained goes to
    `explain` whole; without it such a row is an error. A bad row fails its own body, which names the first bad row; the
    other bodies get the bytes they get alone. Predictions end at the deadline of their request's options, and all
    after `timeout_s`; a body whose images would cost more than one request may is refused (`budget.py`).
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    budgets: dict[int, RequestBudget] = {}
    replies: dict[int, Reply] = {}
    with_instances: set[int] = set()
    plain: dict[int, list[object]] = {}
    for number, body in enumerate(bodies):
        options = request_options[number] if request_options else NO_OPTIONS
        try:
            rows = read_request(body)
            cells = rows.cells
            if rows.has_instances:
                with_instances.add(number)
            if (
                explain
                and cells
                and (options.explains_all or any(wants_explanation(cell, scorer.task) for cell in cells))
            ):
                with observed() as telemetry:
                    reply = _reply(explain(cells, options))
                replies[number] = replace(reply, telemetry=telemetry.to_document()) if telemetry.rows else reply
            else:
                plain[number] = cells
                budgets[number] = RequestBudget(
                    min((t for t in (options.deadline, end) if t is not None), default=None)
                )
        except UserError as error:
            replies[number] = _failed(error)
    cells_of_all = [cell for cells in plain.values() for cell in cells]
    results = iter(scorer.score(cells_of_all, [budgets[number] for number, cells in plain.items() for _ in cells]))
    for number, cells in plain.items():
        answers, refusal = [next(results) for _ in cells], budgets[number].refusal
        replies[number] = _reply(answers) if refusal is None else _failed(refusal)
    for number in with_instances:
        if replies[number].status == 200:
            replies[number] = replace(replies[number], body=b'{"predictions":' + replies[number].body + b"}")
    return [replies[number] for number in range(len(bodies))]


def _reply(results: Sequence[Answer | UserError]) -> Reply:
    answers: list[Answer] = []
    for row, result in enumerate(results):
        if isinstance(result, UserError):
            return Reply(result.status, error_body(str(row_error(row, result))), 0)
        answers.append(result)
    is_degraded = any(answer.is_degraded for answer in answers)
    return Reply(200, encode_answers(answers), len(answers), is_degraded)


def _failed(error: UserError) -> Reply:
    return Reply(error.status, error_body(str(error)), 0)
