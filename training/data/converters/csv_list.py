"""A CSV list of images with a header: `image` or `filename`, and `label`, or `labels` separated by spaces."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clearsight.documents.data.text import BadText, read_text
from clearsight.errors import Fault, InvalidData
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, Entry
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.objects import BadAnnotation

__all__ = ["read_csv"]


def read_csv(request: ConversionRequest) -> Conversion:
    """One entry per row, in file order. A column `labels` makes the task multi-label, unless the request names one.

    Multi-label: a row may hold no label. Raises `InvalidData` with every row that is short, lacks a label, or names an
    image that does not exist.
    """
    source = request.source
    try:
        lines = csv.DictReader(io.StringIO(read_text(source), newline=""))
        header = [name.strip().lower() for name in lines.fieldnames or []]
        task = request.task or (Task.MULTI_LABEL if "labels" in header else Task.MULTI_CLASS)
        image_column = _column(lines, header, ("image", "filename"), source)
        label_column = _column(lines, header, ("labels", "label"), source)
        rows = [(lines.line_num, row[image_column], row[label_column], _surplus(row)) for row in lines]
    except (BadText, csv.Error) as error:
        message = f"must be a CSV file, but: {error}"
        raise InvalidData(f"{source}", [Fault("BAD_DATA_REF", str(source), message)]) from error
    notes = ConversionNotes(request)
    finder = ImageFinder([request.images or source.parent], notes)
    entries = []
    for line, name, text, surplus in request.progress(rows):
        location = f"{source}:{line}"
        if surplus:
            rule = f"must have {len(header)} cells, as the header has"
            notes.fault(location, f"{rule}, but {', '.join(surplus)} come after them; quote cells with commas")
            continue
        labels = (text or "").split() if task is Task.MULTI_LABEL else [(text or "").strip()]
        try:
            image = _image(name, finder)
        except BadAnnotation as error:
            notes.fault(location, str(error))
            continue
        if task is Task.MULTI_CLASS and not labels[0]:
            notes.fault(location, f"must name a label, but {label_column!r} is empty")
        else:
            entries.append(Entry(image, labels if task is Task.MULTI_LABEL else labels[0], location=location))
    if not rows:
        notes.source_fault(str(source), "must hold at least one row below the header")
    return notes.finish(task, entries)


def _surplus(row: dict[str | Any, str | Any]) -> list[str]:
    """The cells beyond the header, under which `csv` files them; spreadsheets append empty ones."""
    cells = [cell.strip() for cell in row.get(None, ())]
    return [repr(cell) for cell in cells] if any(cells) else []


def _image(name: str | None, finder: ImageFinder) -> Path:
    if not name or not name.strip():
        raise BadAnnotation("must name a picture, but the cell is empty")
    return finder.find(name.strip())


def _column(lines: "csv.DictReader[str]", header: Sequence[str], names: Sequence[str], source: Path) -> str:
    for name in names:
        if name in header:
            return (lines.fieldnames or [])[header.index(name)]
    message = f"the header must name a column {' or '.join(map(repr, names))}, but got {', '.join(header) or 'nothing'}"
    raise InvalidData(f"{source}", [Fault("BAD_DATA", f"{source}:1", message)])
