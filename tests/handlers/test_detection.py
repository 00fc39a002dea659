"""Candidates to answers, without masks. Expected values are worked out by hand or by torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, clip_boxes_to_image

from clearsight.documents.settings import RcnnSettings, YoloSettings
from clearsight.errors import ClearsightError
from clearsight.handlers.scoring.detection import Detections, find_objects, to_detection_answer
from clearsight.handlers.scoring.views import placement_of, to_answer, views_of
from clearsight.vision.candidates import Candidates
from clearsight.vision.letterbox import letterbox
from clearsight.wire.answers import DetectedObject

LABELS = ("can", "carton", "milk_bottle")
SAME_SIZE = letterbox(100, 100, 100)
"""An image of 100 x 100 that is the network's input as it is."""


def candidates(*rows: tuple[tuple[float, float, float, float], float, int]) -> Candidates:
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return Candidates(
        boxes, np.array([row[1] for row in rows], np.float32), np.array([row[2] for row in rows], np.int64)
    )


def found_scores(found: Detections) -> list[float]:
    return [round(float(score), 3) for score in found.scores_N]


def random_candidates(seed: int, count: int, side: float, num_classes: int) -> Candidates:
    """Boxes around a few places, some of them partly outside, with scores that all differ."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, side, (max(count // 8, 1), 2))
    middles = places[rng.integers(len(places), size=count)] + rng.normal(0, side / 40, (count, 2))
    halves = rng.uniform(side / 50, side / 8, (count, 2))
    boxes = np.concatenate([middles - halves, middles + halves], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.01, 0.99, count)).astype(np.float32)
    return Candidates(boxes, scores, rng.integers(num_classes, size=count))


def test_no_candidates_give_no_objects():
    found = find_objects(candidates(), SAME_SIZE, RcnnSettings())
    assert len(found) == 0
    assert to_detection_answer(found, 100, 100, LABELS).boxes == ()


def test_only_scores_above_the_threshold_stay():
    settings = RcnnSettings(box_score_thresh=0.5)
    rows = [((10 * k, 0, 10 * k + 5, 5), score, 0) for k, score in enumerate([0.4, 0.5, 0.51, 1.0])]
    assert found_scores(find_objects(candidates(*rows), SAME_SIZE, settings)) == [1.0, 0.51]


def test_a_lowered_threshold_brings_boxes_back():
    rows = [((0, 0, 5, 5), 0.2, 0)]
    assert len(find_objects(candidates(*rows), SAME_SIZE, RcnnSettings())) == 0
    assert len(find_objects(candidates(*rows), SAME_SIZE, RcnnSettings(box_score_thresh=0.0))) == 1


def test_suppression_is_within_a_class_and_above_the_threshold_only():
    # IoU of the first two is 50 / 150.
    rows = [((0, 0, 10, 10), 0.9, 0), ((5, 0, 15, 10), 0.8, 0), ((0, 0, 10, 10), 0.7, 1)]
    assert found_scores(find_objects(candidates(*rows), SAME_SIZE, RcnnSettings(nms_iou_thresh=0.34))) == [
        0.9,
        0.8,
        0.7,
    ]
    assert found_scores(find_objects(candidates(*rows), SAME_SIZE, RcnnSettings(nms_iou_thresh=0.33))) == [0.9, 0.7]


def test_the_limit_counts_all_classes_together():
    rows = [((10 * k, 0, 10 * k + 5, 5), 0.9 - k / 100, k % 3) for k in range(9)]
    found = find_objects(candidates(*rows), SAME_SIZE, RcnnSettings(box_detections_per_img=4))
    assert found.class_ids_N.tolist() == [0, 1, 2, 0]


def test_boxes_outside_the_image_neither_suppress_nor_count():
    # A letterbox of 100 x 50 has grey above row 25 and below row 75.
    placement = letterbox(50, 100, 100)
    rows = [((10, 0, 30, 24), 0.9, 0), ((10, 5, 30, 30), 0.8, 0), ((5, 5, 5, 50), 0.7, 0), ((40, 40, 30, 30), 0.6, 0)]
    settings = RcnnSettings(nms_iou_thresh=0.1, box_detections_per_img=1)
    found = find_objects(candidates(*rows), placement, settings)
    assert found_scores(found) == [0.8]
    assert found.boxes_xyxy_N4.tolist() == [[10, 0, 30, 5]]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_the_models_fault(number):
    for rows in ([((0, 0, 1, number), 0.9, 0)], [((0, 0, 1, 1), number, 0)]):
        with pytest.raises(ClearsightError, match="not finite"):
            find_objects(candidates(*rows), SAME_SIZE, RcnnSettings())


@pytest.mark.parametrize("class_id", [-1, 3])
def test_a_class_without_a_label_is_the_models_fault(class_id):
    found = find_objects(candidates(((0, 0, 5, 5), 0.9, class_id)), SAME_SIZE, RcnnSettings())
    with pytest.raises(ClearsightError, match="3 labels"):
        to_detection_answer(found, 100, 100, LABELS)


def test_boxes_come_back_from_the_letterbox_as_azures_page_works_it_out():
    # 499 x 666 at 640 lies in rows 80 to 560; (200, 64) to (440, 512) of the inner image is a quarter to three.
    settings = YoloSettings()
    (view,) = views_of(666, 499, settings)
    found = view.find(candidates(((200, 64, 440, 512), 0.75, 2)), settings)
    answer = to_answer([view], [found], settings, LABELS)
    assert answer.boxes == (DetectedObject((0.25, 0.1, 0.75, 0.8), "milk_bottle", 0.75),)


def test_boxes_come_back_from_a_resized_image():
    # 1280 x 720 becomes 1067 x 600; halves stay halves.
    settings = RcnnSettings()
    (view,) = views_of(720, 1280, settings)
    assert (view.placement.canvas_width, view.placement.canvas_height) == (1067, 600)
    found = view.find(candidates(((0, 300, 533.5, 700), 0.5, 0)), settings)
    assert to_answer([view], [found], settings, LABELS).boxes == (DetectedObject((0.0, 0.5, 0.5, 1.0), "can", 0.5),)


def test_a_box_that_vanishes_in_float32_is_left_out():
    boxes = np.array([[9999.999, 0, 10000, 10], [5, 5, np.nextafter(np.float32(5), np.float32(6)), 6]], np.float32)
    found = Detections(boxes, np.ones(2, np.float32), np.zeros(2, np.int64), None)
    (left,) = to_detection_answer(found, 10000, 10000, LABELS).boxes
    assert left.box_xyxy_unit[0] < left.box_xyxy_unit[2] == 1.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("threshold", "iou", "most"), [(0.0, 0.5, 10**4), (0.3, 0.3, 25), (0.6, 0.9, 100)])
def test_objects_are_those_of_torchvision(seed, threshold, iou, most):
    proposed = random_candidates(seed, 400, 640.0, 3)
    clipped = clip_boxes_to_image(torch.from_numpy(proposed.boxes_xyxy_N4), (640, 640))
    proposed = Candidates(clipped.numpy(), proposed.scores_N, proposed.class_ids_N)
    settings = RcnnSettings(box_score_thresh=threshold, nms_iou_thresh=iou, box_detections_per_img=most)
    found = find_objects(proposed, letterbox(640, 640, 640), settings)

    scores, ids = torch.from_numpy(proposed.scores_N), torch.from_numpy(proposed.class_ids_N)
    above = torch.where(scores > threshold)[0]
    kept = above[batched_nms(clipped[above], scores[above], ids[above], iou)][:most]
    assert np.array_equal(found.boxes_xyxy_N4, clipped[kept].numpy())
    assert np.array_equal(found.scores_N, scores[kept].numpy())
    assert np.array_equal(found.class_ids_N, ids[kept].numpy())


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.tuples(*[st.integers(-5, 40)] * 4), st.sampled_from([0.2, 0.5, 0.5, 0.9]), st.integers(0, 2)),
        max_size=25,
        unique_by=lambda row: (row[0], row[2]),
    ),
    random=st.randoms(use_true_random=False),
)
def test_the_order_of_candidates_changes_nothing_even_among_equal_scores(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    placement, options = letterbox(30, 35, 40), YoloSettings(img_size=40)
    one, other = (find_objects(candidates(*some), placement, options) for some in (rows, shuffled))
    assert np.array_equal(one.boxes_xyxy_N4, other.boxes_xyxy_N4)
    assert np.array_equal(one.scores_N, other.scores_N)
    assert np.array_equal(one.class_ids_N, other.class_ids_N)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    kind=st.sampled_from([YoloSettings(), RcnnSettings(), RcnnSettings(min_size=100, max_size=100)]),
)
def test_a_box_goes_into_the_network_and_comes_back(height, width, corners, kind):
    left, right = sorted((corners[0] * width, corners[2] * width))
    top, bottom = sorted((corners[1] * height, corners[3] * height))
    if right - left < 0.01 * width or bottom - top < 0.01 * height:
        return
    box = np.array([[left, top, right, bottom]], np.float32)
    placement = placement_of(height, width, kind)
    proposed = Candidates(placement.to_canvas(box), np.ones(1, np.float32), np.zeros(1, np.int64))
    found = find_objects(proposed, placement, kind)
    assert np.abs(found.boxes_xyxy_N4 - box).max() <= 1e-4 * max(height, width)
    (answer,) = to_detection_answer(found, height, width, LABELS).boxes
    expected = left / width, top / height, right / width, bottom / height
    assert np.abs(np.array(answer.box_xyxy_unit) - expected).max() <= 1e-4 * max(height, width) / min(height, width)
