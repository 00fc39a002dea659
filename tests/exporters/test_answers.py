"""Two correct answers may differ in ties; wrong boxes are found."""

from dataclasses import replace

import numpy as np
import pytest

from clearsight.exporters.parity.answers import GraphAnswer, compare_answers
from clearsight.networks.families.rcnn.selection import SelectionLimits

LIMITS = SelectionLimits(0.0, 0.5, 10)
BOXES = [[0, 0, 10, 10], [20, 0, 30, 20], [40, 40, 80, 60], [5, 50, 25, 90]]


def answer(boxes: list[list[float]], scores: list[float], class_ids: list[int]) -> GraphAnswer:
    masks = np.linspace(0, 1, len(boxes) * 9, dtype=np.float32).reshape(-1, 3, 3)
    return GraphAnswer(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(class_ids, np.int64), masks
    )


EXPECTED = answer(BOXES, [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1])


def count(found: GraphAnswer, proposed: GraphAnswer = EXPECTED, limits: SelectionLimits = LIMITS) -> tuple[int, int]:
    """Ties and wrong boxes."""
    differences = compare_answers(EXPECTED, found, proposed, limits, 1e-3)
    return differences.num_ties, differences.num_wrong


def test_two_empty_answers_are_equal() -> None:
    empty = answer([], [], [])
    differences = compare_answers(empty, empty, empty, LIMITS, 1e-3)
    assert (differences.num_boxes, differences.num_ties, differences.num_wrong) == (0, 0, 0)


def test_a_lost_answer_is_wrong() -> None:
    assert count(answer([], [], [])) == (0, 4)


def test_order_and_rounding_make_no_difference() -> None:
    found = answer([BOXES[3], BOXES[2], BOXES[0], BOXES[1]], [0.6004, 0.7, 0.8996, 0.8], [1, 0, 0, 1])
    found = replace(found, boxes_xyxy_N4=found.boxes_xyxy_N4 + np.float32(0.5))
    differences = compare_answers(EXPECTED, found, EXPECTED, LIMITS, 1e-3)
    assert (differences.num_ties, differences.num_wrong) == (0, 0)
    assert differences.score == pytest.approx(4e-4, rel=1e-3)
    assert differences.box_px == pytest.approx(0.5)


@pytest.mark.parametrize(
    "found",
    [
        replace(EXPECTED, boxes_xyxy_N4=EXPECTED.boxes_xyxy_N4 + np.float32([[0], [0], [2], [0]])),
        replace(EXPECTED, class_ids_N=np.array([0, 1, 1, 1])),
        replace(EXPECTED, scores_N=np.array([0.9, 0.8, 0.7, 0.6011], np.float32)),
        replace(EXPECTED, scores_N=np.array([0.9, 0.8, np.nan, 0.6], np.float32)),
    ],
    ids=["a box shifted by 2 pixels", "another class", "another score", "not a number"],
)
def test_one_wrong_box_is_found(found: GraphAnswer) -> None:
    ties, wrong = count(found)
    assert wrong >= 1
    assert ties + wrong == 2  # one too few, one too many


def test_either_of_two_overlapping_boxes_of_equal_score_may_stay() -> None:
    twin = [0, 0, 10, 13]  # IoU 10/13 with the first
    proposed = answer([*BOXES, twin], [0.9, 0.8, 0.7, 0.6, 0.9], [0, 1, 0, 1, 0])
    assert count(answer([twin, *BOXES[1:]], [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1]), proposed) == (2, 0)
    # The network does not propose it.
    assert count(answer([twin, *BOXES[1:]], [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1]))[1] == 1
    # Both stay: suppression did not work.
    assert count(answer([*BOXES, twin], [0.9, 0.8, 0.7, 0.6, 0.9], [0, 1, 0, 1, 0]), proposed) == (0, 1)


def test_boxes_at_the_score_threshold_may_come_and_go() -> None:
    limits = SelectionLimits(0.5995, 0.5, 10)
    three = answer(BOXES[:3], [0.9, 0.8, 0.7], [0, 1, 0])
    assert count(three, limits=limits) == (1, 0)
    assert count(three) == (0, 1)


def test_the_last_of_a_full_answer_may_be_another_of_its_score() -> None:
    proposed = answer([*BOXES, [60, 0, 90, 9]], [0.9, 0.8, 0.7, 0.6, 0.5998], [0, 1, 0, 1, 1])
    found = answer([*BOXES[:3], [60, 0, 90, 9]], [0.9, 0.8, 0.7, 0.5998], [0, 1, 0, 1])
    assert count(found, proposed, SelectionLimits(0.0, 0.5, 4)) == (2, 0)
    more = answer([*BOXES, [60, 0, 90, 9]], [0.9, 0.8, 0.7, 0.6, 0.5998], [0, 1, 0, 1, 1])
    assert count(more, proposed, SelectionLimits(0.0, 0.5, 4))[1] == 1  # more than the limit


def test_masks_are_compared_where_there_is_anything() -> None:
    masks_NHW = EXPECTED.masks_NHW
    assert masks_NHW is not None
    same = compare_answers(EXPECTED, EXPECTED, EXPECTED, LIMITS, 1e-3)
    assert (same.masks, same.num_masks) == (0, 4)
    shifted = replace(EXPECTED, masks_NHW=masks_NHW + np.float32(0.25))
    found = compare_answers(EXPECTED, shifted, EXPECTED, LIMITS, 1e-3)
    assert found.masks / found.num_masks == pytest.approx(0.25)
