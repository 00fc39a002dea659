"""Inputs that are searched: folders and glob patterns.

A folder is the pattern `*`, a folder with everything below it the pattern `**/*`. The names of one folder are sorted,
and folders stand among them, so that the order is that of the sorted paths. Memory holds the names of the folders on
the way to one file.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import Final

from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.source import (
    PassedOver,
    Reason,
    file_entry,
    is_hidden,
    kind_of_file,
    status_of,
)
from clearsight.serving.batch.inputs.tables import NoImageColumn, table_entries

__all__ = ["TOP_LEVEL", "WITH_SUBFOLDERS", "FolderSource", "split_pattern"]

_ANY_FOLDERS: Final = "**"

Pattern = tuple[str, ...]
"""The segments of a glob pattern."""

TOP_LEVEL: Final[Pattern] = ("*",)
WITH_SUBFOLDERS: Final[Pattern] = (_ANY_FOLDERS, "*")


def split_pattern(root: Path, pattern: str) -> tuple[Path, Pattern]:
    """The folder that a glob pattern below `root` is searched in, and the segments from its first wildcard on."""
    segments = [segment for segment in pattern.split("/") if segment not in ("", ".")]
    plain = list(takewhile(lambda segment: not has_magic(segment), segments))
    base = Path("/") if pattern.startswith("/") else root
    return base.joinpath(*plain), tuple(segments[len(plain) :])


@dataclass(slots=True)
class _Level:
    """A folder on the way: its names that are to come, and what is left of the patterns in it."""

    folder: Path
    prefix: str
    names: Iterator[str]
    patterns: frozenset[Pattern]


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The images and tables of a folder whose path below it matches a pattern. Hidden ones never do."""

    root: Path
    pattern: Pattern
    datastores: Mapping[str, Path]

    def describe(self) -> str:
        if self.pattern == TOP_LEVEL:
            return f"folder {self.root}, its top level"
        if self.pattern == WITH_SUBFOLDERS:
            return f"folder {self.root} with all folders below it"
        return f"files {self.root / '/'.join(self.pattern)}"

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        real_root = self.root.resolve()
        visited = {_identity(self.root.stat())}
        stack = [self._level(self.root, "", _closure(frozenset({self.pattern})))]
        while stack:
            level = stack[-1]
            name = next(level.names, None)
            if name is None:
                stack.pop()
                continue
            path, relative = level.folder / name, level.prefix + name
            status = status_of(path)
            is_match = any(len(pattern) == 1 and fnmatchcase(name, pattern[0]) for pattern in level.patterns)
            if is_hidden(name):
                reason = Reason.HIDDEN
            elif status is None or not stat.S_ISDIR(status.st_mode):
                if is_match:
                    yield from self._file(path, relative, status, passed_over)
                continue
            elif not (below := _below(name, level.patterns)):
                reason = Reason.FOLDER
            elif self._is_new(path, status, real_root, visited):
                stack.append(self._level(path, f"{relative}/", below))
                continue
            else:
                reason = Reason.LINK
            if is_match:
                passed_over.add(reason, relative)

    def _is_new(self, path: Path, status: os.stat_result, real_root: Path, visited: set[tuple[int, int]]) -> bool:
        """Whether a folder is to be searched: once, and not by way of a link when its own name is searched anyway."""
        is_detour = self.pattern == WITH_SUBFOLDERS and path.is_symlink() and path.resolve().is_relative_to(real_root)
        key = _identity(status)
        if is_detour or key in visited:
            return False
        visited.add(key)
        return True

    @staticmethod
    def _level(folder: Path, prefix: str, patterns: frozenset[Pattern]) -> _Level:
        return _Level(folder, prefix, iter(sorted(os.listdir(folder))), patterns)  # noqa: PTH208 (names alone are small)

    def _file(
        self, path: Path, relative: str, status: os.stat_result | None, passed_over: PassedOver
    ) -> Iterator[Entry]:
        kind = kind_of_file(path.name)
        if isinstance(kind, Reason):
            passed_over.add(kind, relative)
        elif status is not None and not stat.S_ISREG(status.st_mode):
            passed_over.add(Reason.SPECIAL, relative)
        elif kind == "image":
            yield file_entry(path, relative, status=status)
        else:
            try:
                yield from table_entries(path, relative, self.datastores)
            except NoImageColumn:
                passed_over.add(Reason.NO_COLUMN, relative)


def _closure(patterns: frozenset[Pattern]) -> frozenset[Pattern]:
    """The patterns, and what is left of those that begin with `**` when that stands for no folder."""
    added = frozenset(pattern[1:] for pattern in patterns if len(pattern) > 1 and pattern[0] == _ANY_FOLDERS)
    return patterns if added <= patterns else _closure(patterns | added)


def _below(name: str, patterns: frozenset[Pattern]) -> frozenset[Pattern]:
    """What is left of the patterns in the folder `name`."""
    kept = frozenset(pattern for pattern in patterns if pattern[0] == _ANY_FOLDERS)
    stepped = frozenset(
        pattern[1:]
        for pattern in patterns
        if len(pattern) > 1 and pattern[0] != _ANY_FOLDERS and fnmatchcase(name, pattern[0])
    )
    return _closure(kept | stepped)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
