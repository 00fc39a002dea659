"""Rows of delimited text, as pandas' `DataFrame.to_csv` writes Azure's frames.

Form A, `csv`: the columns of MLflow's frame and the name of the file; a cell that is a list or a mapping is its Python
text, with the digits of the online answer. Form C, `space`: file, class and probability, or a line for each box.
"""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

import orjson

from clearsight.serving.batch.results.frame_settings import FrameSettings
from clearsight.serving.batch.results.names import legible
from clearsight.serving.batch.results.rows import RowLayout

__all__ = ["BOX_COLUMNS", "CLASS_COLUMNS", "CsvRows", "SpaceRows"]

CLASS_COLUMNS: Final = ("file", "label", "probability")
BOX_COLUMNS: Final = ("file", "label", "score", "topX", "topY", "bottomX", "bottomY")

_Cells = Sequence[Any]


class _Rows:
    """Writes the cells of each answer; a subclass names the columns and makes the cells.

    Quoting is that of the module `csv`, which pandas uses, but for two things: the module takes 14 ns per character
    (0.5 ms for a row of 1000 classes), and up to Python 3.12 it leaves a carriage return unquoted.
    """

    def __init__(self, stream: BinaryIO, layout: RowLayout, frame: FrameSettings) -> None:
        self._stream, self._layout, self._frame = stream, layout, frame
        self._is_special = re.compile(f"[\r\n{re.escape(frame.sep + frame.quotechar)}]").search
        if frame.header:
            self._write_cells("", self._columns())

    def write(self, name: str, row: int, answer: dict[str, Any]) -> None:
        for cells in self._cells(self._layout.file_name(name), answer):
            self._write_cells(row, cells)

    def finish(self) -> None:
        """Nothing is pending."""

    def abandon(self) -> None:
        """Nothing to do."""

    def _write_cells(self, index: str | int, cells: _Cells) -> None:
        whole = [index, *cells] if self._frame.index else cells
        self._stream.write((self._frame.sep.join(map(self._quoted, whole)) + "\n").encode())

    def _quoted(self, value: Any) -> str:
        text = str(value)
        quoting = self._frame.quoting
        is_always = quoting == csv.QUOTE_ALL or (
            quoting == csv.QUOTE_NONNUMERIC and not isinstance(value, (int, float))
        )
        if not (is_always or self._is_special(text)):
            return text
        mark = self._frame.quotechar
        return f"{mark}{text.replace(mark, mark + mark)}{mark}"

    def _columns(self) -> Sequence[str]:
        raise NotImplementedError

    def _cells(self, file: str, answer: dict[str, Any]) -> Iterator[_Cells]:
        raise NotImplementedError


class CsvRows(_Rows):
    """Form A: `row,preds,file` of detectors, `row,probs,labels,file` of classifiers.

    The columns of explanations, if the job asked for them, stand before the file; one without a value is empty.
    """

    _labels: tuple[list[str], str] = ([], "[]")
    """The labels of the last row and their text: those of a model are the same in every row."""

    def _columns(self) -> Sequence[str]:
        scores = ("probs", "labels") if self._layout.task.is_classification else ("preds",)
        return (*scores, *self._layout.explanation_keys, "file")

    def _cells(self, file: str, answer: dict[str, Any]) -> Iterator[_Cells]:
        explanations = (str(answer.get(key, "")) for key in self._layout.explanation_keys)
        if not self._layout.task.is_classification:
            yield str(answer["boxes"]), *explanations, file
            return
        if answer["labels"] != self._labels[0]:
            self._labels = answer["labels"], str(answer["labels"])
        yield _numbers_text(answer["probs"]), self._labels[1], *explanations, file


def _numbers_text(numbers: list[float]) -> str:
    """`str(numbers)`, in less than half of its time where all of them are float32 between 0 and 1.

    Such a number has at most nine digits (`wire.encoding.shortest`), which are then those that `repr` looks for: of
    the numbers with nine digits only one is that double, unless it is subnormal.
    """
    if numbers and min(numbers) >= sys.float_info.min and max(numbers) < 1.0:
        text = "[" + ", ".join(["%.9g"] * len(numbers)) % tuple(numbers) + "]"
        if orjson.loads(text) == numbers:
            return text
    return str(numbers)


class SpaceRows(_Rows):
    """Form C: the most probable class of each image, or one line for each box; an image without boxes has no line."""

    def _columns(self) -> Sequence[str]:
        return CLASS_COLUMNS if self._layout.task.is_classification else BOX_COLUMNS

    def _cells(self, file: str, answer: dict[str, Any]) -> Iterator[_Cells]:
        if self._layout.task.is_classification:
            best = max(range(len(answer["probs"])), key=answer["probs"].__getitem__)
            yield file, legible(answer["labels"][best]), answer["probs"][best]
            return
        for found in answer["boxes"]:
            yield file, legible(found["label"]), found["score"], *(found["box"][side] for side in BOX_COLUMNS[3:])
