"""Class names as they can be drawn: any script, any length, with the fonts that the machine has."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib import font_manager

__all__ = ["LEFT_TO_RIGHT", "Lettering", "choose_lettering"]

LEFT_TO_RIGHT: Final = "\u200e"
"""Mark before a number beside a name: the line then runs left to right whatever the script of the name."""

_MAX_LENGTH: Final = 32
_CLASS_ID: Final = re.compile(r"\[\d+\]$")
_MISSING: Final = "□"
_FAMILY: Final = "DejaVu Sans"  # comes with matplotlib
_PLACEHOLDERS: Final = "Last Resort"  # a font with a placeholder for every character
_DIRECTIONS: Final = frozenset(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # would reverse the following text


@dataclass(frozen=True, slots=True)
class Lettering:
    """The texts to draw for class names, and their fonts."""

    names: tuple[str, ...]
    """Texts in the order of the classes, all different."""
    families: tuple[str, ...]
    """Fonts in the order in which they are asked for a character."""


def choose_lettering(classes: Sequence[str]) -> Lettering:
    """Names on one line of at most 32 characters; a character that no installed font has becomes a square.

    The class id follows where two texts would be equal. The JSON files keep the full names.
    """
    lines = [" ".join("".join(c for c in name if c not in _DIRECTIONS).split()) for name in classes]
    families, missing = _fonts_for(lines)
    drawable = ["".join(_MISSING if c in missing else c for c in line) for line in lines]
    short = [_shortened(line) for line in drawable]
    count = Counter(short)
    is_plain = [
        bool(name) and count[name] == 1 and _MISSING not in name and not _CLASS_ID.search(name) for name in short
    ]
    names = [name if is_plain[k] else f"{name} [{k}]".strip() for k, name in enumerate(short)]
    return Lettering(tuple(names), tuple(families))


def _shortened(line: str) -> str:
    """Shorten a name by its middle, since similar names often differ at their ends."""
    if len(line) <= _MAX_LENGTH:
        return line
    tail = _MAX_LENGTH // 3
    return f"{line[: _MAX_LENGTH - tail - 1].rstrip()}…{line[-tail:].lstrip()}"


def _fonts_for(lines: Iterable[str]) -> tuple[list[str], set[str]]:
    """Font families that together have the characters of the lines, and the characters that none has."""
    present = {c for line in lines for c in line}
    families = [_FAMILY]
    missing = present - _characters(font_manager.findfont(_FAMILY)) - {c for c in present if _is_invisible(c)}
    if not missing:
        return families, missing
    fonts = [
        (entry.name, _characters(entry.fname) & missing)
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not entry.name.startswith((_PLACEHOLDERS, "."))
    ]
    while missing and fonts:
        family, drawn = max(fonts, key=lambda font: len(font[1] & missing))
        if not drawn & missing:
            break
        families.append(family)
        missing -= drawn
    return families, missing


def _characters(file: str) -> set[str]:
    return {chr(code) for code in font_manager.get_font(file).get_charmap()}


def _is_invisible(character: str) -> bool:
    """Whether a character is a joiner or a mark of direction, which has no glyph of its own."""
    return unicodedata.category(character) == "Cf"
