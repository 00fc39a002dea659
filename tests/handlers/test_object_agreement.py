"""Whether two answers find the same objects. Boxes are in tenths of the image, worked out by hand."""

import pytest

from clearsight.handlers.tuning.object_agreement import Agreement, match_objects
from clearsight.handlers.tuning.precision_gate import compare_objects
from clearsight.wire.answers import DetectedObject, DetectionAnswer

SQUARE = (0.1, 0.1, 0.5, 0.5)
TRIANGLE = ((0.1, 0.1, 0.5, 0.1, 0.1, 0.5),)
OTHER_TRIANGLE = ((0.5, 0.5, 0.1, 0.5, 0.5, 0.1),)


def found(box=SQUARE, label="can", score=0.8, polygon=None) -> DetectedObject:
    return DetectedObject(box, label, score, polygon)


def test_nothing_matches_nothing():
    assert match_objects([], []) == []
    assert match_objects([found()], []) == []
    assert match_objects([], [found()]) == []


@pytest.mark.parametrize(
    ("other", "matches"),
    [
        (found(), True),
        (found(label="carton"), False),
        (found(box=(0.1, 0.1, 0.5, 0.54)), True),  # IoU 0.40 / 0.44
        (found(box=(0.1, 0.1, 0.5, 0.55)), False),  # IoU 0.40 / 0.45
        (found(score=0.1), True),
    ],
)
def test_equal_classes_and_nearly_equal_boxes_make_a_pair(other, matches):
    assert bool(match_objects([found()], [other])) == matches


def test_masks_must_agree_where_both_have_one():
    first = found(polygon=TRIANGLE)
    assert match_objects([first], [found(polygon=TRIANGLE)])
    assert match_objects([first], [found()])
    assert not match_objects([first], [found(polygon=OTHER_TRIANGLE)])


def test_an_object_has_one_partner():
    pairs = match_objects([found(score=0.7), found(score=0.9)], [found(score=0.88)])
    assert [(one.score, other.score) for one, other in pairs] == [(0.9, 0.88)]


def test_what_a_rounding_at_the_threshold_decides_is_forgiven():
    agreement = Agreement(score_threshold=0.3, margin=0.01)
    agreement.add(DetectionAnswer((found(), found(label="a", score=0.305))), DetectionAnswer((found(score=0.78),)))
    assert agreement.f1 == 1.0
    assert agreement.score_differences == [pytest.approx(0.02)]
    agreement.add(DetectionAnswer(()), DetectionAnswer((found(score=0.32),)))
    assert agreement.f1 == 2 / 3


def test_the_gate_needs_99_of_100_objects_and_near_scores():
    many = [DetectionAnswer((found(),))] * 100
    same = compare_objects(many, many, 0.3)
    assert (same["passed"], same["agreement"], same["num_objects"], same["num_images"]) == (True, 1.0, 100, 100)
    one_lost = compare_objects(many, [*many[:99], DetectionAnswer(())], 0.3)
    assert one_lost["passed"]
    assert one_lost["agreement"] == pytest.approx(198 / 199)
    three_lost = compare_objects(many, [*many[:97], *[DetectionAnswer(())] * 3], 0.3)
    assert (three_lost["passed"], three_lost["agreement"]) == (False, pytest.approx(194 / 197))
    shifted = compare_objects(many, [DetectionAnswer((found(score=0.785),))] * 100, 0.3)
    assert (shifted["passed"], shifted["mean_abs_diff_probs"]) == (False, pytest.approx(0.015))


def test_images_without_objects_prove_nothing():
    empty = [DetectionAnswer(())] * 20
    result = compare_objects(empty, empty, 0.3)
    assert (result["passed"], result["reason"]) == (False, "the pictures show no object")
    only_one = compare_objects([DetectionAnswer((found(),))], [DetectionAnswer(())], 0.3)
    assert (only_one["passed"], only_one["agreement"]) == (False, 0.0)
