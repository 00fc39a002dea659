"""The choice of explained objects, their candidates, and the rules of the keys `detections` and `target`."""

import numpy as np
import pytest

from clearsight.catalogue.algorithms import DETECTOR_ALGORITHMS
from clearsight.errors import BadRequest
from clearsight.handlers.explain.objects.selection import Match, by_view, choose_detections, find_match
from clearsight.handlers.explain.parameters import XaiParameters, parse_xai_parameters
from clearsight.wire.answers import DetectedObject

NO_BOXES = np.zeros((0, 4), np.float32)


def choose(scores, has_masks=False, may_leave_out=True, **parameters):
    return choose_detections(scores, XaiParameters(algorithm="odam", **parameters), 20, has_masks, may_leave_out)


@pytest.mark.parametrize(
    ("scores", "detections", "expected"),
    [
        ([], None, ()),
        ([], "all", ()),
        ([], (), ()),
        ([0.9], None, (0,)),
        ([0.9, 0.8, 0.7, 0.6], None, (0, 1, 2)),
        ([0.6, 0.9, 0.5, 0.8], None, (0, 1, 3)),  # chosen by score, in the order of the answer
        ([0.9, 0.8, 0.7, 0.6], "all", (0, 1, 2, 3)),
        ([0.9, 0.8, 0.7, 0.6], (3, 0), (3, 0)),
        ([0.9], (), ()),
    ],
)
def test_the_chosen_objects(scores, detections, expected):
    choice = choose(scores, detections=detections)
    assert (choice.indices, choice.num_left_out) == (expected, 0)


@pytest.mark.parametrize(
    ("found", "chosen", "expected"),
    [
        ([], (), []),
        ([(0.9, 0), (0.8, 1)], (), []),
        ([(0.9, 2)], (0,), [(2, (0,))]),
        ([(0.9, 0), (0.8, 1), (0.7, 0)], (2, 1, 0), [(0, (0, 2)), (1, (1,))]),
        ([(0.3, 0), (0.8, 1), (0.7, 2), (0.9, 2)], (0, 1, 2, 3), [(2, (3, 2)), (1, (1,)), (0, (0,))]),
        (
            [(0.5, 1), (0.5, 0), (0.5, 1)],
            (2, 1, 0),
            [(1, (2, 0)), (0, (1,))],
        ),  # equal scores keep their order
    ],
)
def test_the_view_of_the_best_object_is_explained_first(found, chosen, expected):
    objects = [DetectedObject((0.0, 0.0, 1.0, 1.0), "can", score, view=view) for score, view in found]
    assert by_view(objects, chosen) == expected


def test_of_more_than_the_cap_the_best_are_explained_unless_that_is_forbidden():
    scores = [0.9 - 0.01 * index for index in range(25)]
    choice = choose(scores, detections="all")
    assert (choice.indices, choice.num_left_out) == (tuple(range(20)), 5)
    with pytest.raises(BadRequest, match="at most 20 boxes of a picture are explained, but this one has 25"):
        choose(scores, detections="all", may_leave_out=False)


@pytest.mark.parametrize(
    ("scores", "detections", "message"),
    [
        ([0.9, 0.8], (0, 2), "'detections' must be indices of the 2 boxes found in this picture, 0 to 1, but got 2"),
        ([], (0,), r"'detections' must be \[\] or 'all', but got 0, since nothing was found in this picture"),
    ],
)
def test_an_index_without_a_box_is_refused_with_what_is_allowed(scores, detections, message):
    with pytest.raises(BadRequest, match=message):
        choose(scores, detections=detections)


def test_only_models_with_masks_explain_masks():
    with pytest.raises(
        BadRequest, match="'target' must be one of score, box for a model without masks, but got 'mask'"
    ):
        choose([0.9], target="mask")
    assert choose([0.9], has_masks=True, target="mask").indices == (0,)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"xai_algorithm": "rise"}, "'xai_algorithm' must be one of odam, d_rise, but got 'rise'"),
        ({"xai_algorithm": "odam", "detections": "some"}, "'detections' must be 'all' or a list of at most 20 indices"),
        ({"xai_algorithm": "odam", "detections": [0, 0]}, "each once"),
        ({"xai_algorithm": "odam", "detections": [-1]}, "'detections' must be"),
        ({"xai_algorithm": "odam", "detections": list(range(21))}, "at most 20"),
        ({"xai_algorithm": "odam", "target": "logit"}, "'target' must be one of score, mask, box, but got 'logit'"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(document, message):
    with pytest.raises(BadRequest, match=message):
        parse_xai_parameters(document, algorithms=DETECTOR_ALGORITHMS)


def test_a_box_is_the_candidate_that_overlaps_it_most_and_has_its_score():
    box = np.array([10.0, 10, 30, 30])
    assert find_match(box, 0.9, NO_BOXES, np.zeros(0)) is None
    candidates = np.array([[0.0, 0, 5, 5], [10, 10, 30, 30], [10, 10, 30, 30], [10, 10, 30, 29]])
    assert find_match(box, 0.9, candidates, np.array([0.9, 0.3, 0.9, 0.9])) == Match(2, 1.0)
    # Same scores: with half a pixel around them, 21 x 11 of 21 x 21 pixels are shared by the nearer one.
    far = find_match(box, 0.9, np.array([[10.0, 20, 30, 30], [0, 0, 11, 11]]), np.array([0.9, 0.9]))
    assert (far.index, far.iou) == (0, pytest.approx(11 / 21))
    thin = find_match(np.array([3, 3, 3.000001, 9]), 0.9, np.array([[3, 3, 3.000002, 9]]), np.array([0.9]))
    assert thin.iou > 0.999
