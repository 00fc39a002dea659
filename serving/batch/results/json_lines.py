"""Form B, `jsonl`: one JSON object per answer, as AutoML's batch script writes it."""

import json
from typing import Any, BinaryIO

from clearsight.serving.batch.results.names import legible
from clearsight.serving.batch.results.rows import RowLayout

__all__ = ["JsonRows"]


class JsonRows:
    """`{"filename": …, "boxes": […]}` or `{"filename": …, "probs": […], "labels": […]}`, and explanations.

    The name is the path below the root of the input. Rows of a table after its first one also have `row`.
    """

    def __init__(self, stream: BinaryIO, layout: RowLayout) -> None:
        self._stream = stream

    def write(self, name: str, row: int, answer: dict[str, Any]) -> None:
        place = {"filename": legible(name)} | ({"row": row} if row else {})
        self._stream.write(json.dumps(place | answer).encode("ascii") + b"\n")

    def finish(self) -> None:
        """Nothing is pending."""

    def abandon(self) -> None:
        """Nothing to do."""
