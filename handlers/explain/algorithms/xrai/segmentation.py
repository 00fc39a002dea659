"""Six divisions of an image into segments, from fine to coarse: the candidates that XRAI ranks.

Felzenszwalb and Huttenlocher's graph segmentation as scikit-image has it, on an image of 224 pixels a side, with the
scales of PAIR-code's `saliency` 0.2.1.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.errors import BadRequest

__all__ = ["SCALES", "Labels", "segment"]

SCALES: Final = (50, 100, 150, 250, 500, 1200)
"""scikit-image divides them by 255."""

_SIGMA: Final = 0.8
_MIN_SIZE: Final = 150
_SIDE: Final = 224

Labels = npt.NDArray[np.int32]


def segment(x_3PP: npt.NDArray[np.float32], num_threads: int = 1) -> Labels:
    """Segment the network's input once per scale: int32 (6, P, P), numbered from 0 in each map.

    The result is the same for any number of threads. An image of one colour is one segment. Raises `BadRequest`
    where scikit-image is not installed.
    """
    try:
        from scipy.ndimage import gaussian_filter
        from skimage.transform import resize
    except ModuleNotFoundError as error:
        raise BadRequest(
            "'xrai' needs the extra explain on the server: pip install 'clearsight[explain]'; or ask for another "
            "'xai_algorithm'"
        ) from error
    size = x_3PP.shape[1:]
    low, high = x_3PP.min(), x_3PP.max()
    if low == high:
        return np.zeros((len(SCALES), *size), np.int32)
    # In float32 and in this order, as the reference does it: segments depend on the last bit.
    image_PP3 = np.ascontiguousarray(x_3PP.transpose(1, 2, 0))
    image_PP3 = (image_PP3 - low) / (high - low) * 2.0 - 1.0
    at_224 = size == (_SIDE, _SIDE)
    if not at_224:
        cubic = partial(resize, order=3, mode="constant", preserve_range=True, anti_aliasing=True)
        image_PP3 = cubic(image_PP3, (_SIDE, _SIDE))
    # Once for all scales; scikit-image would do the same for each.
    smooth_PP3 = gaussian_filter(image_PP3.astype(np.float64), (_SIGMA, _SIGMA, 0))
    if num_threads == 1:
        maps = [_labels(smooth_PP3, scale) for scale in SCALES]
    else:
        with ThreadPoolExecutor(min(num_threads, len(SCALES)), "segment") as pool:
            maps = list(pool.map(partial(_labels, smooth_PP3), SCALES))
    if not at_224:
        nearest = partial(resize, order=0, mode="constant", preserve_range=True, anti_aliasing=False)
        maps = [nearest(labels, size) for labels in maps]
    return np.stack(maps).astype(np.int32)


def _labels(smooth_PP3: npt.NDArray[np.float64], scale: int) -> npt.NDArray[np.int64]:
    from skimage.segmentation import felzenszwalb

    labels: npt.NDArray[np.int64] = felzenszwalb(smooth_PP3, scale=scale, sigma=0, min_size=_MIN_SIZE)
    return labels
