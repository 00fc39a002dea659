"""Names of entries as they stand in results, and the paths of files that are made from an entry.

The name of an entry may come from an archive or a table of somebody else, and may hold bytes that are not UTF-8 as
surrogate escapes (PEP 383).
"""

import hashlib
import os
from pathlib import PurePosixPath
from typing import Final

__all__ = ["derived_path", "legible"]

_MAX_NAME_BYTES: Final = 230
"""Of one component of a path. File systems take 255; the temporary name of an atomic write is longer by some 20."""
_DIGEST: Final = 16
"""Hexadecimal digits of the hash in a shortened name."""
_MARKED: Final = str.maketrans({"%": "%25", "\0": "%00", "\\": "%5C"})


def legible(text: str) -> str:
    r"""The text as it stands in results, which are UTF-8.

    Bytes of a file name that are not UTF-8 become `\xff`; other lone surrogates, which JSON can hold, `\ud800`.
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def derived_path(name: str, row: int | None, ending: str) -> PurePosixPath:
    """Relative path of a file that is made from an entry, for example `shelf/a.jpg.overlay.jpg`.

    `row` is the number of a table's row, which gives `.row<N>`; None for an entry that is a file of its own. Different
    entries get different paths, and every path stays below its folder: `%` becomes `%25`, and the components `.`, `..`
    and the empty one become `%2E`, `%2E%2E` and `%`. A component that is too long for a file system is cut, and a hash
    of the whole keeps it different.
    """
    *folders, last = [_component(part) for part in name.split("/")]
    mark = "" if row is None else f".row{row}"
    return PurePosixPath(*map(_shortened, folders), _shortened(last, f"{mark}.{ending}"))


def _component(part: str) -> str:
    part = {"": "%", ".": "%2E", "..": "%2E%2E"}.get(part) or part.translate(_MARKED)
    try:
        os.fsencode(part)
    except UnicodeEncodeError:
        return legible(part)
    return part


def _shortened(component: str, ending: str = "") -> str:
    raw = os.fsencode(component)
    if len(raw) + len(ending) <= _MAX_NAME_BYTES:
        return component + ending
    digest = hashlib.sha256(raw).hexdigest()[:_DIGEST]
    kept = raw[: _MAX_NAME_BYTES - len(ending) - _DIGEST - 1].decode("utf-8", "ignore")
    return f"{kept}.{digest}{ending}"
