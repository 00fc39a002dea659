"""The `MLTable` file of a data folder: it names the label files and how they are read; the result is a list of rows.

Format: https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable.
"""

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from clearsight.documents.data.label_lines import Row, read_rows
from clearsight.documents.data.locations import BadLocation, split_location
from clearsight.documents.data.transformations import (
    ReadJsonLines,
    apply_step,
    document_fault,
    parse_steps,
    stream_info_columns,
)
from clearsight.errors import Fault, InvalidData

__all__ = ["DEFAULT_IMAGE_COLUMN", "MLTABLE_TEXT", "MLTableRows", "read_mltable"]

DEFAULT_IMAGE_COLUMN: Final = "image_url"

MLTABLE_TEXT: Final = """paths:
  - file: ./{file_name}
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
      include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""
"""The `MLTable` file that Azure's converters write; `file_name` is the label file beside it."""


@dataclass(slots=True)
class MLTableRows:
    """The result of reading an `MLTable` file."""

    image_column: str = DEFAULT_IMAGE_COLUMN
    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_mltable(folder: Path, datastores: Mapping[str, Path]) -> MLTableRows:
    """Read the rows of a data folder. Faults of single lines are collected in the result.

    Raises `InvalidData` when the folder or its `MLTable` file is missing or unusable, with every fault of that file.
    """
    document = _load(folder)
    table = MLTableRows()
    steps = parse_steps(document, table.faults)
    files = _find_files(folder, document, datastores, table.faults)
    if table.faults:
        raise InvalidData(f"data folder {folder}", table.faults)
    for key in document.keys() - {"$schema", "type", "paths", "transformations"}:
        table.warnings.append(f"{folder / 'MLTable'}: key {key!r} is ignored")
    marked = stream_info_columns(steps)
    if marked and DEFAULT_IMAGE_COLUMN not in marked:
        table.image_column = marked[0]
    for file in files:
        _read_file(file, steps[0].options, table)
    for step in steps[1:]:
        table.rows = apply_step(step, table.rows, table.faults)
    return table


def _load(folder: Path) -> dict[Any, Any]:
    path = folder / "MLTable"
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        message = f"a data input must be a folder with a file named MLTable, but it {problem}"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(folder), message)])
    try:
        document = yaml.safe_load(path.read_bytes())  # in UTF-8, or as its byte order mark says
    except FileNotFoundError:
        others = sorted(entry.name for entry in folder.iterdir())[:5]
        message = f"a file named exactly MLTable must be in the folder, but there is {', '.join(others) or 'nothing'}"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(folder), message)]) from None
    except (OSError, yaml.YAMLError) as error:
        message = f"must be a YAML document, but: {' '.join(str(error).split())}"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(path), message)]) from error
    if not isinstance(document, dict) or document.get("type", "mltable") != "mltable":
        message = "must be a YAML mapping with `paths`, and `type: mltable` if a type is given"
        raise InvalidData(f"data folder {folder}", [Fault("BAD_DATA_REF", str(path), message)])
    return document


def _read_file(file: Path, options: ReadJsonLines, table: MLTableRows) -> None:
    rows = read_rows(file, options.encoding, options.invalid_lines == "drop", table.faults, table.warnings)
    if options.include_path_column:
        rows = (replace(row, values={"Path": str(file), **row.values}) for row in rows)
    table.rows += rows


def _find_files(
    folder: Path, document: Mapping[Any, Any], datastores: Mapping[str, Path], faults: list[Fault]
) -> list[Path]:
    """Label files in the order of `paths`; those of one folder or pattern in sorted order."""
    entries = document.get("paths")
    if not isinstance(entries, list) or not entries:
        faults.append(document_fault("paths", "must be a list of file, folder or pattern entries", entries))
        return []
    files: list[Path] = []
    for index, entry in enumerate(entries):
        place = f"paths[{index}]"
        if not isinstance(entry, dict) or len(entry) != 1 or not set(entry) <= {"file", "folder", "pattern"}:
            faults.append(document_fault(place, "each entry must hold exactly one of file, folder, pattern", entry))
            continue
        [(kind, location)] = entry.items()
        try:
            root, path = split_location(str(location), folder, datastores)
        except BadLocation as error:
            faults.append(Fault(error.code, f"MLTable {place}.{kind}", str(error)))
            continue
        found = _expand(kind, root, path)
        if not found:
            faults.append(document_fault(f"{place}.{kind}", f"must name existing files below {root}", location))
        files += found
    return files


def _expand(kind: str, root: Path, path: str) -> list[Path]:
    if kind == "file":
        return [root / path] if (root / path).is_file() else []
    if kind == "folder":
        below = (file for file in sorted((root / path).rglob("*")) if file.is_file())
        return [file for file in below if file.name != "MLTable" and not file.name.startswith(".")]
    matches = (root / match for match in sorted(glob.glob(path, root_dir=root, recursive=True)))  # noqa: PTH207
    return [match for match in matches if match.is_file() and match.name != "MLTable"]
