"""Whether heat lies on the object, for images in which its place is known: pointing game and mass in object.

Both say where the *model* looks, which need not be the object: read them beside the scores of a random map.

Shapes in names: H height and W width of heat map and mask.
"""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["grow", "mass_inside", "pointing_score", "tolerance_px"]

Mask = npt.NDArray[np.bool_]
Heat = npt.NDArray[np.floating]

_TOLERANCE_SHARE: Final = 1 / 16
"""Of the image's side: 14 pixels of 224. The pointing game allows 15 in larger images (arXiv 1608.00507)."""


def tolerance_px(side: int) -> int:
    """How far beside the object the strongest pixel may lie in an image of `side` pixels."""
    return round(_TOLERANCE_SHARE * side)


def grow(mask_HW: Mask, radius_px: float) -> Mask:
    """Every pixel at most `radius_px` from a pixel of the mask; an empty mask stays empty."""
    if not mask_HW.any():
        return mask_HW.copy()
    away_HW = cv2.distanceTransform((~mask_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    grown_HW: Mask = away_HW <= radius_px
    return grown_HW


def pointing_score(heat_HW: Heat, mask_HW: Mask) -> float:
    """1 where the strongest pixel lies in the mask, 0 where not (arXiv 1608.00507).

    Of several equally strong ones, the share that lies in it: what a draw among them would score on average. A map of
    one value thus scores the mask's share of the image.
    """
    return float(mask_HW[heat_HW == heat_HW.max()].mean())


def mass_inside(heat_HW: Heat, mask_HW: Mask) -> float:
    """Share of the positive heat that lies in the mask; 0 for a map without positive heat."""
    positive_HW = np.clip(heat_HW.astype(np.float64), 0, None)
    total = float(positive_HW.sum())
    return float(positive_HW[mask_HW].sum()) / total if total > 0 else 0.0
