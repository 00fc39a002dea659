"""Segments as sets of pixels, each grown by a disk: the regions that XRAI ranks.

A region is kept as rows of bits, 64 pixels to a machine word, so that growing all regions of an image is a few shifts
and ORs of small arrays: 300 regions of 224 x 224 pixels are 2 MB of words, where one boolean image each is 15 MB
and a morphology call per region takes a second. Bits then become one list of pixel numbers per region.

Shapes in names: R regions, P side of the image, W words of a row, M members (pixels of all regions).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.handlers.explain.algorithms.xrai.segmentation import Labels

__all__ = ["DISK_HALF_WIDTHS", "Regions"]

DISK_HALF_WIDTHS: Final = (0, 3, 4, 4, 4, 5, 4, 4, 4, 3, 0)
"""Pixels to each side in the rows -5 … 5 of the disk of radius 5, 81 pixels."""

_RADIUS: Final = len(DISK_HALF_WIDTHS) // 2
_WORD: Final = 64
_BLOCK: Final = 32  # regions grown at a time: their words stay in the processor's cache

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Overlapping sets of pixels, none empty, no two made from the same segment."""

    num_segments: int
    """Number of segments of all label maps, duplicates included, which are no regions."""
    num_pixels: int
    """Number of pixels of the image."""
    members_M: npt.NDArray[np.int32]
    """Pixel numbers (row * width + column), ascending within a region, one region after the other."""
    starts_R: npt.NDArray[np.int64]
    """Index in `members_M` at which each region starts."""

    @classmethod
    def of(cls, label_maps: Labels, grow: bool = True) -> "Regions":
        """Every label of every map, int (S, H, W), in this order; `grow` dilates each by the disk of radius 5."""
        _, height, width = label_maps.shape
        segments = [_to_words(labels_HW) for labels_HW in label_maps]
        words_RHW = _without_copies(np.concatenate(segments))
        if grow:
            blocks = [words_RHW[start : start + _BLOCK] for start in range(0, len(words_RHW), _BLOCK)]
            words_RHW = np.concatenate([_grow(block_RHW, width) for block_RHW in blocks])
        members_M, counts_R = _members(words_RHW, width)
        starts_R = np.concatenate(([0], np.cumsum(counts_R)[:-1]))
        return cls(sum(map(len, segments)), height * width, members_M, starts_R)

    def count(self) -> npt.NDArray[np.int64]:
        """Pixels of each region, int64 (R,)."""
        return np.diff(self.starts_R, append=len(self.members_M))

    def members_of(self, region: int) -> npt.NDArray[np.int32]:
        """Pixel numbers of one region."""
        stop = self.starts_R[region + 1] if region + 1 < len(self.starts_R) else len(self.members_M)
        return self.members_M[self.starts_R[region] : stop]


def _to_words(labels_HW: npt.NDArray[np.int32]) -> Words:
    """One set of bits per label: uint64 (labels, H, W). Room for the disk is left at the end of a row.

    A label without pixels, which a resize can leave behind, gets none.
    """
    height, width = labels_HW.shape
    num_words = -(-(width + 2 * _RADIUS) // _WORD)
    labels = np.flatnonzero(np.bincount(labels_HW.ravel())).astype(labels_HW.dtype)
    bits = np.packbits(labels_HW == labels[:, None, None], axis=2, bitorder="little")
    padded = np.zeros((len(labels), height, num_words * 8), np.uint8)
    padded[:, :, : bits.shape[2]] = bits
    return padded.view("<u8").astype(np.uint64, copy=False)


def _without_copies(words_RHW: Words) -> Words:
    """Keep the first of equal segments: scales often agree, and a second one could add no pixel."""
    first = {words_HW.tobytes(): region for region, words_HW in reversed(list(enumerate(words_RHW)))}
    kept_RHW: Words = words_RHW[sorted(first.values())]
    return kept_RHW


def _grow(words_RHW: Words, width: int) -> Words:
    """Dilate every region by the disk."""
    # A run of n pixels is two shorter runs, one shifted: first to the right only, then back to the middle.
    run_2 = words_RHW | _right(words_RHW, 1)
    run_4 = run_2 | _right(run_2, 2)
    run_7 = run_4 | _right(run_4, 3)
    run_9 = run_7 | _right(run_7, 2)
    run_11 = run_9 | _right(run_9, 2)
    centred = {0: words_RHW, 3: _left(run_7, 3), 4: _left(run_9, 4), 5: _left(run_11, 5)}
    height = words_RHW.shape[1]
    grown_RHW = np.zeros_like(words_RHW)
    for down, half_width in zip(range(-_RADIUS, _RADIUS + 1), DISK_HALF_WIDTHS, strict=True):
        rows = slice(max(down, 0), max(height + min(down, 0), 0))
        sources = slice(max(-down, 0), max(height - max(down, 0), 0))
        grown_RHW[:, rows] |= centred[half_width][:, sources]
    inside = np.arange(words_RHW.shape[2] * _WORD) < width
    grown_RHW &= np.packbits(inside, bitorder="little").view("<u8")
    return grown_RHW


def _right(words_RHW: Words, by: int) -> Words:
    """Move all pixels to higher columns; `by` is below 64."""
    moved = words_RHW << np.uint64(by)
    moved[..., 1:] |= words_RHW[..., :-1] >> np.uint64(_WORD - by)
    return moved


def _left(words_RHW: Words, by: int) -> Words:
    moved = words_RHW >> np.uint64(by)
    moved[..., :-1] |= words_RHW[..., 1:] << np.uint64(_WORD - by)
    return moved


def _members(words_RHW: Words, width: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Pixel numbers of all regions, one after the other, and how many each has."""
    num_regions, height, num_words = words_RHW.shape
    flat = words_RHW.reshape(-1)
    # Most words are empty: only the others are unpacked.
    used = np.flatnonzero(flat)
    regions, places = np.divmod(used, height * num_words)
    rows, columns = np.divmod(places, num_words)
    first_pixels = (rows * width + columns * _WORD).astype(np.int32)
    bits = np.unpackbits(flat[used].astype("<u8", copy=False).view(np.uint8), bitorder="little")
    bit_M = np.flatnonzero(bits)
    members_M = first_pixels[bit_M >> 6] + (bit_M & 63).astype(np.int32)
    counts_R = np.bincount(regions, np.bitwise_count(flat[used]), num_regions).astype(np.int64)
    return members_M, counts_R
