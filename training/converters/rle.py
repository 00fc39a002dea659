"""COCO's run-length encoded masks: runs of 0 and 1 in turn, beginning with 0, down the columns.

The compressed form packs each run into characters of five bits and a continuation bit, from the third run on as the
difference to the last but one. https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (`rleFrString`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_rle"]


def decode_rle(counts: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width) of a list of runs, or of their compressed text. Raises `ValueError`."""
    runs = _uncompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError("counts must be text or a list of whole numbers")
    if sum(runs) != height * width:
        raise ValueError(f"the runs must add up to {height} x {width} pixels, but are {sum(runs)}")
    is_set = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_set, runs).reshape((height, width), order="F")


def _uncompressed(text: str) -> Sequence[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"compressed counts must hold characters from '0' to 'o', but got {character!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed counts must end with a finished run, but are cut off")
    return runs
