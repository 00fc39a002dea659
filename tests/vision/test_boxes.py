import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from clearsight.vision.boxes import (
    box_areas,
    clip_boxes,
    has_area,
    iou_matrix,
    shift_boxes,
    to_pixel_boxes,
    to_unit_boxes,
)

EMPTY = np.zeros((0, 4), np.float32)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


@st.composite
def box_arrays(draw, max_boxes: int = 8) -> np.ndarray:
    """(N, 4) of whole pixels, some without an area: their arithmetic is exact."""
    corners = draw(st_numpy.arrays(np.int64, (draw(st.integers(0, max_boxes)), 2, 2), elements=st.integers(0, 40)))
    corners.sort(axis=1)
    return corners.reshape(-1, 4).astype(np.float64)


def test_no_boxes_give_no_rows_and_no_columns():
    assert iou_matrix(EMPTY, EMPTY).shape == (0, 0)
    assert iou_matrix(EMPTY, boxes((0, 0, 1, 1))).shape == (0, 1)
    assert iou_matrix(boxes((0, 0, 1, 1)), EMPTY).shape == (1, 0)
    assert box_areas(EMPTY).shape == has_area(EMPTY).shape == (0,)
    for result in (clip_boxes(EMPTY, 5, 5), shift_boxes(EMPTY, 1, 2), to_unit_boxes(EMPTY, 5, 5)):
        assert result.shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "other", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),  # they touch
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((480, 100, 512, 160), (480, 100, 540, 160), 32 / 60),  # a tile's border cuts the object
        ((502, 100, 512, 160), (502, 100, 540, 160), 10 / 38),
        ((2, 2, 4, 4), (0, 0, 10, 10), 4 / 100),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0),  # no area
        ((5, 5, 2, 2), (0, 0, 10, 10), 0),  # right < left
    ],
)
def test_iou_by_hand(box, other, iou):
    assert iou_matrix(boxes(box), boxes(other))[0, 0] == pytest.approx(iou, abs=1e-15)


def test_nan_overlaps_nothing_for_sure():
    assert np.isnan(iou_matrix(boxes((0, 0, np.nan, 10)), boxes((0, 0, 10, 10)))).all()
    assert has_area(boxes((0, 0, np.nan, 10), (0, 0, 1, 1))).tolist() == [False, True]


def test_iou_keeps_the_precision_and_equals_torchvisions():
    import torch
    from torchvision.ops import box_iou

    random = np.random.default_rng(1)
    corners = random.uniform(0, 600, (300, 2, 2)).astype(np.float32)
    corners.sort(axis=1)
    first, second = corners.reshape(-1, 4)[:200], corners.reshape(-1, 4)[200:]
    found = iou_matrix(first, second)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy(), atol=1e-6)


@hypothesis_settings(deadline=None, max_examples=60)
@given(box_arrays(), box_arrays(), st.integers(-50, 50), st.integers(-50, 50), st.sampled_from([0.25, 2.0, 8.0]))
def test_iou_is_symmetric_and_does_not_change_with_place_or_scale(first, second, left, top, scale):
    before = first.copy()
    found = iou_matrix(first, second)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.array_equal(found, iou_matrix(second, first).T)
    assert np.array_equal(found, iou_matrix(shift_boxes(first, left, top), shift_boxes(second, left, top)))
    assert np.array_equal(found, iou_matrix(first * scale, second * scale))
    assert np.array_equal(first, before)


def test_clipping_leaves_what_is_inside():
    found = clip_boxes(boxes((-5, -5, 5, 5), (90, 40, 110, 60), (200, 0, 300, 10), (1, 2, 3, 4)), 50, 100)
    assert found.tolist() == [[0, 0, 5, 5], [90, 40, 100, 50], [100, 0, 100, 10], [1, 2, 3, 4]]
    assert has_area(found).tolist() == [True, True, False, True]


def test_answers_hold_fractions_of_the_image():
    # Pixel box (2, 1)-(6, 3) of an image of 8 x 4, and the tile example of 1280 x 720.
    assert to_unit_boxes(boxes((2, 1, 6, 3)), 4, 8).tolist() == [[0.25, 0.25, 0.75, 0.75]]
    found = to_unit_boxes(np.array([[480, 100, 540, 160]], np.float32), 720, 1280)
    np.testing.assert_allclose(found, [[0.375, 0.138889, 0.421875, 0.222222]], atol=5e-7)
    assert to_unit_boxes(boxes((-3, -3, 9, 9)), 4, 8).tolist() == [[0, 0, 1, 1]]


@hypothesis_settings(deadline=None, max_examples=60)
@given(box_arrays(), st.integers(40, 10_000), st.integers(40, 10_000))
def test_pixels_to_fractions_and_back_is_the_identity(pixels, height, width):
    back = to_pixel_boxes(to_unit_boxes(pixels, height, width), height, width)
    np.testing.assert_allclose(back, pixels, rtol=1e-12, atol=1e-9)
