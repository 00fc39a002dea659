"""How much the model's probability depends on the pixels that an explanation ranks highest: deletion and insertion.

Deletion blurs the highest pixels first and records how the probability falls; insertion starts from the blurred image
and restores them (Petsiuk et al., arXiv 1806.07421). An explanation whose deletion score is not below that of a
random order should not be trusted.

Shapes in names: K explained labels, N images of a batch, H and W of a heat map, P side of the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.telemetry import checkpoint

__all__ = ["FRACTIONS", "Faithfulness", "blur_width", "measure_faithfulness"]

FRACTIONS: Final = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Shares of the pixels that are changed, one per step."""

_BLUR_WIDTH: Final = 17  # pixels, at an image side of 64
_SEED: Final = 0

Floats = npt.NDArray[np.float32]
Order = npt.NDArray[np.intp]
Probabilities = Callable[[Floats], npt.NDArray[np.floating]]
"""points (N, 3, P, P) -> the probability of every class, (N, number of classes)."""


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Areas under the curve of the probability over the fraction of changed pixels. In [0, 1]."""

    deletion_auc: float
    """Lower is better."""
    insertion_auc: float
    """Higher is better."""
    random_deletion_auc: float
    """Deletion by one random order of pixels, the same for every explanation."""


def measure_faithfulness(
    heat_maps: Sequence[npt.NDArray[np.floating]],
    class_ids: Sequence[int],
    x_3PP: Floats,
    probabilities: Probabilities,
    deadline: Deadline,
) -> list[Faithfulness | None]:
    """Measure each label's map (P, P) on the network's input: two batches of ten images per label, one for all.

    Pixels of equal heat keep their order in the image. `None` for labels for which the deadline leaves no time.
    """
    width = blur_width(x_3PP.shape[-1])
    blurred_3PP = np.stack([cv2.blur(plane_PP, (width, width)) for plane_PP in x_3PP])
    scores: list[Faithfulness | None] = [None] * len(heat_maps)
    if not heat_maps or deadline.is_over():
        return scores
    random_order: Order = np.random.default_rng(_SEED).permutation(x_3PP[0].size)
    start_s = deadline.elapsed_s()
    random_NK = probabilities(_mixtures(x_3PP, blurred_3PP, random_order))
    batch_s = deadline.elapsed_s() - start_s
    for index, (heat_PP, class_id) in enumerate(zip(heat_maps, class_ids, strict=True)):
        checkpoint()
        if deadline.is_over() or deadline.remaining_s() < 2 * batch_s:
            break
        order: Order = np.argsort(-heat_PP, axis=None, kind="stable")
        deleted_NK = probabilities(_mixtures(x_3PP, blurred_3PP, order))
        inserted_NK = probabilities(_mixtures(blurred_3PP, x_3PP, order))
        scores[index] = Faithfulness(*(_area(NK[:, class_id]) for NK in (deleted_NK, inserted_NK, random_NK)))
    return scores


def blur_width(side: int) -> int:
    """Side of the box blur, odd, in pixels: 17 at an image of 64, in proportion at others."""
    return 2 * (_BLUR_WIDTH * side // (2 * 64)) + 1


def _mixtures(from_3PP: Floats, to_3PP: Floats, order: Order) -> Floats:
    """Images in which the first pixels of `order` are replaced, one for each fraction: (N, 3, P, P)."""
    mixed = np.repeat(from_3PP.reshape(1, 3, -1), len(FRACTIONS), axis=0)
    source = to_3PP.reshape(3, -1)
    for image, fraction in zip(mixed, FRACTIONS, strict=True):
        changed = order[: round(fraction * len(order))]
        image[:, changed] = source[:, changed]
    return mixed.reshape(-1, *from_3PP.shape)


def _area(probabilities_N: npt.NDArray[np.floating]) -> float:
    return float(np.trapezoid(probabilities_N.astype(np.float64), FRACTIONS))
