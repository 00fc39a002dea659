import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from clearsight.vision import masks as masks_module
from clearsight.vision.masks import CroppedMask, mask_iou, paste_mask, paste_probs

HEIGHT, WIDTH = 120, 160
BOXES = [
    (10.3, 20.7, 90.2, 77.9),
    (0, 0, 160, 120),
    (-7.5, -3.2, 40.1, 30.9),  # extends beyond the image
    (130, 90, 175.5, 140.25),
    (50.5, 60.5, 51.0, 61.2),  # smaller than a pixel
    (20, 20, 45, 33),  # smaller than the raw mask
    (70, 0, 71, 119),
    (-50, -50, -10, -10),  # outside
    (300, 10, 340, 50),
]


def raw_mask(seed: int, side: int = 28) -> np.ndarray:
    """Probabilities like those of a network: smooth, between 0 and 1."""
    noise = np.random.default_rng(seed).normal(0, 1, (side + 6, side + 6))
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-3, 4)) / np.sqrt(7)
    return (1 / (1 + np.exp(-2 * noise[3:-3, 3:-3]))).astype(np.float32)


def torchvision_pasted(probs: np.ndarray, box: tuple[float, ...], height: int, width: int) -> np.ndarray:
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    boxes = torch.tensor([box], dtype=torch.float32)
    return paste_masks_in_image(torch.from_numpy(probs)[None, None], boxes, (height, width))[0, 0].numpy()


@pytest.mark.parametrize("box", BOXES[:7])
@pytest.mark.parametrize("side", [28, 14, 1])
def test_probabilities_are_torchvisions_to_1e_5_and_outside_the_rectangle_it_has_zeros(box, side):
    probs = raw_mask(3, side)
    expected = torchvision_pasted(probs, box, HEIGHT, WIDTH)
    (left, top), found = paste_probs(probs, np.array(box, np.float32), HEIGHT, WIDTH)
    rows, columns = found.shape
    np.testing.assert_allclose(found, expected[top : top + rows, left : left + columns], atol=1e-5)
    rest = expected.copy()
    rest[top : top + rows, left : left + columns] = 0
    assert not rest.any()


@pytest.mark.parametrize("box", BOXES)
def test_a_mask_is_what_exceeds_the_threshold(box):
    probs, corners = raw_mask(5), np.array(box, np.float32)
    (left, top), expected = paste_probs(probs, corners, HEIGHT, WIDTH)
    found = paste_mask(probs, corners, HEIGHT, WIDTH, 0.5)
    assert (found.left, found.top) == (left, top)
    assert np.array_equal(found.bitmap_HW, expected > 0.5)


@pytest.mark.parametrize("box", BOXES[-2:])
def test_a_box_outside_the_image_has_an_empty_mask(box):
    mask = paste_mask(raw_mask(0), np.array(box, np.float32), HEIGHT, WIDTH, 0.5)
    assert mask.area == 0
    assert not mask.to_full_size(HEIGHT, WIDTH).any()


@pytest.mark.parametrize(("threshold", "is_set"), [(0.4999, True), (0.5, False)])
def test_a_pixel_belongs_when_its_probability_is_greater_not_equal(threshold, is_set):
    # 0.5 everywhere: bilinear weights of the inner pixels add up to 1 exactly.
    mask = paste_mask(np.full((28, 28), 0.5, np.float32), np.array([10, 10, 66, 66], np.float32), 100, 100, threshold)
    assert mask.to_full_size(100, 100)[30:50, 30:50].all() == is_set


@pytest.mark.parametrize("box", [*BOXES, (-1e6, -1e6, 1e6, 1e6)])
def test_large_masks_are_made_in_bands_and_are_the_same(box, monkeypatch):
    probs, corners = raw_mask(11), np.array(box, np.float32)
    monkeypatch.setattr(masks_module, "_LARGEST_FLOATS", 500)
    found = paste_mask(probs, corners, HEIGHT, WIDTH, 0.5)
    assert found.bitmap_HW.shape[0] <= HEIGHT
    assert found.bitmap_HW.shape[1] <= WIDTH
    if abs(box[0]) < 1e5:
        (left, top), expected = paste_probs(probs, corners, HEIGHT, WIDTH)
        assert (found.left, found.top) == (left, top)
        assert (found.bitmap_HW == (expected > 0.5))[np.abs(expected - 0.5) > 1e-5].all()


def test_a_mask_across_a_hundred_megapixels_takes_little_more_than_its_bitmap():
    import tracemalloc

    tracemalloc.start()
    try:
        mask = paste_mask(raw_mask(1), np.array([0, 0, 1e4, 1e4], np.float32), 10_000, 10_000, 0.5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert mask.bitmap_HW.shape == (10_000, 10_000)
    assert peak < 150e6


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[0:60, 0:80]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def cropped(full: np.ndarray, margin: int) -> CroppedMask:
    """The rectangle around the set pixels, a few pixels larger."""
    rows, columns = np.nonzero(full)
    if not len(rows):
        return CroppedMask(0, 0, full[:0, :0])
    top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
    return CroppedMask(int(left), int(top), full[top : rows.max() + 1 + margin, left : columns.max() + 1 + margin])


def test_iou_of_empty_masks_is_zero():
    empty = CroppedMask(3, 4, np.zeros((0, 0), np.bool_))
    assert mask_iou(empty, empty) == 0
    assert mask_iou(empty, cropped(disc(20, 20, 5), 0)) == 0
    assert mask_iou(CroppedMask(0, 0, np.zeros((5, 5), np.bool_)), CroppedMask(0, 0, np.zeros((5, 5), np.bool_))) == 0


@hypothesis_settings(deadline=None, max_examples=60)
@given(*[st.floats(0, 60)] * 4, st.floats(0, 25), st.floats(0, 25), st.integers(0, 3), st.integers(0, 40))
def test_iou_is_that_of_the_full_size_masks(row, column, other_row, other_column, radius, other_radius, margin, shift):
    full, other_full = disc(row, column, radius), disc(other_row, other_column, other_radius)
    covered = np.count_nonzero(full | other_full)
    expected = np.count_nonzero(full & other_full) / covered if covered else 0
    mask, other = cropped(full, margin), cropped(other_full, 0)
    assert mask_iou(mask, other) == pytest.approx(expected, abs=1e-15)
    assert mask_iou(other, mask) == mask_iou(mask, other)
    assert mask_iou(mask.shifted(shift, 2), other.shifted(shift, 2)) == mask_iou(mask, other)
    if full.any():
        assert mask_iou(mask, cropped(full, 1)) == 1
        assert np.array_equal(mask.to_full_size(60, 80), full)
