"""The cells and anchors assigned to a box: by hand, and against a slow plain version."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.networks.families.yolov5.anchors import DEFAULT_ANCHORS
from clearsight.networks.families.yolov5.assignment import Assignment, assign

STRIDES = (8, 16, 32)
ANCHORS_CELLS = torch.from_numpy(DEFAULT_ANCHORS) / torch.tensor(STRIDES).view(3, 1, 1)


def rows_of(pairs: Assignment) -> list[tuple[int, int, int, int]]:
    """(box, anchor, column, row) of each pair."""
    columns = (pairs.box_index_R, pairs.anchor_index_R, pairs.columns_R, pairs.rows_R)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def plainly(
    boxes: list[list[float]], anchors: list[list[float]], height: int, width: int
) -> list[tuple[int, int, int, int]]:
    found = []
    for kind in ("own", "left", "above", "right", "below"):
        for anchor_index, anchor in enumerate(anchors):
            for box_index, (x, y, w, h) in enumerate(boxes):
                if w <= 0 or h <= 0:
                    continue
                ratios = (w / anchor[0], anchor[0] / w, h / anchor[1], anchor[1] / h)
                if max(ratios) >= 4:
                    continue
                fraction_x, fraction_y = x - math.floor(x), y - math.floor(y)
                wanted = {
                    "own": True,
                    "left": fraction_x < 0.5 and x > 1,
                    "above": fraction_y < 0.5 and y > 1,
                    "right": fraction_x > 0.5 and width - x > 1,
                    "below": fraction_y > 0.5 and height - y > 1,
                }
                if not wanted[kind]:
                    continue
                column = math.floor(x) + {"left": -1, "right": 1}.get(kind, 0)
                row = math.floor(y) + {"above": -1, "below": 1}.get(kind, 0)
                found.append((box_index, anchor_index, min(column, width - 1), min(row, height - 1)))
    return found


def test_no_boxes_give_no_pairs() -> None:
    pairs = assign(torch.zeros(0, 4), ANCHORS_CELLS[0], 4, 4)
    assert rows_of(pairs) == []
    assert pairs.targets_cells_R4.shape == (0, 4)


def test_a_box_of_32_pixels_in_640_takes_21_predictions() -> None:
    """The worked example: centre (82.4, 166.4); the ratio rule admits it on every level."""
    box = torch.tensor([[82.4, 166.4, 32.0, 32.0]])
    pairs = [
        assign(box / stride, anchors, 640 // stride, 640 // stride)
        for stride, anchors in zip(STRIDES, ANCHORS_CELLS, strict=True)
    ]
    cells = [
        {(10, 20), (9, 20), (10, 21)},
        {(5, 10), (4, 10), (5, 9)},
        {(2, 5), (3, 5), (2, 4)},
    ]
    anchors_taken = [{0, 1, 2}, {0, 1, 2}, {0}]
    for level in range(3):
        assert set(rows_of(pairs[level])) == {
            (0, anchor, column, row) for anchor in anchors_taken[level] for column, row in cells[level]
        }
    assert [len(rows_of(level)) for level in pairs] == [9, 9, 3]
    torch.testing.assert_close(pairs[0].targets_cells_R4[0], torch.tensor([0.3, 0.8, 4.0, 4.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("centre", "cells"),
    [
        ((2.25, 2.5), {(2, 2), (1, 2)}),  # in the middle of its row: no neighbour above or below
        ((2.0, 2.5), {(2, 2), (1, 2)}),  # on the edge of two cells: the right one is a whole cell away
        ((0.25, 2.75), {(0, 2), (0, 3)}),  # nothing left of the first column
        ((1.0, 3.75), {(1, 3)}),  # exactly one cell from the border, and in the last row
        ((4.0, 4.0), {(3, 3)}),  # on the far corner: all three cells are moved onto the map
    ],
)
def test_a_centre_takes_its_cell_and_the_nearer_neighbours(
    centre: tuple[float, float], cells: set[tuple[int, int]]
) -> None:
    pairs = assign(torch.tensor([[*centre, 2.0, 2.0]]), torch.tensor([[2.0, 2.0]]), 4, 4)
    taken = {(column, row) for _, _, column, row in rows_of(pairs)}
    assert taken == cells


@pytest.mark.parametrize(
    ("width", "height", "matches"),
    [(4.0, 4.0, True), (15.9, 4.0, True), (16.0, 4.0, False), (4.0, 1.01, True), (4.0, 1.0, False), (0.0, 4.0, False)],
)
def test_a_box_and_an_anchor_match_below_a_factor_of_four_on_both_axes(
    width: float, height: float, matches: bool
) -> None:
    pairs = assign(torch.tensor([[2.5, 2.5, width, height]]), torch.tensor([[4.0, 4.0]]), 8, 8)
    assert bool(rows_of(pairs)) is matches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 5.9375, width=32),
            st.floats(0, 3.9375, width=32),
            st.floats(0, 9, width=32),
            st.floats(0, 9, width=32),
        ),
        max_size=6,
    )
)
def test_pairs_equal_a_plain_loop_and_lie_within_reach(boxes: list[tuple[float, float, float, float]]) -> None:
    boxes_M4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    pairs = assign(boxes_M4, ANCHORS_CELLS[0], height=4, width=6)
    assert rows_of(pairs) == plainly(boxes_M4.tolist(), ANCHORS_CELLS[0].tolist(), height=4, width=6)
    offsets = pairs.targets_cells_R4[:, :2]
    assert ((offsets >= -0.5) & (offsets <= 1.5)).all()  # equal by rounding only
    assert (pairs.targets_cells_R4[:, 2:] == boxes_M4[pairs.box_index_R, 2:]).all()
