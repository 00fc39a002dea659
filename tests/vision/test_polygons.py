import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy import ndimage

from clearsight.vision.masks import CroppedMask, mask_iou
from clearsight.vision.polygons import mask_to_polygons, polygons_to_mask, trace_outlines

sides = st.integers(1, 14)
bitmaps = st.tuples(sides, sides).flatmap(lambda shape: st_numpy.arrays(np.bool_, shape))


def full_size(rows: list[str]) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def in_pixels(polygons: list[list[float]], height: int, width: int) -> list[set[tuple[float, float]]]:
    return [
        {(x * width, y * height) for x, y in zip(polygon[0::2], polygon[1::2], strict=True)} for polygon in polygons
    ]


def plain_fill(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    """Even-odd by counting, for each pixel's centre, the edges to its left; the union of all polygons."""
    filled = np.zeros((height, width), np.bool_)
    for polygon in polygons:
        xs, ys = np.array(polygon[0::2]) * width, np.array(polygon[1::2]) * height
        for row in range(height):
            for column in range(width):
                x, y, inside = column + 0.5, row + 0.5, False
                for i in range(len(xs)):
                    j = (i + 1) % len(xs)
                    if (ys[i] > y) != (ys[j] > y) and xs[i] + (y - ys[i]) * (xs[j] - xs[i]) / (ys[j] - ys[i]) <= x:
                        inside = not inside
                filled[row, column] |= inside
    return filled


def blob(seed: int, size: int = 200, roughness: float = 12.0) -> np.ndarray:
    """One region without holes, like a typical segmentation mask."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (size, size)), (0, 0), roughness)
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    parts, _ = ndimage.label(noise / noise.std() + 3 * (0.7 - np.hypot(rows, columns)) > 0)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(parts == sizes.argmax())


def test_an_empty_mask_has_no_polygons_and_no_polygons_give_an_empty_mask():
    assert mask_to_polygons(CroppedMask(0, 0, np.zeros((0, 0), np.bool_)), 5, 5) == []
    assert mask_to_polygons(CroppedMask(2, 1, np.zeros((3, 3), np.bool_)), 5, 5) == []
    assert polygons_to_mask([], 5, 5).area == 0
    assert polygons_to_mask([[]], 5, 5).area == 0


def test_a_rectangle_has_its_corners_on_the_outer_edges_of_its_pixels():
    # Pixels 2 to 5 across and 1 to 2 down, of an image of 8 x 4.
    polygons = mask_to_polygons(CroppedMask(2, 1, np.ones((2, 4), np.bool_)), 4, 8)
    assert len(polygons) == 1
    assert len(polygons[0]) == 8
    assert in_pixels(polygons, 4, 8) == [{(2, 1), (6, 1), (6, 3), (2, 3)}]
    assert sorted(polygons[0]) == [0.25, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75]


def test_one_pixel_is_a_square():
    assert in_pixels(mask_to_polygons(CroppedMask(3, 4, np.ones((1, 1), np.bool_)), 10, 10), 10, 10) == [
        {(3, 4), (4, 4), (4, 5), (3, 5)}
    ]


def test_regions_are_sorted_by_descending_area_and_diagonal_neighbours_are_one_region():
    bitmap = full_size(["#....##", ".#...##", ".....##"])
    large, small = in_pixels(mask_to_polygons(CroppedMask(0, 0, bitmap), 3, 7), 3, 7)
    assert large == {(5, 0), (7, 0), (7, 3), (5, 3)}
    assert small == {(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (1, 2), (0, 1)}


def test_holes_are_filled_with_what_lies_in_them():
    bitmap = full_size(["#####", "#...#", "#.#.#", "#...#", "#####"])
    assert in_pixels(mask_to_polygons(CroppedMask(0, 0, bitmap), 5, 5), 5, 5) == [{(0, 0), (5, 0), (5, 5), (0, 5)}]


def test_regions_one_pixel_apart_stay_apart():
    assert len(trace_outlines(full_size(["#.#", "#.#"]))) == 2


@hypothesis_settings(deadline=None, max_examples=120)
@given(bitmaps, st.integers(0, 3), st.integers(0, 3))
def test_unsimplified_polygons_give_the_mask_back_to_the_pixel_holes_filled(bitmap, left, top):
    mask = CroppedMask(left, top, bitmap)
    height, width = bitmap.shape[0] + top + 1, bitmap.shape[1] + left + 2
    polygons = mask_to_polygons(mask, height, width, max_points=1000)
    expected = ndimage.binary_fill_holes(mask.to_full_size(height, width))
    assert np.array_equal(polygons_to_mask(polygons, height, width).to_full_size(height, width), expected)


@hypothesis_settings(deadline=None, max_examples=80)
@given(bitmaps, st.integers(3, 12))
def test_every_region_keeps_to_the_limit_has_an_area_and_stays_in_its_box(bitmap, max_points):
    polygons = mask_to_polygons(CroppedMask(0, 0, bitmap), *bitmap.shape, max_points)
    _, num_parts = ndimage.label(ndimage.binary_fill_holes(bitmap), np.ones((3, 3)))
    assert len(polygons) == num_parts
    for polygon in polygons:
        assert 6 <= len(polygon) <= 2 * max_points
        assert all(0 <= value <= 1 for value in polygon)
        assert cv2.contourArea(np.array(polygon, np.float32).reshape(-1, 2)) > 0
        assert polygon[:2] != polygon[-2:]


def test_a_triangle_is_found_where_simplifying_leaves_a_line():
    # A thin diagonal: Douglas-Peucker with the tolerance that reaches 3 points keeps only the two ends.
    for size in range(2, 40):
        (polygon,) = mask_to_polygons(CroppedMask(0, 0, np.eye(size, dtype=np.bool_)), size, size, max_points=3)
        assert len(polygon) == 6
        assert cv2.contourArea(np.array(polygon, np.float32).reshape(-1, 2)) > 0


@pytest.mark.parametrize("roughness", [4.0, 8.0, 16.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_hundred_points_draw_a_mask_with_an_iou_of_at_least_0_9(seed, roughness):
    bitmap = blob(seed, roughness=roughness)
    assert bitmap.sum() >= 1000
    mask = CroppedMask(7, 9, bitmap)
    polygons = mask_to_polygons(mask, 300, 300, max_points=100)
    assert len(polygons[0]) <= 200
    assert mask_iou(polygons_to_mask(polygons, 300, 300), mask) >= 0.9


def test_fewer_points_than_three_are_refused():
    with pytest.raises(ValueError, match="at least 3, but got 2"):
        mask_to_polygons(CroppedMask(0, 0, np.ones((2, 2), np.bool_)), 5, 5, max_points=2)


rings = st.lists(st.lists(st.integers(-3, 19), min_size=6, max_size=12).map(lambda v: v[: len(v) // 2 * 2]), max_size=3)


@hypothesis_settings(deadline=None, max_examples=60)
@given(rings)
def test_filling_is_even_odd_at_pixel_centres_and_a_union_of_polygons(quarters):
    # Multiples of a quarter of a pixel of an image of 4 x 4: many edges run through centres.
    polygons = [[value / 16 for value in ring] for ring in quarters]
    found = polygons_to_mask(polygons, 4, 4).to_full_size(4, 4)
    assert np.array_equal(found, plain_fill(polygons, 4, 4))


def test_overlapping_polygons_do_not_cancel_each_other():
    square = [0, 0, 0.5, 0, 0.5, 0.5, 0, 0.5]
    assert polygons_to_mask([square, square], 8, 8).area == 16


def test_a_filled_circle_has_its_area():
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ring = (np.stack([500 + 300.3 * np.cos(angles), 400 + 300.3 * np.sin(angles)], axis=1) / [1000, 800]).ravel()
    mask = polygons_to_mask([ring.tolist()], 800, 1000)
    assert mask.area == pytest.approx(np.pi * 300.3**2, rel=1e-3)
    assert mask.bitmap_HW.shape == (602, 602)
