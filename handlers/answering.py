"""Whole HTTP bodies in, whole HTTP bodies out: what a serving process does with a batch of requests."""

from collections.abc import Sequence
from dataclasses import dataclass

from clearsight.errors import BadRequest
from clearsight.handlers.scorer import Scorer
from clearsight.wire import Answer, encode_answers, error_body, parse_request, row_error

__all__ = ["Reply", "answer_bodies"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one body."""

    status: int
    """HTTP status: 200, or that of the error."""
    body: bytes
    """JSON: a list with one object per row, or `{"message": …}`."""
    num_rows: int
    """Rows that were scored; 0 for a request that failed."""


def answer_bodies(scorer: Scorer, bodies: Sequence[bytes]) -> list[Reply]:
    """Answer every body, in order; the rows of all bodies are scored together.

    A bad row fails its own body, which names the first bad row; the other bodies get the bytes they get alone.
    """
    requests: list[list[object] | BadRequest] = []
    for body in bodies:
        try:
            requests.append(parse_request(body))
        except BadRequest as error:
            requests.append(error)
    cells = [cell for request in requests if not isinstance(request, BadRequest) for cell in request]
    results = iter(scorer.score(cells))
    return [
        _failed(request) if isinstance(request, BadRequest) else _reply([next(results) for _ in request])
        for request in requests
    ]


def _reply(results: Sequence[Answer | BadRequest]) -> Reply:
    answers: list[Answer] = []
    for row, result in enumerate(results):
        if isinstance(result, BadRequest):
            return _failed(row_error(row, result))
        answers.append(result)
    return Reply(200, encode_answers(answers), len(answers))


def _failed(error: BadRequest) -> Reply:
    return Reply(error.status, error_body(str(error)), 0)
