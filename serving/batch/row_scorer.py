"""The rows of a batch job in a worker: scores, explanations, and the files that are written for each of them."""

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from clearsight.errors import BadImage, ClearsightError, UserError
from clearsight.files import os_error_message
from clearsight.handlers.scoring.scorer import Scorer
from clearsight.handlers.worker.explain_lane import open_explainer
from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.reader import Unreadable
from clearsight.serving.batch.inputs.source import TABLE_SUFFIXES, suffix_of
from clearsight.serving.batch.parts import encode_outcome
from clearsight.serving.batch.results.explanations import store_explanations
from clearsight.serving.batch.results.images import write_images
from clearsight.serving.batch.row_outputs import RowOutputs
from clearsight.wire.answers import Answer, ClassificationAnswer
from clearsight.wire.cells import XaiRequest, resolve_cell
from clearsight.wire.encoding import encode_answers

__all__ = ["CannotWrite", "Cell", "RowScorer"]

Cell = object
"""What `Scorer.score` takes, or the `Unreadable` error of an entry."""

_OF_ONE_NAME: Final = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ)
"""Errors of a name that the file system of the output folder does not take; the files of other rows can be written."""


class CannotWrite(ClearsightError):
    """The files of a row cannot be written, and those of others cannot either."""


class RowScorer:
    """Scores entries, and explains each where the job asks for that. Loads what explanations need."""

    def __init__(self, scorer: Scorer, outputs: RowOutputs, folder: Path) -> None:
        """`folder` is that of the results. Raises `UserError` when the package cannot be explained here."""
        self._scorer = scorer
        self._outputs = outputs
        self._folder = folder
        self._explainer = None if outputs.explain is None else open_explainer(scorer)

    def warm_up(self) -> None:
        """Score and explain an image of noise, so that no time limit of an image holds the loading of libraries."""
        (self._explainer or self._scorer).warm_up()

    def score(self, cells: Sequence[Cell], on_row: Callable[[], None] = lambda: None) -> list[Answer | UserError]:
        """An answer or an error for each cell, in order. `on_row` is called before each explanation.

        Explanations are computed row by row: the limits of an online request then hold for each row, and a row that
        cannot be explained fails alone.
        """
        readable = [cell for cell in cells if not isinstance(cell, Unreadable)]
        if self._explainer is None:
            answers = self._scorer.score(readable)
        else:
            answers = []
            for cell in readable:
                on_row()
                answers.append(self._explain(cell))
        rest = iter(answers)
        return [cell if isinstance(cell, Unreadable) else next(rest) for cell in cells]

    def outcome(self, entry: Entry, cell: Cell, result: Answer | UserError) -> tuple[bytes, bool]:
        """Write the files of a row; return the line of its outcome, and whether that is a failure.

        Raises `CannotWrite`.
        """
        if isinstance(result, UserError):
            return encode_outcome(entry.name, entry.row, None, str(result), self._code(result)), True
        try:
            return encode_outcome(entry.name, entry.row, self._write(entry, cell, result)), False
        except OSError as error:
            if error.errno not in _OF_ONE_NAME:
                raise CannotWrite(os_error_message(error)) from error
            why = f"a file for this row cannot be written: {os_error_message(error)}"
            return encode_outcome(entry.name, entry.row, None, why, "error"), True

    def _explain(self, cell: Cell) -> Answer | UserError:
        assert self._explainer is not None  # noqa: S101  the caller has seen it
        parameters = dict(self._outputs.explain or {})
        if self._outputs.explanations == "files":  # exact, and not parsed from megabytes of text
            parameters.setdefault("attributions_format", "float32_base64")
        try:
            image = _image_of(cell)
        except UserError as error:
            return error
        request = {"image_base64": image, "model_explainability": True, "xai_parameters": parameters}
        (answer,) = self._explainer.score(
            [request], deadline_s=None, always=False, fails_as_one=False, is_awaited=False
        )
        return answer if isinstance(answer, UserError) else _repeatable(answer)

    def _write(self, entry: Entry, cell: Cell, answer: Answer) -> bytes:
        """Write images and explanations of a row; return the JSON of its answer."""
        row = entry.row if suffix_of(entry.name) in TABLE_SUFFIXES else None
        if self._outputs.overlays or self._outputs.masks:
            write_images(entry.name, row, answer, _image_of(cell), self._outputs, self._scorer, self._folder)
        text = encode_answers([answer])[1:-1]
        if self._explainer is None or self._outputs.explanations == "inline":
            return text
        return json.dumps(store_explanations(entry.name, row, json.loads(text), self._folder)).encode("ascii")

    def _code(self, error: UserError) -> str:
        if isinstance(error, Unreadable):
            return error.code
        return "bad_image" if self._explainer is None or isinstance(error, BadImage) else "error"


def _image_of(cell: Cell) -> bytes:
    """The image file of a cell. Raises `UserError`."""
    found = resolve_cell(cell)
    return found.image if isinstance(found, XaiRequest) else found


def _repeatable(answer: Answer) -> Answer:
    """The answer without what differs when it is computed again: how long that took."""
    if isinstance(answer, ClassificationAnswer):
        details = answer.explanation_details
        if details is None:
            return answer
        of_labels = tuple(map(_without_times, details)) if isinstance(details, tuple) else _without_times(details)
        return replace(answer, explanation_details=of_labels)
    return replace(
        answer,
        explanations=answer.explanations
        and tuple(
            replace(part, explanation_details=part.explanation_details and _without_times(part.explanation_details))
            for part in answer.explanations
        ),
    )


def _without_times(details: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in details.items() if key not in ("milliseconds", "cached")}
