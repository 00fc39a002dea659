"""Ranks regions into a heat map: highest attribution first; the pixels that a region adds take its mean.

Shapes in names: R regions, P side of the image, N pixels of the image, M members (pixels of all regions).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from clearsight.handlers.explain.algorithms.xrai.regions import Regions

__all__ = ["MIN_NEW_PIXELS", "xrai_map"]

MIN_NEW_PIXELS = 50
"""A region that adds fewer pixels is skipped."""

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int32]


def xrai_map(
    base_map_PP: npt.NDArray[np.floating], regions: Regions, fast: bool = True, min_new_pixels: int = MIN_NEW_PIXELS
) -> npt.NDArray[np.float32]:
    """Rank `regions` by the attribution of their pixels: float32 (P, P), signed.

    `fast` sorts the regions once, by their mean over all their pixels; otherwise each round takes the region whose
    pixels not covered yet have the largest mean, the first one on ties. Pixels that no region covers get their own
    mean.
    """
    base_N = base_map_PP.astype(np.float64).ravel()
    if len(base_N) != regions.num_pixels:
        raise ValueError(f"regions of {regions.num_pixels} pixels need such a map, but got one of {base_map_PP.shape}")
    out_N = np.empty_like(base_N)
    open_N = np.ones(len(base_N), bool)
    for pixels in (_fast if fast else _full)(base_N, regions, open_N, min_new_pixels):
        out_N[pixels] = base_N[pixels].mean()
        open_N[pixels] = False
    if open_N.any():
        out_N[open_N] = base_N[open_N].mean()
    return out_N.reshape(base_map_PP.shape).astype(np.float32)


def _fast(base_N: Floats, regions: Regions, open_N: npt.NDArray[np.bool_], min_new_pixels: int) -> Iterator[Pixels]:
    """Yield the new pixels of each ranked region, sorted by the mean over the whole region. The caller covers them."""
    means_R = np.add.reduceat(base_N[regions.members_M], regions.starts_R) / regions.count()
    for region in np.argsort(-means_R, kind="stable"):
        members = regions.members_of(region)
        pixels = members[open_N[members]]
        if len(pixels) >= min_new_pixels:
            yield pixels


def _full(base_N: Floats, regions: Regions, open_N: npt.NDArray[np.bool_], min_new_pixels: int) -> Iterator[Pixels]:
    """Yield the new pixels of the best remaining region, until none adds enough. The caller covers them.

    Counts and sums of open pixels are kept per region: a taken pixel is subtracted once from the regions that hold it.
    """
    counts_R = regions.count()
    sums_R = np.add.reduceat(base_N[regions.members_M], regions.starts_R)
    owners_M, owner_starts_N = _owners(regions)
    num_regions = len(counts_R)
    while True:
        large_R = counts_R >= min_new_pixels
        if not large_R.any():
            return
        means_R = np.full(num_regions, -np.inf)
        np.divide(sums_R, counts_R, out=means_R, where=large_R)
        members = regions.members_of(int(means_R.argmax()))
        pixels = members[open_N[members]]
        yield pixels
        lengths = owner_starts_N[pixels + 1] - owner_starts_N[pixels]
        ends = np.cumsum(lengths)
        entries = np.arange(ends[-1]) + np.repeat(owner_starts_N[pixels] - ends + lengths, lengths)
        owners = owners_M[entries]
        counts_R = counts_R - np.bincount(owners, minlength=num_regions)
        sums_R = sums_R - np.bincount(owners, np.repeat(base_N[pixels], lengths), num_regions)


def _owners(regions: Regions) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The regions of each pixel, one pixel after the other, and where each pixel's start (one more at the end)."""
    region_M = np.repeat(np.arange(len(regions.starts_R), dtype=np.int32), regions.count())
    members_M = regions.members_M
    if regions.num_pixels <= 2**16:
        members_M = members_M.astype(np.uint16)  # sorted by radix, several times as fast
    order = np.argsort(members_M, kind="stable")
    counts_N = np.bincount(regions.members_M, minlength=regions.num_pixels)
    return region_M[order], np.concatenate(([0], np.cumsum(counts_N)))
