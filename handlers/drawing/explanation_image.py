"""An attribution drawn as an image: crop, heat map, heat over the crop, and the strongest 30 % of the crop.

OpenCV and numpy only: a plotting library would take a second to import and ten times as long to draw.

Shapes in names: H height and W width of the heat map, equal (P) for classifiers; C colour channel.
"""

from functools import lru_cache
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["ImageKind", "bgyw", "explanation_image", "heat_map"]

ImageKind = Literal["grid", "overlay", "heatmap"]

Bytes = npt.NDArray[np.uint8]

_HOT: Final = 99.0  # percentile that gets the highest colour, so that single pixels do not set the scale
_KEPT: Final = 70.0  # percentile from which on the crop is shown
_PNG: Final = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
"""13.6 ms for 448 x 448 pixels and the smallest file of OpenCV's strategies; the same settings of Pillow take 17 ms."""


def heat_map(attribution: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """One number per pixel: a map (H, W) as it is, signed; of colour channels (3, H, W) the sum of absolute values."""
    if attribution.ndim == 2:
        return attribution.astype(np.float64)
    heat_HW: npt.NDArray[np.float64] = np.abs(attribution).sum(axis=0, dtype=np.float64)
    return heat_HW


def explanation_image(attribution: npt.NDArray[np.floating], crop_HWC: Bytes, kind: ImageKind = "grid") -> bytes:
    """Draw an attribution (3, H, W), or a signed map (H, W) such as XRAI's, over its crop, uint8 (H, W, 3): a PNG.

    `grid` is two by two images, (2H, 2W): crop and heat above, heat over grey crop and strongest 30 % of the crop
    below. `overlay` and `heatmap` are one of them alone. A constant map gets the lowest colour. Pixels that tie with
    the weakest one shown are shown too, so that plateaus are not cut.
    """
    heat_HW = heat_map(attribution)
    if crop_HWC.dtype != np.uint8 or crop_HWC.shape != (*heat_HW.shape, 3):
        raise ValueError(
            f"a map of shape {heat_HW.shape} needs a uint8 crop of that size, but got {crop_HWC.dtype} {crop_HWC.shape}"
        )
    kept, hot = np.percentile(heat_HW, (_KEPT, _HOT))
    colours_HWC = _colours(heat_HW, float(hot))
    if kind == "heatmap":
        return _to_png(colours_HWC)
    overlay_HWC = _overlay(colours_HWC, crop_HWC)
    if kind == "overlay":
        return _to_png(overlay_HWC)
    strongest_HWC = crop_HWC * (heat_HW >= kept)[:, :, None]
    above, below = np.hstack((crop_HWC, colours_HWC)), np.hstack((overlay_HWC, strongest_HWC))
    return _to_png(np.vstack((above, below)))


def _colours(heat_HW: npt.NDArray[np.float64], hot: float) -> Bytes:
    cold = heat_HW.min()
    if hot <= cold:
        levels_HW = np.zeros(heat_HW.shape, np.uint8)
    else:
        unit_HW = np.clip((heat_HW - cold) / (hot - cold), 0.0, 1.0)
        levels_HW = (255.0 * unit_HW + 0.5).astype(np.uint8)
    return bgyw()[levels_HW]


def _overlay(colours_HWC: Bytes, crop_HWC: Bytes) -> Bytes:
    """Half the heat, half the mean of the crop's three channels, rounded up at a half."""
    sums_HW = crop_HWC.sum(axis=2, dtype=np.uint16)
    overlay_HWC: Bytes = ((sums_HW[:, :, None] + np.uint16(3) * colours_HWC + np.uint16(3)) // np.uint16(6)).astype(
        np.uint8
    )
    return overlay_HWC


def _to_png(image_HWC: Bytes) -> bytes:
    _, png = cv2.imencode(".png", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), _PNG)
    return png.tobytes()


_SUPPORT: Final = (
    (0, 26, 0, 133), (7, 26, 2, 146), (26, 26, 21, 178), (41, 27, 37, 199), (56, 29, 55, 213), (67, 32, 71, 214),
    (73, 32, 81, 207), (83, 33, 101, 178), (96, 46, 120, 142), (115, 62, 142, 91), (129, 76, 156, 62),
    (142, 94, 168, 43), (158, 124, 181, 25), (173, 155, 191, 22), (186, 182, 200, 30), (201, 210, 210, 46),
    (210, 224, 217, 60), (222, 237, 227, 86), (232, 241, 238, 121), (240, 246, 245, 159), (248, 251, 250, 206),
    (255, 254, 255, 255),
)  # fmt: skip
"""(entry, red, green, blue) of colorcet's `linear_bgyw_15_100_c68` by Peter Kovesi (CC-BY-4.0, see NOTICE).

These are 22 of its 256 entries; linear interpolation between them gives the others to within two levels.
"""


@lru_cache(maxsize=1)
def bgyw() -> npt.NDArray[np.uint8]:
    """The colour scale "bgyw": uint8 (256, 3), RGB, read-only. Blue is lowest, then green, yellow; white is highest."""
    support = np.array(_SUPPORT, np.float64)
    entries = np.arange(256)
    colours = [np.rint(np.interp(entries, support[:, 0], channel)) for channel in support[:, 1:].T]
    scale_256C = np.stack(colours, axis=1).astype(np.uint8)
    scale_256C.setflags(write=False)
    return scale_256C
