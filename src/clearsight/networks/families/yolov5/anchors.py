"""The nine anchors: the published ones, their fit to a data set's boxes, and better ones if they do not fit.

Shapes in names: M boxes, L levels, A anchors of a level. Sizes are width and height in pixels of the network's input.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["DEFAULT_ANCHORS", "AnchorCheck", "autofit_anchors", "best_possible_recall"]

Floats = npt.NDArray[np.float32]

DEFAULT_ANCHORS: Final[Floats] = np.array(
    [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]], np.float32
)
"""(L, A, 2), found by k-means on COCO at 640 pixels."""

_RATIO_LIMIT: Final = 4.0
_GOOD_RECALL: Final = 0.98
_JITTER: Final = 0.1
_SMALLEST_SIDE: Final = 2.0
_KMEANS_STEPS: Final = 30
_MUTATIONS: Final = 1000
_MUTATION_RATE: Final = 0.9
_MUTATION_SIGMA: Final = 0.1
# The mutations take 1.3 s on 2 000 boxes and grow with them; more boxes say little more about nine centres.
_MOST_BOXES: Final = 10_000


@dataclass(frozen=True, slots=True)
class AnchorCheck:
    """Anchors to train with, and why."""

    anchors_wh_LA2: Floats
    recall_before: float
    """Best possible recall of the anchors that were checked; 1 without boxes."""
    recall: float
    """Best possible recall of `anchors_wh_LA2`."""
    changed: bool


def best_possible_recall(sizes_wh_M2: Floats, anchors_wh_LA2: Floats) -> float:
    """Share of boxes that at least one anchor fits within a factor of 4 on both axes; 1 without boxes."""
    if not len(sizes_wh_M2):
        return 1.0
    return float((_best_fit(sizes_wh_M2, anchors_wh_LA2.reshape(-1, 2)) > 1 / _RATIO_LIMIT).mean())


def autofit_anchors(sizes_wh_M2: Floats, anchors_wh_LA2: Floats, random: np.random.Generator) -> AnchorCheck:
    """Keep anchors that fit more than 98 % of the boxes, else search for better ones with k-means and mutation.

    `sizes_wh_M2` are the training boxes, scaled as the images will be; they are jittered by up to 10 %, as
    augmentation will do. Found anchors are taken only if more boxes fit them; they are ordered by area.
    """
    sizes_wh_M2 = sizes_wh_M2[(sizes_wh_M2 > 0).all(axis=1)].astype(np.float32)
    if len(sizes_wh_M2) > _MOST_BOXES:
        sizes_wh_M2 = random.choice(sizes_wh_M2, _MOST_BOXES, replace=False)
    jittered_M2 = sizes_wh_M2 * random.uniform(1 - _JITTER, 1 + _JITTER, (len(sizes_wh_M2), 1)).astype(np.float32)
    before = best_possible_recall(jittered_M2, anchors_wh_LA2)
    usable_M2 = sizes_wh_M2[(sizes_wh_M2 >= _SMALLEST_SIDE).all(axis=1)]
    if before > _GOOD_RECALL or not len(usable_M2):
        return AnchorCheck(anchors_wh_LA2, before, before, changed=False)
    centres = _kmeans(usable_M2, anchors_wh_LA2.size // 2, random)
    found = _by_area(_mutate(centres, usable_M2, random)).reshape(anchors_wh_LA2.shape)
    after = best_possible_recall(jittered_M2, found)
    if after <= before:
        return AnchorCheck(anchors_wh_LA2, before, before, changed=False)
    return AnchorCheck(found, before, after, changed=True)


def _best_fit(sizes_wh_M2: Floats, anchors_wh_B2: Floats) -> Floats:
    """Per box, over the anchors, the largest of the worse axis' min(ratio, 1 / ratio): 1 is a perfect fit."""
    ratios = sizes_wh_M2[:, None] / anchors_wh_B2[None]
    fits: Floats = np.minimum(ratios, 1 / ratios).min(axis=2).max(axis=1)
    return fits


def _kmeans(sizes_wh_M2: Floats, num_centres: int, random: np.random.Generator) -> Floats:
    """Lloyd's algorithm on sides in units of their standard deviation; a centre without boxes stays where it is."""
    spread = sizes_wh_M2.std(axis=0)
    spread = np.where(spread > 0, spread, 1).astype(np.float32)
    points = sizes_wh_M2 / spread
    # Fewer boxes than centres: some start equal, and mutation may separate them.
    centres = random.choice(points, num_centres, replace=len(points) < num_centres)
    for _ in range(_KMEANS_STEPS):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        counts = np.bincount(nearest, minlength=num_centres)
        for axis in range(2):
            sums = np.bincount(nearest, weights=points[:, axis], minlength=num_centres)
            centres[:, axis] = np.where(counts > 0, sums / np.maximum(counts, 1), centres[:, axis])
    return _by_area(centres * spread)


def _mutate(anchors_wh_B2: Floats, sizes_wh_M2: Floats, random: np.random.Generator) -> Floats:
    """Keep a random change whenever the mean fit, counting only the fits within the limit, grows."""

    def fitness(anchors: Floats) -> float:
        fits = _best_fit(sizes_wh_M2, anchors)
        return float((fits * (fits > 1 / _RATIO_LIMIT)).mean())

    best = fitness(anchors_wh_B2)
    for _ in range(_MUTATIONS):
        chosen = random.random(anchors_wh_B2.shape) < _MUTATION_RATE
        noise = random.random() * random.normal(0, _MUTATION_SIGMA, anchors_wh_B2.shape)
        factors = np.clip(1 + chosen * noise, 0.3, 3.0)
        mutant = np.maximum(anchors_wh_B2 * factors, _SMALLEST_SIDE).astype(np.float32)
        if (value := fitness(mutant)) > best:
            best, anchors_wh_B2 = value, mutant
    return anchors_wh_B2


def _by_area(anchors_wh_B2: Floats) -> Floats:
    ordered: Floats = anchors_wh_B2[anchors_wh_B2.prod(axis=1).argsort(kind="stable")]
    return ordered
