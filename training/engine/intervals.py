"""95 % intervals of validation metrics: how much they may owe to the choice of the validation images."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

__all__ = ["MAX_IMAGES", "Positions", "exact_interval", "metric_intervals"]

Positions = npt.NDArray[np.int64]

MAX_IMAGES: Final = 1000
"""Largest number of validation images whose metrics get intervals by resampling."""

_NUM_RESAMPLES: Final = 1000


def metric_intervals(
    measure: Callable[[Positions], Mapping[str, float]], num_images: int, seed: int = 0
) -> dict[str, list[float]]:
    """95 % interval of every metric, low and high: the percentile bootstrap over images.

    `measure` computes the metrics of the images at the given positions, (N,) below `num_images` (at least 1), where a
    position may stand several times. A metric that is undefined in a resample has its interval from the others.

    Of a metric that is the same in every resample the bootstrap knows nothing. If it is 0 or 1, such as that of a
    network that makes no error, the interval is the exact one of a share of images that is 0 or 1 (`exact_interval`);
    else there is none. Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    random = np.random.default_rng(seed)
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(_NUM_RESAMPLES):
        for name, value in measure(random.integers(num_images, size=num_images)).items():
            samples[name].append(value)
    intervals = {}
    for name, values in samples.items():
        low, high = np.percentile(values, [2.5, 97.5]).tolist()
        if min(values) < max(values):
            intervals[name] = [low, high]
        elif low in (0.0, 1.0):
            intervals[name] = exact_interval(low, num_images)
    return intervals


def exact_interval(share: float, num_images: int) -> list[float]:
    """Exact 95 % interval of Clopper and Pearson, low and high, of a share of `num_images` images, such as an accuracy.

    It holds for images that took no part in training nor in the choice of the best pass.
    https://doi.org/10.1093/biomet/26.4.404
    """
    interval = binomtest(round(share * num_images), num_images).proportion_ci(0.95, method="exact")
    return [float(interval.low), float(interval.high)]
