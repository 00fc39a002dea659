"""Rows of delimited text, as pandas' `DataFrame.to_csv` writes Azure's frames.

Form A, `csv`: the columns of MLflow's frame and the name of the file; a cell that is a list or a mapping is its Python
text, with the digits of the online answer. Form C, `space`: file, class and probability, or a line for each box.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

from clearsight.serving.batch.results.frame_settings import FrameSettings
from clearsight.serving.batch.results.names import legible
from clearsight.serving.batch.results.rows import RowLayout

__all__ = ["BOX_COLUMNS", "CLASS_COLUMNS", "CsvRows", "SpaceRows"]

CLASS_COLUMNS: Final = ("file", "label", "probability")
BOX_COLUMNS: Final = ("file", "label", "score", "topX", "topY", "bottomX", "bottomY")

_Cells = Sequence[Any]


class _Rows:
    """Writes the cells of each answer; a subclass names the columns and makes the cells."""

    def __init__(self, stream: BinaryIO, layout: RowLayout, frame: FrameSettings) -> None:
        self._layout = layout
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self._has_index = frame.index
        # The module quotes only the characters of the line's end, in Python 3.11 and 3.12 no other line break.
        self._write: Callable[[_Cells], object] = csv.writer(
            _UnixLines(self._text),
            delimiter=frame.sep,
            quotechar=frame.quotechar,
            quoting=frame.quoting,  # type: ignore[arg-type]  # one of the constants, checked by the settings
            lineterminator="\r\n",
        ).writerow
        if frame.header:
            self._write([*([""] if frame.index else []), *self._columns()])

    def write(self, name: str, row: int, answer: dict[str, Any]) -> None:
        for cells in self._cells(self._layout.file_name(name), answer):
            self._write([row, *cells] if self._has_index else cells)

    def finish(self) -> None:
        self._text.detach()  # flushes

    def abandon(self) -> None:
        with suppress(OSError, ValueError):  # what is pending cannot be written
            self._text.detach()

    def _columns(self) -> Sequence[str]:
        raise NotImplementedError

    def _cells(self, file: str, answer: dict[str, Any]) -> Iterator[_Cells]:
        raise NotImplementedError


class CsvRows(_Rows):
    """Form A: `row,preds,file` of detectors, `row,probs,labels,file` of classifiers.

    The columns of explanations, if the job asked for them, stand before the file; one without a value is empty.
    """

    def _columns(self) -> Sequence[str]:
        scores = ("probs", "labels") if self._layout.task.is_classification else ("preds",)
        return (*scores, *self._layout.explanation_keys, "file")

    def _cells(self, file: str, answer: dict[str, Any]) -> Iterator[_Cells]:
        is_classification = self._layout.task.is_classification
        scores = (answer["probs"], answer["labels"]) if is_classification else (answer["boxes"],)
        yield (*map(str, scores), *(str(answer.get(key, "")) for key in self._layout.explanation_keys), file)


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


class _UnixLines:
    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text

    def write(self, line: str) -> int:
        return self._text.write(line[:-2] + "\n")
