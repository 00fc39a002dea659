"""What a user names as the input of a batch job, opened: its kind is decided by what is there, not by its declaration.

A location that is no file of this machine is resolved by `documents.data.locations`: storage that is reached over a
network takes part as a folder that is mapped to the beginning of its URLs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic_core import PydanticCustomError

from clearsight.documents.data.locations import split_location
from clearsight.documents.data_asset import DATA_TYPES
from clearsight.errors import NotFound, UserError
from clearsight.fields import OneOf, shown
from clearsight.files import os_error_message
from clearsight.images.headers import IMAGE_SUFFIXES, sniff_format
from clearsight.runs.data_registry import DataRegistry
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.archives import ARCHIVE_SUFFIXES, ArchiveSource, archive_suffix
from clearsight.serving.batch.inputs.folders import TOP_LEVEL, WITH_SUBFOLDERS, FolderSource, split_pattern
from clearsight.serving.batch.inputs.lists import ListSource, MLTableSource, SingleFileSource
from clearsight.serving.batch.inputs.source import TABLE_SUFFIXES, PassedOver, Reason, Source, suffix_of, unsupported
from clearsight.serving.batch.inputs.tables import table_entries

__all__ = ["Input", "open_input"]


class Input:
    """The images of a batch job, as a stream."""

    def __init__(self, source: Source, is_strict: bool = False) -> None:
        """`is_strict`: see `PassedOver`."""
        self._source = source
        self._is_strict = is_strict
        self._passed_over = PassedOver()

    @property
    def warnings(self) -> list[str]:
        """What the last pass of `entries` has passed over so far: a sentence for each reason, with a count."""
        return self._passed_over.sentences()

    def describe(self) -> str:
        """What the input is, as one noun phrase."""
        return self._source.describe()

    def entries(self) -> Iterator[Entry]:
        """The entries in their order, listed anew by each call. Raises `UserError`."""
        self._passed_over = PassedOver(self._is_strict)
        try:
            yield from self._source.entries(self._passed_over)
        except OSError as error:
            raise UserError(f"the input cannot be listed: {os_error_message(error)}") from error


def open_input(
    reference: str,
    folder: Path,
    workspace: Workspace,
    *,
    input_type: str | None = None,
    is_recursive: bool = False,
    is_strict: bool = False,
) -> Input:
    """Open the input that `reference` names, and look for its first image.

    `reference` is a path (relative to `folder`), a glob pattern, a `file:` URL, a URL of a mapped datastore or
    prefix, or registered data (`azureml:<name>:<version>`). It names a folder, an image, a list of locations (`.txt`,
    `.lst`), a table (`.csv`, `.jsonl`, `.parquet`, `.pqt`), an archive, or an MLTable folder; a folder with a file
    `MLTable` is one, unless `input_type` is `uri_folder`. `is_recursive`: with the folders below. `is_strict`: a file
    that is neither image nor table is an error. Raises `NotFound`, `UserError`.
    """
    declared = None if input_type is None else _declared(input_type)
    asset = DataRegistry(workspace).find(reference)
    if asset is not None:
        reference, declared = asset.path, declared or asset.type
    datastores = workspace.datastores()
    root, below = split_location(reference, folder.absolute(), datastores, may_be_root=True)
    path = root / below
    try:
        opened = Input(_source(path, root, below, declared, is_recursive, datastores), is_strict)
    except OSError as error:
        raise UserError(f"the input cannot be opened: {os_error_message(error)}") from error
    if next(opened.entries(), None) is None:
        beside = "".join(f"; {sentence}" for sentence in opened.warnings)
        advice = "; --recursive searches the folders below it" if Reason.FOLDER.value in beside else ""
        raise NotFound(f"the input must hold pictures, but {opened.describe()} has none{beside}{advice}")
    return opened


def _declared(input_type: str) -> str:
    """One of `DATA_TYPES`, of a text in any of Azure's spellings (`uri_folder`, `UriFolder`)."""
    try:
        return OneOf(DATA_TYPES).read(input_type)
    except PydanticCustomError as error:
        raise UserError(f"the type of an input {error.message()}, but got {shown(input_type)}") from None


def _source(
    path: Path, root: Path, below: str, declared: str | None, is_recursive: bool, datastores: Mapping[str, Path]
) -> Source:
    if path.is_dir():
        if declared == "mltable" or (declared != "uri_folder" and (path / "MLTable").is_file()):
            return MLTableSource(path, datastores)
        return FolderSource(path, WITH_SUBFOLDERS if is_recursive else TOP_LEVEL, datastores)
    if path.exists():
        return _source_of_file(path, datastores)
    if not has_magic(below):
        raise NotFound(f"the input must be a file, a folder or a pattern, but {path} does not exist")
    base, pattern = split_pattern(root, below)
    if not base.is_dir():
        raise NotFound(f"the pattern {below!r} must begin with a folder, but {base} does not exist or is a file")
    return FolderSource(base, pattern, datastores)


@dataclass(frozen=True, slots=True)
class TableSource:
    """The rows of a table."""

    path: Path
    datastores: Mapping[str, Path]

    def describe(self) -> str:
        return f"table {self.path}"

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        return table_entries(self.path, self.path.name, self.datastores)


_FILES: Final[Mapping[str, Callable[[Path, Mapping[str, Path]], Source]]] = MappingProxyType(
    {
        **dict.fromkeys(IMAGE_SUFFIXES, lambda path, datastores: SingleFileSource(path)),
        **dict.fromkeys((".txt", ".lst"), ListSource),
        **dict.fromkeys(TABLE_SUFFIXES, TableSource),
        **dict.fromkeys(ARCHIVE_SUFFIXES, lambda path, datastores: ArchiveSource(path)),
    }
)
"""Suffix of a file -> what it is."""


def _source_of_file(path: Path, datastores: Mapping[str, Path]) -> Source:
    if path.name == "MLTable":
        return MLTableSource(path.parent, datastores)
    kind = _FILES.get(archive_suffix(path.name) or suffix_of(path.name))
    if kind is not None:
        return kind(path, datastores)
    with path.open("rb") as file:
        if sniff_format(file.read(512)) is None:
            raise unsupported(str(path))
    return SingleFileSource(path)
