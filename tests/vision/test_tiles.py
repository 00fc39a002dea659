import itertools
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from clearsight.vision.boxes import shift_boxes, to_unit_boxes
from clearsight.vision.masks import CroppedMask
from clearsight.vision.tiles import Tile, boxes_in_tile, is_cut_off, merge_boxes, merge_masks, tile_grid


@pytest.mark.parametrize(
    ("size_wh", "grid", "overlap", "tile_wh", "lefts", "tops"),
    [
        ((1280, 720), (3, 2), 0.25, (512, 412), [0, 384, 768], [0, 308]),
        ((640, 480), (3, 2), 0.25, (256, 275), [0, 192, 384], [0, 205]),
        ((1920, 1080), (5, 3), 0.25, (480, 432), [0, 360, 720, 1080, 1440], [0, 324, 648]),
        ((499, 666), (3, 2), 0.25, (200, 381), [0, 149, 299], [0, 285]),
        ((1000, 667), (2, 1), 0.25, (572, 667), [0, 428], [0]),
        ((640, 480), (2, 2), 0.0, (320, 240), [0, 320], [0, 240]),
        ((1200, 700), (3, 2), 0.25, (480, 400), [0, 360, 720], [0, 300]),
        # 1000 / (11 - 10 * 0.1) is 100 exactly; in floating point it is a little more, and a tile would have 101.
        ((1000, 80), (11, 1), 0.1, (100, 80), list(range(0, 901, 90)), [0]),
    ],
)
def test_worked_examples(size_wh, grid, overlap, tile_wh, lefts, tops):
    tiles = tile_grid(size_wh[1], size_wh[0], *grid, overlap)
    assert [(tile.left, tile.top) for tile in tiles] == [(left, top) for top in tops for left in lefts]
    assert {(tile.width, tile.height) for tile in tiles} == {tile_wh}


def test_one_tile_is_no_tile():
    assert tile_grid(480, 640, 1, 1) == ()


@pytest.mark.parametrize(
    ("size_wh", "grid"), [((17, 400), (3, 2)), ((400, 7), (2, 1)), ((9, 9), (4, 4)), ((1, 1), (2, 2))]
)
def test_an_image_too_small_for_the_grid_is_not_tiled_and_a_warning_says_so(size_wh, grid, caplog):
    with caplog.at_level(logging.WARNING, "clearsight.vision.tiles"):
        assert tile_grid(size_wh[1], size_wh[0], *grid) == ()
    assert f"{size_wh[0]}x{size_wh[1]}" in caplog.text
    assert f"{grid[0]}x{grid[1]} tiles" in caplog.text


@pytest.mark.parametrize("arguments", [(0, 2, 0.25), (2, 0, 0.25), (2, 2, 1.0), (2, 2, -0.1), (2, 2, float("nan"))])
def test_other_grids_are_refused(arguments):
    with pytest.raises(ValueError, match=r"overlap in \[0, 1\)"):
        tile_grid(480, 640, *arguments)


@hypothesis_settings(deadline=None, max_examples=150)
@given(st.integers(8, 10_000), st.integers(8, 10_000), st.integers(1, 8), st.integers(1, 8), st.floats(0, 0.95))
def test_tiles_cover_every_pixel_and_overlap_as_asked(height, width, columns, rows, overlap):
    tiles = tile_grid(height, width, columns, rows, overlap)
    if not tiles:
        return
    assert len(tiles) == columns * rows
    for low, side, length, count in (
        (lambda tile: tile.left, tiles[0].width, width, columns),
        (lambda tile: tile.top, tiles[0].height, height, rows),
    ):
        starts = sorted({low(tile) for tile in tiles})
        assert len(starts) == count
        assert starts[0] == 0
        assert starts[-1] + side == length
        for start, following in itertools.pairwise(starts):
            # Tiles are rounded up to whole pixels: neighbours share that much more.
            assert overlap * side - 1 <= start + side - following <= overlap * side + 2


def test_a_tile_is_cut_without_a_copy():
    image = np.arange(60 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 80, 3)
    part = Tile(left=10, top=20, width=30, height=15).cut(image)
    assert np.array_equal(part, image[20:35, 10:40])
    assert part.base is not None


