"""Inputs that name their files: lists with a location per line, and MLTable folders."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from clearsight.documents.data.label_lines import Row
from clearsight.documents.data.locations import BadLocation, resolve_location
from clearsight.documents.data.mltable import MLTableRows, read_mltable
from clearsight.documents.data.text import marked_encoding
from clearsight.errors import Fault, InvalidData, UserError
from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.source import PassedOver, file_entry, name_below

__all__ = ["ListSource", "MLTableSource", "SingleFileSource"]

_MAX_LISTED_FAULTS: Final = 20
_MAX_LINE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class SingleFileSource:
    """One image file."""

    file: Path

    def describe(self) -> str:
        return f"file {self.file}"

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        yield file_entry(self.file, self.file.name)


@dataclass(frozen=True, slots=True)
class ListSource:
    """A text file with a path or URL on each line, relative to its folder; blank lines are skipped."""

    file: Path
    datastores: Mapping[str, Path]

    def describe(self) -> str:
        return f"list {self.file}"

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        folder = self.file.parent
        root = os.path.normpath(folder)
        with self.file.open("rb") as lines:
            for number, line in enumerate(iter(partial(lines.readline, _MAX_LINE_BYTES), b""), start=1):
                if len(line) == _MAX_LINE_BYTES:
                    raise UserError(f"{self.file}, line {number} must be a path or URL, but has over {len(line)} bytes")
                if number == 1 and (encoding := marked_encoding(line[:4])) is not None:
                    if encoding != "utf-8":
                        raise UserError(
                            f"{self.file} must be text in UTF-8, but it begins like {encoding}; save it as UTF-8"
                        )
                    line = line[3:]
                text = os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r"))
                if not text.strip():
                    continue
                try:
                    location = resolve_location(text, folder, self.datastores)
                except BadLocation as error:
                    raise BadLocation(error.code, f"{self.file}, line {number}: {error}") from None
                yield file_entry(location, name_below(location, root))


@dataclass(frozen=True, slots=True)
class MLTableSource:
    """The images that the rows of an `MLTable` folder name. All rows are in memory while they are listed."""

    folder: Path
    datastores: Mapping[str, Path]

    def describe(self) -> str:
        return f"MLTable {self.folder}"

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        table = read_mltable(self.folder, self.datastores)
        faults = list(table.faults)
        locations = [self._location(row, table, faults) for row in table.rows]
        if faults:
            raise InvalidData(f"data folder {self.folder}", faults[:_MAX_LISTED_FAULTS])
        root = os.path.normpath(self.folder)
        for location in locations:
            yield file_entry(location, name_below(location, root))

    def _location(self, row: Row, table: MLTableRows, faults: list[Fault]) -> Path:
        url = row.values.get(table.image_column)
        try:
            if not isinstance(url, str):
                message = f"{table.image_column} must be the path or URL of a picture, but got {url!r}"
                raise BadLocation("BAD_DATA", message)
            return resolve_location(url, row.file.parent, self.datastores)
        except BadLocation as error:
            faults.append(Fault(error.code, row.source, str(error)))
            return self.folder
