"""The colour scale "bgyw" of explanation images: blue is lowest, then green, yellow, and white is highest.

Colours of colorcet's `linear_bgyw_15_100_c68` by Peter Kovesi (CC-BY-4.0, see NOTICE), from 22 of its 256 entries: the
others lie on straight lines between them, to within two levels.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["bgyw"]

_SUPPORT: Final = (
    (0, 26, 0, 133), (7, 26, 2, 146), (26, 26, 21, 178), (41, 27, 37, 199), (56, 29, 55, 213), (67, 32, 71, 214),
    (73, 32, 81, 207), (83, 33, 101, 178), (96, 46, 120, 142), (115, 62, 142, 91), (129, 76, 156, 62),
    (142, 94, 168, 43), (158, 124, 181, 25), (173, 155, 191, 22), (186, 182, 200, 30), (201, 210, 210, 46),
    (210, 224, 217, 60), (222, 237, 227, 86), (232, 241, 238, 121), (240, 246, 245, 159), (248, 251, 250, 206),
    (255, 254, 255, 255),
)  # fmt: skip
"""Entry, red, green, blue."""


@lru_cache(maxsize=1)
def bgyw() -> npt.NDArray[np.uint8]:
    """The scale, uint8 (256, 3), RGB; read-only."""
    support = np.array(_SUPPORT, np.float64)
    entries = np.arange(256)
    colours = [np.rint(np.interp(entries, support[:, 0], channel)) for channel in support[:, 1:].T]
    scale_256C = np.stack(colours, axis=1).astype(np.uint8)
    scale_256C.setflags(write=False)
    return scale_256C
