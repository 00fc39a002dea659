"""The fit of anchors to a data set, and the search for better ones."""

import numpy as np
import pytest

from clearsight.networks.families.yolov5.anchors import DEFAULT_ANCHORS, autofit_anchors, best_possible_recall


def random() -> np.random.Generator:
    return np.random.default_rng(3)


def clusters(centres_wh: list[tuple[float, float]], each: int) -> np.ndarray:
    """Boxes around given sizes, within 5 %."""
    sizes = np.repeat(np.array(centres_wh, np.float32), each, axis=0)
    return (sizes * random().uniform(0.95, 1.05, sizes.shape)).astype(np.float32)


def test_without_boxes_anchors_stay() -> None:
    check = autofit_anchors(np.zeros((0, 2), np.float32), DEFAULT_ANCHORS, random())
    assert not check.changed
    assert check.recall == check.recall_before == 1
    assert (check.anchors_wh_LA2 == DEFAULT_ANCHORS).all()


def test_recall_is_the_share_of_boxes_within_a_factor_of_four_of_an_anchor() -> None:
    anchors = np.array([[[10, 10]], [[100, 100]]], np.float32)
    sizes = np.array([[10, 10], [39, 39], [41, 10], [399, 100], [401, 100], [2.4, 10], [2.6, 10]], np.float32)
    # 41 x 10 is too wide for one anchor and too flat for the other.
    assert best_possible_recall(sizes, anchors) == pytest.approx(4 / 7)


def test_anchors_that_fit_are_kept() -> None:
    check = autofit_anchors(clusters([(12, 14), (60, 60), (300, 200)], 30), DEFAULT_ANCHORS, random())
    assert not check.changed
    assert check.recall == 1


def test_boxes_no_anchor_fits_get_anchors_of_their_own() -> None:
    """Nine far-apart flat shapes, 20:1: none is within reach of the published anchors."""
    centres = [(40.0 * 1.5**step, 2.0 * 1.5**step) for step in range(9)]
    sizes = clusters(centres, 40)
    check = autofit_anchors(sizes, DEFAULT_ANCHORS, random())
    assert check.changed
    assert check.recall_before < 0.5
    assert check.recall == 1
    assert check.anchors_wh_LA2.shape == (3, 3, 2)
    assert check.anchors_wh_LA2.dtype == np.float32
    areas = check.anchors_wh_LA2.prod(axis=2).ravel()
    assert (np.diff(areas) >= 0).all()
    # Each shape has an anchor near it: far nearer than the factor of four that counts as a fit.
    ratios = sizes[:, None] / check.anchors_wh_LA2.reshape(1, -1, 2)
    assert np.minimum(ratios, 1 / ratios).min(axis=2).max(axis=1).mean() > 0.7


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_boxes_than_anchors_are_enough(count: int) -> None:
    sizes = np.array([[400, 12], [12, 400], [300, 9]], np.float32)[:count]
    check = autofit_anchors(sizes, DEFAULT_ANCHORS, random())
    assert check.changed
    assert check.recall == 1
    assert np.isfinite(check.anchors_wh_LA2).all()


def test_boxes_without_area_and_below_two_pixels_are_no_reason_to_change() -> None:
    sizes = np.array([[0, 5], [0.5, 0.5], [1, 1.5]], np.float32)
    check = autofit_anchors(sizes, DEFAULT_ANCHORS, random())
    assert not check.changed
    assert (check.anchors_wh_LA2 == DEFAULT_ANCHORS).all()


def test_equal_seeds_find_equal_anchors() -> None:
    sizes = clusters([(400, 12), (200, 6), (12, 400)], 10)
    first, second = (autofit_anchors(sizes, DEFAULT_ANCHORS, random()) for _ in range(2))
    assert (first.anchors_wh_LA2 == second.anchors_wh_LA2).all()
