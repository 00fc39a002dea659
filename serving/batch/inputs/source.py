"""What every kind of input has in common: its entries, and the count of what it holds beside images."""

import os
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final, Literal, Protocol

from clearsight.errors import UserError
from clearsight.fields import shown
from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.serving.batch.entries import Entry

__all__ = [
    "TABLE_SUFFIXES",
    "PassedOver",
    "Reason",
    "Source",
    "container_entry",
    "file_entry",
    "is_hidden",
    "kind_of_file",
    "name_below",
    "status_of",
    "suffix_of",
    "unsupported",
]

TABLE_SUFFIXES: Final = (".csv", ".jsonl", ".parquet", ".pqt")
_LABEL_SUFFIXES: Final = (".txt", ".json", ".jsonl")
_OF_SYSTEMS: Final = ("thumbs.db", "desktop.ini", "__macosx")


class Reason(Enum):
    """Why something is not part of an input, as a plural noun."""

    HIDDEN = "hidden files and folders, or files of an operating system"
    LABELS = f"files of the types {', '.join(_LABEL_SUFFIXES)}"
    OTHER_TYPE = "files of other types"
    NO_COLUMN = "tables without a column image or image_url"
    SPECIAL = "links, devices and the like"
    FOLDER = "folders, since the search is not recursive"
    LINK = "links to folders that are searched anyway"


_OF_FOLDERS: Final = (Reason.FOLDER, Reason.LINK)


class PassedOver:
    """The count of what an input holds and is not scored, with the first name of each reason."""

    def __init__(self, is_strict: bool = False) -> None:
        """`is_strict`: the first file that is passed over raises `UserError`, as in Azure."""
        self._is_strict = is_strict
        self._found: dict[Reason, tuple[int, str]] = {}

    def add(self, reason: Reason, name: str) -> None:
        """Count a file or folder."""
        if self._is_strict and reason not in _OF_FOLDERS:
            raise unsupported(name)
        count, first = self._found.get(reason, (0, name))
        self._found[reason] = count + 1, first

    def sentences(self) -> list[str]:
        """One sentence for each reason."""
        found = self._found.items()
        return [f"not scored: {count} {reason.value} (first: {shown(first)})" for reason, (count, first) in found]


def unsupported(name: str) -> UserError:
    """The error of a file that is neither image nor table, in the words of Azure's MLflow flow of batch endpoints."""
    return UserError(f"Error processing input file: {name!r}. File type {suffix_of(name)!r} is not supported.")


class Source(Protocol):
    """A kind of input, opened."""

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        """The entries in their order. Raises `UserError`, `OSError`."""

    def describe(self) -> str:
        """What the input is, as one noun phrase."""


def suffix_of(name: str) -> str:
    """The last suffix of a file's name in lower case, with its dot."""
    return Path(name).suffix.lower()


def kind_of_file(name: str) -> Literal["image", "table"] | Reason:
    """What a file of a folder or archive is by its name, or why it is passed over."""
    if is_hidden(name):
        return Reason.HIDDEN
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in _LABEL_SUFFIXES:
        return Reason.LABELS
    return "table" if suffix in TABLE_SUFFIXES else Reason.OTHER_TYPE


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or written by an operating system."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def status_of(path: Path) -> os.stat_result | None:
    """The status of a file, links followed; None for one that is not there or cannot be looked at."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def file_entry(path: Path, name: str, row: int = 0, status: os.stat_result | None = None) -> Entry:
    """The entry of an image file. One that is no readable file has the size -1, and fails when it is read."""
    status = status or status_of(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return Entry(name, str(path), -1, 0, row)
    return Entry(name, str(path), status.st_size, status.st_mtime_ns, row)


def container_entry(path: Path, status: os.stat_result, name: str, member: str, row: int = 0, offset: int = 0) -> Entry:
    """The entry of an image inside a table or an archive, which had `status` when it was opened."""
    return Entry(name, str(path), status.st_size, status.st_mtime_ns, row, member, offset)


def name_below(location: Path, root: str) -> str:
    """Name of a file: its path below `root`, a normal path; its whole path, without a slash, when it lies elsewhere."""
    path = os.path.normpath(location)
    return path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else path.lstrip("/")
