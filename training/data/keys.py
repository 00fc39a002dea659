"""Keys of objects that are almost those of a format: a reader that ignores unknown keys would lose their values."""

import difflib
import functools
from typing import Final

__all__ = ["likely_meant"]

_SYNONYMS: Final = tuple(
    frozenset(group.split())
    for group in (
        "iscrowd crowd difficult",
        "polygon polygons segmentation segments points",
        "bbox box bndbox boundingbox topx",
        "label labels name class classname category categoryid",
        "object objects",
    )
)
_SIMILARITY: Final = 0.85


@functools.lru_cache(1024)  # the objects of a file have few sets of keys
def likely_meant(keys: tuple[str, ...], known: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each unknown key that looks like a known one which is not among `keys`, with that known one.

    Looks are the same when they differ in case, separators or by a typing error, or are of one group of `_SYNONYMS`.
    """
    absent = {_plain(key): key for key in known if key not in keys}
    found = ((key, _meant(_plain(key), absent)) for key in dict.fromkeys(keys) if key not in known)
    return tuple((key, meant) for key, meant in found if meant is not None)


def _meant(plain: str, absent: dict[str, str]) -> str | None:
    close = difflib.get_close_matches(plain, absent, 1, _SIMILARITY)
    synonyms = (key for group in _SYNONYMS if plain in group for key in absent if key in group)
    found = close[0] if close else next(synonyms, None)
    return None if found is None else absent[found]


def _plain(key: str) -> str:
    return "".join(letter for letter in key.lower() if letter.isalnum())
