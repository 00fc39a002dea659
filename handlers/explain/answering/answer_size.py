"""How large an answer with attributions will be, told before they are computed."""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from clearsight.errors import BadRequest
from clearsight.handlers.explain.answering.parameters import AttributionsFormat

__all__ = ["AnswerTooLarge", "first_too_many"]

_BYTES_PER_NUMBER: Final = MappingProxyType({"nested": 9.25, "float32_base64": 16 / 3, "float16_base64": 8 / 3})
"""`nested`: what maps of photographs take on average."""


class AnswerTooLarge(BadRequest):
    """An answer with what the request asks for would be over the limit."""

    status = 422


def first_too_many(
    rows: Iterable[tuple[int, int, AttributionsFormat]], max_bytes: int
) -> tuple[int, AnswerTooLarge] | None:
    """Find the first row whose attributions do not fit into the answer any more, after those before it.

    `rows` are numbers of rows, how many numbers the attributions of each hold, and how they are written. Images do
    not count: how small they become is not known before.
    """
    total = 0
    for row, count, form in rows:
        total += int(count * _BYTES_PER_NUMBER[form])
        if total > max_bytes:
            compact = "" if form == "float16_base64" else "'attributions_format' 'float16_base64', "
            return row, AnswerTooLarge(
                f"an answer must have at most {max_bytes} bytes, but with these attributions it has about {total}; "
                f"ask for {compact}fewer labels or objects, or send fewer rows"
            )
    return None
