"""Form `parquet`: the answers as columns, for data frames and databases.

| column | type |
| --- | --- |
| `filename` | string: path below the root of the input |
| `row` | int64: row of a table, 0 for a file of its own |
| `probs`, `labels` | list of double, list of string; classification |
| `boxes` | list of struct: `label` string, `score`, `topX`, `topY`, `bottomX`, `bottomY` double, `polygon` list of list of double, `rle` string; detection and segmentation |
| `visualizations`, `attributions`, `explanation_details` or, of detectors, `explanations` | string: the JSON of that key of the answer, null without one |

Numbers are doubles, so that they equal those of the other forms and of online answers to the last digit.
"""  # noqa: E501

import json
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, BinaryIO, Final

from clearsight.errors import UserError
from clearsight.serving.batch.results.names import legible
from clearsight.serving.batch.results.rows import RowLayout

__all__ = ["ParquetRows", "require_pyarrow"]

_CLASS_EXPLANATIONS: Final[tuple[str, ...]] = ("visualizations", "attributions", "explanation_details")
_BOX_EXPLANATIONS: Final[tuple[str, ...]] = ("explanations",)
_MAX_ROWS: Final = 2000
_MAX_WEIGHT: Final = 4_000_000
"""Of a row group, before it is written: about the characters of its rows as text."""
_NUMBER_WEIGHT: Final = 8


def require_pyarrow() -> None:
    """Raise `UserError` where the library is not installed; to be called before a job starts."""
    if find_spec("pyarrow") is None:
        raise UserError(
            "output_file_name ends in .parquet, for which pyarrow must be installed; "
            "run pip install 'clearsight[batch]', or choose a name that ends in .csv or .jsonl"
        )


class ParquetRows:
    """Collects rows and writes them as a row group when they are many or large."""

    def __init__(self, stream: BinaryIO, layout: RowLayout) -> None:
        import pyarrow  # type: ignore[import-untyped]  # 50 MB of libraries that no other form needs
        from pyarrow import parquet

        self._is_classification = layout.task.is_classification
        self._explanations = _CLASS_EXPLANATIONS if self._is_classification else _BOX_EXPLANATIONS
        text, number = pyarrow.string(), pyarrow.float64()
        fields = {"filename": text, "row": pyarrow.int64()}
        if self._is_classification:
            fields |= {"probs": pyarrow.list_(number), "labels": pyarrow.list_(text)}
        else:
            box = {
                "label": text,
                **dict.fromkeys(("score", "topX", "topY", "bottomX", "bottomY"), number),
                "polygon": pyarrow.list_(pyarrow.list_(number)),
                "rle": text,
            }
            fields["boxes"] = pyarrow.list_(pyarrow.struct(box.items()))
        fields |= dict.fromkeys(self._explanations, text)
        self._schema = pyarrow.schema(fields.items())
        self._to_table = pyarrow.Table.from_pylist
        self._writer = parquet.ParquetWriter(stream, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._weight = 0

    def write(self, name: str, row: int, answer: dict[str, Any]) -> None:
        values: dict[str, Any] = {"filename": legible(name), "row": row}
        if self._is_classification:
            values |= {"probs": answer["probs"], "labels": [legible(label) for label in answer["labels"]]}
            self._weight += _NUMBER_WEIGHT * len(answer["probs"]) + sum(map(len, answer["labels"]))
        else:
            values["boxes"] = [self._box(found) for found in answer["boxes"]]
        for key in self._explanations:
            if key in answer:
                values[key] = json.dumps(answer[key])
                self._weight += len(values[key])
        self._rows.append(values)
        if len(self._rows) >= _MAX_ROWS or self._weight >= _MAX_WEIGHT:
            self._write_group()

    def finish(self) -> None:
        if self._rows:
            self._write_group()
        self._writer.close()

    def abandon(self) -> None:
        with suppress(Exception):  # its file cannot be finished, for example on a full disk
            self._writer.close()

    def _box(self, found: dict[str, Any]) -> dict[str, Any]:
        polygon, rle = found.get("polygon"), found.get("rle")
        box = {"label": legible(found["label"]), "score": found["score"], **found["box"], "polygon": polygon}
        self._weight += _NUMBER_WEIGHT * (6 + sum(map(len, polygon or ())))
        if rle is not None:
            box["rle"] = json.dumps(rle)
            self._weight += len(box["rle"])
        return box

    def _write_group(self) -> None:
        self._writer.write_table(self._to_table(self._rows, schema=self._schema))
        self._rows, self._weight = [], 0