def test_training_boxes_belong_to_a_tile_by_half_their_area():
    boxes = np.array([[90, 0, 110, 10], [89, 0, 109, 10], [120, 20, 140, 30], [80, 0, 100, 10], [150, 0, 150, 10.0]])
    indices, inside = boxes_in_tile(boxes, Tile(left=100, top=0, width=50, height=25))
    assert indices.tolist() == [0, 2]
    assert inside.tolist() == [[0, 0, 10, 10], [20, 20, 40, 25]]
    none, nothing = boxes_in_tile(np.zeros((0, 4)), Tile(0, 0, 5, 5))
    assert none.shape == (0,)
    assert nothing.shape == (0, 4)


EMPTY = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


def no_mask(index: int) -> CroppedMask:
    raise AssertionError(f"nothing overlaps, so the mask of {index} is not needed")


def test_no_candidates_leave_none():
    assert merge_boxes(*EMPTY, 0.25, 100).shape == (0,)
    assert merge_masks(*EMPTY, no_mask, 10, 0.25, 100).shape == (0,)
    assert is_cut_off(EMPTY[0], EMPTY[2], EMPTY[3], [Tile(0, 0, 5, 5)], 10, 10, 2.0).shape == (0,)


def test_worked_example_of_an_object_that_a_tile_cuts():
    tiles = tile_grid(720, 1280, 3, 2)
    boxes = np.concatenate(
        [
            np.array([[481, 101, 540, 160]], np.float64),
            shift_boxes(np.array([[480, 100, 512, 160]], np.float64), tiles[0].left, tiles[0].top),
            shift_boxes(np.array([[96, 100, 156, 160]], np.float64), tiles[1].left, tiles[1].top),
        ]
    )
    kept = merge_boxes(boxes, np.array([0.55, 0.70, 0.92]), np.zeros(3, np.int64), np.array([0, 1, 2]), 0.25, 100)
    assert kept.tolist() == [2]
    np.testing.assert_allclose(
        to_unit_boxes(boxes[kept], 720, 1280), [[0.375, 0.138889, 0.421875, 0.222222]], atol=5e-7
    )


@pytest.mark.parametrize(("left", "right", "num_kept"), [(502, 540, 1), (503, 538, 1), (503, 539, 2), (504, 540, 2)])
def test_strips_up_to_a_quarter_of_the_object_survive(left, right, num_kept):
    # The tile ends at 512: it sees 10/38, 9/35, 9/36 and 8/36 of the object.
    boxes = np.array([[left, 100, 512, 160], [left, 100, right, 160]], np.float64)
    kept = merge_boxes(boxes, np.array([0.7, 0.9]), np.zeros(2, np.int64), np.array([1, 2]), 0.25, 100)
    assert kept.tolist() == [1, 0][:num_kept]


def test_ties_go_to_the_larger_box_then_to_the_whole_image():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [50, 0, 60, 10], [50, 0, 60, 10.0]])
    kept = merge_boxes(boxes, np.full(4, 0.5), np.zeros(4, np.int64), np.array([0, 1, 2, 0]), 0.25, 100)
    assert kept.tolist() == [1, 3]


def test_classes_are_merged_separately_and_the_limit_holds_for_all():
    boxes = np.repeat([[0, 0, 10, 10.0]], 4, axis=0)
    scores, class_ids, sources = np.array([0.6, 0.7, 0.8, 0.9]), np.array([0, 1, 2, 2]), np.arange(4)
    assert merge_boxes(boxes, scores, class_ids, sources, 0.25, 100).tolist() == [3, 1, 0]
    assert merge_boxes(boxes, scores, class_ids, sources, 0.25, 2).tolist() == [3, 1]


