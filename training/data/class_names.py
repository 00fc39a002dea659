"""Class names that are likely mistakes: lists of names, and names that only look like one another."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

__all__ = ["doubtful_names"]

_SEPARATORS = re.compile(r"[,;|]")
_WORDS = re.compile(r"[\s,;|+&/]+")


def doubtful_names(names: Iterable[str]) -> list[str]:
    """One sentence for each kind of doubtful class name, and none for names that are in order.

    Names look the same when white space, Unicode form or case is all that differs. A name is a list when it holds a
    comma, a semicolon or a bar, or when all of its words are classes too.
    """
    names = sorted(set(names))
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_as_seen(name)].append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    lists = [name for name in names if _is_list(name, set(names))]
    sentences = []
    if groups:
        shown = ", ".join(ascii(name) if name != _composed(name) else repr(name) for name in groups[0])
        sentences.append(f"classes that look the same and count as different: {len(groups)} (first: {shown})")
    if lists:
        what = "classes that look like lists of classes; --label-separator splits those of a CSV list"
        sentences.append(f"{what}: {len(lists)} (first: {lists[0]!r})")
    return sentences


def _is_list(name: str, names: set[str]) -> bool:
    words = [word for word in _WORDS.split(name) if word]
    return bool(_SEPARATORS.search(name)) or (len(words) > 1 and all(word in names for word in words))


def _as_seen(name: str) -> str:
    return _composed(" ".join(_composed(name).casefold().split()))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
