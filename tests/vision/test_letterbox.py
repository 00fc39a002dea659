import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from clearsight.vision.boxes import to_unit_boxes
from clearsight.vision.letterbox import letterbox, place, shorter_side

sides = st.integers(1, 12_000)


@pytest.mark.parametrize(
    ("size_wh", "inner_wh", "left_right", "top_bottom"),
    [
        ((499, 666), (480, 640), (80, 80), (0, 0)),
        ((320, 240), (320, 240), (160, 160), (200, 200)),  # never enlarged
        ((641, 480), (640, 479), (0, 0), (80, 81)),  # the odd row goes to the bottom
        ((640, 640), (640, 640), (0, 0), (0, 0)),
        ((1, 1), (1, 1), (319, 320), (319, 320)),
        ((100_000, 3), (640, 1), (0, 0), (319, 320)),
    ],
)
def test_letterbox_by_hand(size_wh, inner_wh, left_right, top_bottom):
    placement = letterbox(size_wh[1], size_wh[0], 640)
    assert (placement.inner_width, placement.inner_height) == inner_wh
    assert (placement.left, 640 - placement.left - placement.inner_width) == left_right
    assert (placement.top, 640 - placement.top - placement.inner_height) == top_bottom
    assert (placement.canvas_width, placement.canvas_height) == (640, 640)


@pytest.mark.parametrize(
    ("size_wh", "new_wh"),
    [((499, 666), (600, 801)), ((1280, 720), (1067, 600)), ((4000, 1000), (1333, 333)), ((600, 600), (600, 600))],
)
def test_shorter_side_by_hand(size_wh, new_wh):
    placement = shorter_side(size_wh[1], size_wh[0], 600, 1333)
    assert (placement.inner_width, placement.inner_height) == new_wh
    assert (placement.canvas_width, placement.canvas_height) == new_wh
    assert (placement.left, placement.top) == (0, 0)


def test_a_box_of_the_letterboxed_input_becomes_fractions_of_the_image():
    placement = letterbox(666, 499, 640)
    found = to_unit_boxes(placement.to_image(np.array([[200, 64, 440, 512]], np.float64)), 666, 499)
    np.testing.assert_allclose(found, [[0.25, 0.1, 0.75, 0.8]], atol=1e-12)


def test_no_boxes_stay_none():
    empty = np.zeros((0, 4), np.float32)
    assert letterbox(10, 20, 64).to_image(empty).shape == (0, 4)
    assert shorter_side(10, 20, 64, 90).to_canvas(empty).shape == (0, 4)


def test_boxes_on_the_grey_are_clipped_to_the_image():
    placement = letterbox(240, 320, 640)
    found = placement.to_image(np.array([[0, 0, 640, 640], [0, 0, 100, 100]], np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0, 320, 240], [0, 0, 0, 0]]


@hypothesis_settings(deadline=None, max_examples=100)
@given(sides, sides, st.integers(1, 1333))
def test_the_letterboxed_image_lies_in_the_middle_of_its_canvas(height, width, size):
    placement = letterbox(height, width, size)
    right = size - placement.left - placement.inner_width
    bottom = size - placement.top - placement.inner_height
    assert 0 <= placement.left <= right <= placement.left + 1
    assert 0 <= placement.top <= bottom <= placement.top + 1
    assert max(placement.inner_height, placement.inner_width) == min(size, max(height, width))


@hypothesis_settings(deadline=None, max_examples=100)
@given(sides, sides, st.integers(1, 900), st.integers(900, 2000))
def test_one_of_the_two_limits_is_met_and_none_exceeded(height, width, min_size, max_size):
    placement = shorter_side(height, width, min_size, max_size)
    shorter, longer = sorted((placement.inner_height, placement.inner_width))
    assert shorter <= min_size
    assert longer <= max_size
    assert shorter == min_size or longer == max_size


@hypothesis_settings(deadline=None, max_examples=100)
@given(sides, sides, st.data())
def test_to_the_canvas_and_back_is_the_identity(height, width, data):
    placement = data.draw(st.sampled_from([letterbox(height, width, 640), shorter_side(height, width, 600, 1333)]))
    corners = np.array(data.draw(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=2)))
    corners.sort(axis=0)
    boxes = (corners * [width, height]).reshape(1, 4)
    np.testing.assert_allclose(placement.to_image(placement.to_canvas(boxes)), boxes, rtol=1e-9, atol=1e-6)


def test_the_image_stands_on_grey():
    image = np.full((240, 320, 3), (9, 8, 7), np.uint8)
    canvas = place(image, letterbox(240, 320, 640))
    assert canvas.shape == (640, 640, 3)
    assert (canvas[200:440, 160:480] == (9, 8, 7)).all()
    canvas[200:440, 160:480] = 114
    assert (canvas == 114).all()


def test_resizing_is_torchs_bilinear_to_a_grey_level():
    import torch

    image = np.random.default_rng(0).integers(0, 256, (47, 61, 3), dtype=np.uint8)
    for placement in (shorter_side(47, 61, 90, 200), shorter_side(47, 61, 20, 200), letterbox(47, 61, 32)):
        size = (placement.inner_height, placement.inner_width)
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        expected = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)[0]
        rows = slice(placement.top, placement.top + size[0])
        columns = slice(placement.left, placement.left + size[1])
        found = place(image, placement)[rows, columns].astype(np.float32)
        assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() <= 1


def test_an_image_that_fits_is_not_copied():
    image = np.zeros((64, 64, 3), np.uint8)
    assert place(image, letterbox(64, 64, 64)) is image


def test_another_image_than_the_placement_is_for_is_refused():
    with pytest.raises(ValueError, match="must be 10 x 20, but is 20 x 10"):
        place(np.zeros((20, 10, 3), np.uint8), letterbox(10, 20, 64))
