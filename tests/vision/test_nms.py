import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from clearsight.vision.boxes import iou_matrix
from clearsight.vision.nms import batched_nms, by_descending_score


def plain_nms(boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, iou_threshold: float) -> list[int]:
    """The definition in a loop: take the best remaining box, drop those that overlap it."""
    left = sorted(range(len(boxes)), key=lambda index: -scores[index])
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            index
            for index in left
            if class_ids[index] != class_ids[best] or not plain_iou(boxes[best], boxes[index]) > iou_threshold
        ]
    return kept


def plain_iou(box: np.ndarray, other: np.ndarray) -> float:
    shared = max(min(box[2], other[2]) - max(box[0], other[0]), 0) * max(
        min(box[3], other[3]) - max(box[1], other[1]), 0
    )
    areas = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return shared / (areas - shared) if areas > shared else 0.0


def candidates(number: int, num_classes: int, num_objects: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Boxes like those of a detector: many around each object. All scores differ."""
    random = np.random.default_rng(seed)
    centres = random.uniform(0, 640, (num_objects, 2))
    sides = random.uniform(20, 150, (num_objects, 2))
    objects = random.integers(0, num_objects, number)
    centre = centres[objects] + random.normal(0, 6, (number, 2))
    side = sides[objects] * np.exp(random.normal(0, 0.15, (number, 2)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1).astype(np.float32)
    scores = (random.permutation(number) / number).astype(np.float32)
    return boxes, scores, random.integers(0, num_classes, num_objects)[objects]


def test_no_candidates_give_none():
    found = batched_nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5)
    assert found.shape == (0,)
    assert found.dtype == np.int64


def test_one_candidate_stays():
    assert batched_nms(np.array([[0.0, 0, 1, 1]]), np.array([0.1]), np.array([3]), 0.5).tolist() == [0]


TWICE = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 5, 10, 15]])


@pytest.mark.parametrize(
    ("scores", "class_ids", "iou_threshold", "kept"),
    [
        ((0.5, 0.9, 0.1), (0, 0, 0), 0.5, [1, 2]),
        ((0.5, 0.9, 0.1), (0, 1, 0), 0.5, [1, 0, 2]),  # other classes suppress nothing
        ((0.5, 0.5, 0.5), (0, 0, 0), 0.3, [0]),  # the earlier of equal scores
        ((0.5, 0.5, 0.5), (2, 1, 0), 0.3, [0, 1, 2]),
        ((0.5, 0.4, 0.6), (0, 0, 0), 1 / 3, [2, 0]),  # IoU 1/3 is not greater than 1/3
        ((0.5, 0.4, 0.6), (0, 0, 0), 0.33, [2]),
        ((0.1, 0.2, 0.3), (0, 0, 0), 1.0, [2, 1, 0]),
        ((0.1, 0.2, 0.3), (0, 0, 0), 0.0, [2]),
        ((np.nan, 0.2, 0.3), (0, 0, 0), 0.5, [2, 1]),  # NaN is worse than any score
    ],
)
def test_by_hand(scores, class_ids, iou_threshold, kept):
    assert batched_nms(TWICE, np.array(scores), np.array(class_ids), iou_threshold).tolist() == kept


def test_the_limit_counts_all_classes_together():
    boxes = np.arange(10)[:, None] * 20.0 + [0, 0, 10, 10]
    scores = np.arange(10) / 10
    assert batched_nms(boxes, scores, np.arange(10) % 3, 0.5, max_kept=4).tolist() == [9, 8, 7, 6]
    assert batched_nms(boxes, scores, np.arange(10) % 3, 0.5, max_kept=40).tolist() == list(range(9, -1, -1))


def test_a_suppressed_box_suppresses_nothing():
    row = np.array([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # neighbours overlap by 6/14
    assert batched_nms(row, np.array([0.9, 0.8, 0.7]), np.zeros(3, np.int64), 0.4).tolist() == [0, 2]


def test_sorting_by_descending_score_keeps_the_order_of_ties():
    assert by_descending_score(np.array([0.2, 0.9, 0.2, 0.9, np.nan])).tolist() == [1, 3, 0, 2, 4]


@hypothesis_settings(deadline=None, max_examples=80)
@given(st.integers(0, 300), st.integers(1, 4), st.integers(1, 6), st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.data())
def test_equals_the_plain_definition_ties_included(number, num_classes, grid, iou_threshold, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    corner = random.integers(0, grid, (number, 2)) * 3.0
    boxes = np.concatenate([corner, corner + random.integers(0, 12, (number, 2))], axis=1)
    scores = random.integers(0, 8, number) / 8
    class_ids = random.integers(0, num_classes, number)
    found = batched_nms(boxes, scores, class_ids, iou_threshold)
    assert found.tolist() == plain_nms(boxes, scores, class_ids, iou_threshold)
    again = batched_nms(boxes[found], scores[found], class_ids[found], iou_threshold)
    assert again.tolist() == list(range(len(found)))
    shuffled = random.permutation(num_classes)[class_ids]
    assert batched_nms(boxes * 4 + 7, scores, shuffled, iou_threshold).tolist() == found.tolist()


@pytest.mark.parametrize(("number", "num_classes", "num_objects"), [(5000, 80, 50), (5000, 1, 50), (5000, 3, 4000)])
def test_equals_torchvision(number, num_classes, num_objects):
    import torch
    from torchvision.ops import batched_nms as oracle

    boxes, scores, class_ids = candidates(number, num_classes, num_objects)
    expected = oracle(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(class_ids), 0.5)
    assert np.array_equal(batched_nms(boxes, scores, class_ids, 0.5), expected.numpy())


def test_thirty_thousand_candidates_leave_none_that_overlap_and_drop_none_without_reason():
    boxes, scores, class_ids = candidates(30_000, 80, 300)
    kept = batched_nms(boxes, scores, class_ids, 0.5)
    is_kept = np.zeros(len(boxes), np.bool_)
    is_kept[kept] = True
    for class_id in range(80):
        (winners,) = np.nonzero(is_kept & (class_ids == class_id))
        (others,) = np.nonzero(~is_kept & (class_ids == class_id))
        assert not np.triu(iou_matrix(boxes[winners], boxes[winners]) > 0.5, 1).any()
        suppresses = (iou_matrix(boxes[others], boxes[winners]) > 0.5) & (scores[winners] > scores[others][:, None])
        assert suppresses.any(axis=1).all()
