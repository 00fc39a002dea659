"""95 % intervals of validation metrics, against their definition and SciPy's bootstrap."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from clearsight.training.classification.metrics import image_ious
from clearsight.training.engine.intervals import exact_interval, metric_intervals


def test_the_interval_of_a_share_is_that_of_its_definition() -> None:
    """Clopper and Pearson: at the ends of the interval, as many right answers or more, or fewer, have 2.5 %."""
    assert exact_interval(1.0, 14) == pytest.approx([0.025 ** (1 / 14), 1.0])
    assert exact_interval(0.0, 66) == pytest.approx([0.0, 1 - 0.025 ** (1 / 66)])
    for right, num_images in ((1, 2), (12, 14), (58, 66), (500, 1000)):
        low, high = exact_interval(right / num_images, num_images)

        def tail(share: float, counts: range, n: int = num_images) -> float:
            return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in counts)

        assert tail(low, range(right, num_images + 1)) == pytest.approx(0.025)
        assert tail(high, range(right + 1)) == pytest.approx(0.025)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_those_of_scipys_bootstrap(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, (60, 3))
    probs = np.clip(truth * 0.6 + random.uniform(0, 0.6, truth.shape), 0, 1)
    iou_N = image_ious(truth, (probs >= 0.5).astype(int))
    found = metric_intervals(lambda positions: {"iou": float(iou_N[positions].mean())}, len(iou_N))
    expected = bootstrap((iou_N,), np.mean, method="percentile", n_resamples=5000, rng=seed).confidence_interval
    assert found["iou"] == pytest.approx(list(expected), abs=0.015)


def test_a_metric_without_any_error_has_the_interval_of_a_share() -> None:
    found = metric_intervals(lambda positions: {"perfect": 1.0, "none": 0.0, "constant": 0.3}, 14)
    assert found == {"perfect": exact_interval(1.0, 14), "none": exact_interval(0.0, 14)}


def test_resamples_in_which_a_metric_is_undefined_do_not_count() -> None:
    def measure(positions: np.ndarray) -> dict[str, float]:
        share = float(np.mean(positions == 0))
        return {"share": share} if share else {}

    low, high = metric_intervals(measure, 4)["share"]
    assert (low, high) == (0.25, 0.75)  # 1, 2, 3 or 4 of 4: the last in 1 of 175 of those that count
