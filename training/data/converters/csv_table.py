"""A CSV file with a header, and its columns by the names that data sets give them."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clearsight.documents.data.text import BadText, read_text
from clearsight.errors import Fault, InvalidData
from clearsight.training.data.converters.entries import ConversionNotes, source_refused
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.objects import BadAnnotation
from clearsight.training.data.converters.parts import Part, part_named

__all__ = ["CLASS_COLUMNS", "CsvRow", "CsvTable"]

CLASS_COLUMNS: Final = ("label", "class", "classname", "labelname", "category")
"""Names of a column with one class, as squashed by `CsvTable`."""

_IMAGE_COLUMNS: Final = (
    "image",
    "filename",
    "imagepath",
    "imagename",
    "file",
    "filepath",
    "filepaths",
    "path",
    "imageid",
)
_PART_COLUMNS: Final = ("split", "subset", "dataset", "mluse")


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One line below the header."""

    location: str
    cells: list[str]
    """Without white space around them."""


@dataclass(frozen=True, slots=True)
class CsvTable:
    """The lines of a CSV file."""

    file: Path
    header: list[str]
    rows: list[CsvRow]
    used: set[int]
    """Columns that were asked for."""

    @classmethod
    def read(cls, file: Path) -> "CsvTable":
        """Read a file, separated by what its first line has most of: commas, semicolons or tabs.

        Raises `InvalidData` when it is no CSV file.
        """
        try:
            text = read_text(file)
            first_line = text.lstrip().partition("\n")[0]
            reader = csv.reader(
                io.StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count), skipinitialspace=True
            )
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
        except (BadText, csv.Error) as error:
            message = f"must be a CSV file, but: {error}"
            raise source_refused(file, message) from error
        header = lines.pop(0)[1] if lines else []
        return cls(file, header, [CsvRow(f"{file}:{line}", cells) for line, cells in lines], set())

    def has(self, *names: str) -> bool:
        """Whether the header has one of the columns."""
        return self._index(*names) is not None

    def column(self, *names: str) -> int | None:
        """The first of the columns that the header has; case, spaces, `_` and `-` do not count."""
        found = self._index(*names)
        if found is not None:
            self.used.add(found)
        return found

    def _index(self, *names: str) -> int | None:
        known = [_squashed(name) for name in self.header]
        return next((known.index(name) for name in names if name in known), None)

    def require(self, what: str, *names: str) -> int:
        """Like `column`; raises `InvalidData` when the header has none of them."""
        found = self.column(*names)
        if found is None:
            shown = ", ".join(self.header) or "nothing"
            message = f"the header must name a column {what}, but got {shown}"
            raise InvalidData(str(self.file), [Fault("BAD_DATA", f"{self.file}:1", message)])
        return found

    def image_column(self) -> int:
        """The column of image names. Raises `InvalidData` when the header has none."""
        return self.require("'image' or 'filename'", *_IMAGE_COLUMNS)

    def finder(self, notes: ConversionNotes) -> ImageFinder:
        """The finder of the images: beside the file, or in `images/` there."""
        return ImageFinder([self.file.parent, self.file.parent / "images"], notes)

    def image(self, row: CsvRow, column: int, finder: ImageFinder) -> Path:
        """The image of a row. Raises `BadAnnotation`, also for a row with surplus cells."""
        name = self.cell(row, column)
        if not name:
            raise BadAnnotation("must name a picture, but the cell is empty")
        return finder.find(name)

    def cell(self, row: CsvRow, column: int | None) -> str:
        """A cell; empty when the row or the table has none. Raises `BadAnnotation` for a row with surplus cells."""
        surplus = row.cells[len(self.header) :]
        if any(surplus):  # spreadsheets append empty cells
            rule = f"must have {len(self.header)} cells, as the header has"
            came = ", ".join(map(repr, surplus))
            raise BadAnnotation(f"{rule}, but {came} come after them; quote cells with commas")
        return row.cells[column] if column is not None and column < len(row.cells) else ""

    def count_unused(self, notes: ConversionNotes) -> None:
        """Count the columns that nothing asked for."""
        for index, name in enumerate(self.header):
            if index not in self.used:
                notes.count("column that is not used", f"{self.file}:1: {name or f'column {index + 1}'}")

    def parts(self, notes: ConversionNotes) -> list[Part | None]:
        """The part of each row, by a column such as `split`; None for all unless it names a part in every row."""
        column = self.column(*_PART_COLUMNS)
        if column is None:
            return [None] * len(self.rows)
        parts = [part_named(row.cells[column]) if column < len(row.cells) else None for row in self.rows]
        if None in parts or Part.TRAINING not in parts:
            what = "column that does not say train, val or test in every row: not used"
            notes.count(what, f"{self.file}:1: {self.header[column]}")
            return [None] * len(parts)
        return parts


def _squashed(name: str) -> str:
    return "".join(character for character in name.lower() if character not in " _-")
