"""Masks as runs of set pixels, for comparing masks in merging, and COCO's run-length encoding.

A mask of any size is a few numbers per column. Positions count the pixels of the whole image down its columns
(left x height + top), which is COCO's order. The compressed text packs each run into characters of five bits and a
continuation bit, from the third run on as the difference to the last but one.
https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (`rleFrString`, `rleToString`).

Shapes in names: R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.vision.masks import CroppedMask

__all__ = ["Runs", "decode_rle", "encode_rle", "runs_iou", "to_runs"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """Set pixels from `starts` up to, not including, `stops`: ascending, neither touching nor overlapping."""

    starts_R: Indices
    stops_R: Indices

    @property
    def area(self) -> int:
        """Number of set pixels."""
        return int((self.stops_R - self.starts_R).sum())


def to_runs(mask: CroppedMask, height: int) -> Runs:
    """The runs of a mask that lies inside an image of this height."""
    rows, columns = mask.bitmap_HW.shape
    padded_WH = np.zeros((columns, rows + 2), np.bool_)
    if mask.bitmap_HW.size:
        # At 10 000 x 10 000 ten times as fast as numpy's `.T`, which reads memory in large strides.
        padded_WH[:, 1:-1] = cv2.transpose(mask.bitmap_HW.view(np.uint8))
    changes = np.flatnonzero(padded_WH[:, 1:] != padded_WH[:, :-1])
    positions = (changes // (rows + 1) + mask.left) * height + changes % (rows + 1) + mask.top
    starts, stops = positions[0::2], positions[1::2]
    # A run that ends at the bottom of a column continues at the top of the next one.
    is_first = np.ones(len(starts), np.bool_)
    is_first[1:] = starts[1:] != stops[:-1]
    return Runs(starts[is_first], stops[np.roll(is_first, -1)])


def runs_iou(runs: Runs, other: Runs) -> float:
    """Pixels that both masks of one image set over pixels that either sets, in [0, 1]; 0 for two empty masks."""
    areas = np.concatenate([[0], np.cumsum(runs.stops_R - runs.starts_R)])

    def set_before(positions: Indices) -> Indices:
        number = np.searchsorted(runs.stops_R, positions)  # runs that end before the position
        inside = np.maximum(positions - np.append(runs.starts_R, np.iinfo(np.int64).max)[number], 0)
        total: Indices = areas[number] + inside
        return total

    shared = int((set_before(other.stops_R) - set_before(other.starts_R)).sum())
    covered = runs.area + other.area - shared
    return shared / covered if covered else 0.0


def encode_rle(mask: CroppedMask, height: int, width: int, *, compress: bool = True) -> dict[str, Any]:
    """COCO's form, `{"size": [height, width], "counts": …}`: compressed text, or a list of runs.

    Equal to the encoding of the full-size mask by pycocotools (which returns the text as bytes).
    """
    runs = to_runs(mask, height)
    borders = np.stack([runs.starts_R, runs.stops_R], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], borders, [height * width]])).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        del counts[-1]
    return {"size": [height, width], "counts": _compressed(counts) if compress else counts}


def decode_rle(counts: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask (height, width) of a list of runs, or of their compressed text. Raises `ValueError`."""
    runs = _uncompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError("counts must be text or a list of whole numbers")
    if sum(runs) != height * width:
        raise ValueError(f"the runs must add up to {height} x {width} pixels, but are {sum(runs)}")
    is_set = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_set, runs).reshape((height, width), order="F")


def _compressed(runs: Sequence[int]) -> str:
    characters: list[str] = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        while True:
            bits, value = value & 0x1F, value >> 5
            # Done when the remaining bits are all like the fifth, which is the sign.
            is_last = value == (-1 if bits & 0x10 else 0)
            characters.append(chr(48 + (bits if is_last else bits | 0x20)))
            if is_last:
                break
    return "".join(characters)


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
