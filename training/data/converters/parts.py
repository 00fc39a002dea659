"""The parts of a source that is split already: what trains, what validates, and what is kept for tests."""

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["TEST_LEFT_OUT", "Part", "part_named"]

TEST_LEFT_OUT: Final = "picture of the test part left out"
"""Why a conversion has fewer images than its source: a job has no use for test images."""


class Part(StrEnum):
    """A part of a source, in the order in which a conversion has them."""

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"


_WORDS: Final[Mapping[str, Part]] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training"), Part.TRAINING),
        **dict.fromkeys(("val", "valid", "validation"), Part.VALIDATION),
        **dict.fromkeys(("test", "testing"), Part.TEST),
    }
)


def part_named(name: str) -> Part | None:
    """The part that a folder, file stem or value names, such as `train2017`, `Valid` and `instances_val`.

    None when no word of the name is one of a part, or words of two are.
    """
    found = {_WORDS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _WORDS}
    return found.pop() if len(found) == 1 else None
