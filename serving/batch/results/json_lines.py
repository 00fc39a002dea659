"""Form B, `jsonl`: one JSON object per answer, as AutoML's batch script writes it."""

import json
import re
from typing import Any, BinaryIO, Final

import orjson

from clearsight.serving.batch.results.names import legible
from clearsight.serving.batch.results.rows import RowLayout

__all__ = ["JsonRows"]

_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]+")


class JsonRows:
    """`{"filename": …, "boxes": […]}` or `{"filename": …, "probs": […], "labels": […]}`, and explanations.

    The name is the path below the root of the input. Rows of a table after its first one also have `row`.
    """

    def __init__(self, stream: BinaryIO, layout: RowLayout) -> None:
        self._stream = stream

    def write(self, name: str, row: int, answer: dict[str, Any]) -> None:
        place = {"filename": legible(name)} | ({"row": row} if row else {})
        self._stream.write(_encode(place | answer) + b"\n")

    def finish(self) -> None:
        """Nothing is pending."""

    def abandon(self) -> None:
        """Nothing to do."""


def _encode(document: dict[str, Any]) -> bytes:
    """JSON in ASCII, since some readers take characters such as U+2028 for the end of a line.

    orjson takes a twentieth of the time of `json`, and refuses the lone surrogates that a label may hold.
    """
    try:
        text = orjson.dumps(document)
    except orjson.JSONEncodeError:
        return json.dumps(document).encode("ascii")
    if text.isascii():
        return text
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text.decode()).encode("ascii")