def filled(boxes: np.ndarray):
    """Masks that fill their boxes: merging by masks is then merging by boxes."""

    def mask_of(index: int) -> CroppedMask:
        left, top, right, bottom = boxes[index].astype(int)
        return CroppedMask(int(left), int(top), np.ones((bottom - top, right - left), np.bool_))

    return mask_of


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.25, 0.5]))
def test_merging_removes_exact_duplicates_and_masks_that_fill_boxes_merge_as_boxes_do(number, seed, iou_threshold):
    random = np.random.default_rng(seed)
    corner = random.integers(0, 40, (number, 2))
    boxes = np.concatenate([corner, corner + random.integers(1, 20, (number, 2))], axis=1).astype(np.float64)
    scores, class_ids = random.integers(1, 100, number) / 100, random.integers(0, 3, number)
    sources = random.integers(0, 7, number)
    kept = merge_boxes(boxes, scores, class_ids, sources, iou_threshold, 100)

    twice = [np.concatenate([array, array]) for array in (boxes, scores, class_ids, sources)]
    assert np.array_equal(merge_boxes(*twice, iou_threshold, 100) % max(number, 1), kept)
    by_masks = merge_masks(boxes, scores, class_ids, sources, filled(boxes), 60, iou_threshold, 100)
    assert np.array_equal(by_masks, kept)

    order = random.permutation(number)
    shuffled = merge_boxes(boxes[order], scores[order], class_ids[order], sources[order], iou_threshold, 100)
    assert {tuple(row) for row in boxes[order][shuffled]} == {tuple(row) for row in boxes[kept]}


def test_masks_that_do_not_overlap_both_stay_though_their_boxes_do():
    # Two triangles share a square along its diagonal.
    lower = np.tril(np.ones((20, 20), np.bool_), -1)
    masks = [CroppedMask(5, 5, lower), CroppedMask(5, 5, lower.T.copy()), CroppedMask(5, 5, lower)]
    boxes, scores = np.repeat([[5, 5, 25, 25.0]], 3, axis=0), np.array([0.9, 0.8, 0.7])
    arguments = (boxes, scores, np.zeros(3, np.int64), np.arange(3))
    assert merge_boxes(*arguments, 0.25, 100).tolist() == [0]
    assert merge_masks(*arguments, masks.__getitem__, 40, 0.25, 100).tolist() == [0, 1]
    assert merge_masks(*arguments, masks.__getitem__, 40, 0.25, 1).tolist() == [0]


def test_masks_are_asked_for_once_and_only_where_boxes_of_a_class_overlap():
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [3, 0, 13, 10], [50, 50, 60, 60], [0, 0, 10, 10.0]])
    asked: list[int] = []

    def mask_of(index: int) -> CroppedMask:
        asked.append(index)
        return filled(boxes)(index)

    scores, class_ids = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0, 0, 0, 0, 1])
    kept = merge_masks(boxes, scores, class_ids, np.zeros(5, np.int64), mask_of, 60, 0.25, 100)
    assert kept.tolist() == [0, 3, 4]
    assert sorted(asked) == [0, 1, 2]


def test_a_fragment_of_an_object_at_a_tile_border_is_recognised():
    tiles = tile_grid(720, 1280, 3, 2)
    boxes = np.array(
        [
            [504, 100, 512, 160],  # tile 0 cuts the object at its right side
            [504, 100, 540, 160],  # tile 1 shows all of it
            [0, 300, 30, 330],  # at the image's own border
            [0, 300, 30, 330],
            [506, 500, 512, 520],  # cut, but no other source shows more of it
            [384, 100, 400, 160],  # cut by tile 1, of another class than what covers it
            [380, 100, 400, 160],
        ],
        np.float64,
    )
    class_ids = np.array([0, 0, 0, 0, 0, 1, 0])
    sources = np.array([1, 2, 1, 0, 4, 2, 0])
    found = is_cut_off(boxes, class_ids, sources, tiles, 720, 1280, margin=2.0)
    assert found.tolist() == [True, False, False, False, False, False, False]


def test_two_fragments_of_one_object_do_not_remove_each_other():
    # Both tiles cut it in the overlap (384 to 512 across): the larger fragment stays.
    tiles = tile_grid(720, 1280, 3, 2)
    boxes = np.array([[384, 100, 512, 160], [390, 100, 512, 160]], np.float64)
    found = is_cut_off(boxes, np.zeros(2, np.int64), np.array([2, 1]), tiles, 720, 1280, margin=2.0)
    assert found.tolist() == [False, True]
