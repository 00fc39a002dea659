import cv2
import numpy as np
import pytest

from clearsight.handlers.explain.answering.details import ExplanationDetails
from clearsight.handlers.explain.answering.quality import FRACTIONS, Faithfulness, blur_width, measure_faithfulness
from clearsight.handlers.explain.deadline import Deadline

SIDE = 20
FOREVER = Deadline(None)


def left_half() -> np.ndarray:
    """White on the left, black on the right, in all channels."""
    x = np.zeros((3, SIDE, SIDE), np.float32)
    x[:, :, : SIDE // 2] = 1
    return x


def top_left_pixel(points: np.ndarray) -> np.ndarray:
    """Two classes; the first one's probability is the level of the top left pixel."""
    level = points[:, 0, 0, 0]
    return np.stack([level, 1 - level], axis=1)


def test_nothing_to_measure_gives_nothing():
    assert measure_faithfulness([], [], left_half(), top_left_pixel, FOREVER) == []


@pytest.mark.parametrize(("side", "width"), [(64, 17), (224, 59), (96, 25), (20, 5)])
def test_the_blur_grows_with_the_image_and_is_odd(side, width):
    assert blur_width(side) == width


def test_areas_by_hand():
    """The decisive pixel has the highest value: the first step deletes it, or inserts it."""
    x = left_half()
    x[:, 0, 0] = 0.0
    x[:, 0, 0] = 1.0
    gone = float(cv2.blur(x[0], (5, 5))[0, 0])
    heat = np.zeros((SIDE, SIDE))
    heat[0, 0] = 1.0
    (scores,) = measure_faithfulness([heat], [0], x, top_left_pixel, FOREVER)
    # trapezoid: full height at 0, the blurred level from 2 % on
    assert scores.deletion_auc == pytest.approx(0.02 * (1 + gone) / 2 + 0.98 * gone)
    assert scores.insertion_auc == pytest.approx(0.02 * (gone + 1) / 2 + 0.98)


def test_one_bright_pixel_by_hand():
    x = np.zeros((3, SIDE, SIDE), np.float32)
    x[:, 10, 10] = 1.0
    heat = x[0].copy()

    def brightness(points: np.ndarray) -> np.ndarray:
        return points[:, :1, 10, 10]

    (scores,) = measure_faithfulness([heat], [0], x, brightness, FOREVER)
    # 5 x 5 box: 1/25 is left where the pixel was
    assert scores.deletion_auc == pytest.approx(0.02 * (1 + 0.04) / 2 + 0.98 * 0.04)
    assert scores.insertion_auc == pytest.approx(0.02 * (0.04 + 1) / 2 + 0.98)
    (worst,) = measure_faithfulness([-heat], [0], x, brightness, FOREVER)
    # the pixel goes last: full height up to 70 %
    assert worst.deletion_auc == pytest.approx(0.7 + 0.3 * (1 + 0.04) / 2)
    assert scores.deletion_auc < scores.random_deletion_auc == worst.random_deletion_auc


def test_ties_go_by_the_number_of_the_pixel():
    x = np.zeros((3, SIDE, SIDE), np.float32)
    seen = []

    def record(points: np.ndarray) -> np.ndarray:
        seen.append(points)
        return points[:, :1, 0, 0]

    x += np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    measure_faithfulness([np.zeros((SIDE, SIDE))], [0], x, record, FOREVER)
    _, deleted, inserted = seen
    changed = (deleted != x).any(axis=1).reshape(len(FRACTIONS), -1)
    for mask, fraction in zip(changed, FRACTIONS, strict=True):
        count = round(fraction * SIDE * SIDE)
        assert mask[:count].all()
        assert not mask[count:].any()
    assert np.array_equal(deleted[0], inserted[-1])
    assert np.array_equal(deleted[-1], inserted[0])


def test_labels_share_the_random_order_and_the_image_is_left_alone():
    calls, x = [], left_half()

    def count(points: np.ndarray) -> np.ndarray:
        calls.append(len(points))
        return top_left_pixel(points)

    kept = x.copy()
    scores = measure_faithfulness([x[0], x[0]], [0, 1], x, count, FOREVER)
    assert calls == [10] * 5
    assert np.array_equal(x, kept)
    assert scores[0].random_deletion_auc == pytest.approx(1 - scores[1].random_deletion_auc)


def test_labels_without_time_left_are_not_measured():
    now_s = 0.0

    def slow(points: np.ndarray) -> np.ndarray:
        nonlocal now_s
        now_s += 1.0
        return top_left_pixel(points)

    scores = measure_faithfulness(
        [np.zeros((SIDE, SIDE))] * 4, [0, 1, 0, 1], left_half(), slow, Deadline(6.5, clock=lambda: now_s)
    )
    assert [score is not None for score in scores] == [True, True, False, False]
    assert now_s == 5.0  # the third would have ended at 7


def test_details_of_a_plain_gradient_are_null_where_they_mean_nothing():
    document = ExplanationDetails("guided_backprop", "can", 0.75).to_document()
    assert document["algorithm"] == "guided_backprop"
    assert [document[key] for key in ("n_steps_used", "regions", "deletion_auc", "relative_delta")] == [None] * 4
    assert (document["degraded"], document["cached"], document["warnings"]) == (False, False, [])


def test_details_have_the_documented_keys_in_their_order():
    details = ExplanationDetails(
        "xrai", "can", 0.95, n_steps_used=50, regions=309, faithfulness=Faithfulness(0.31, 0.88, 0.64),
        milliseconds={"gradients": 2210.4}, warnings=("plain gradient",),
    )  # fmt: skip
    document = details.to_document()
    assert list(document) == [
        "algorithm", "label", "probability", "score", "n_steps_used", "approximation_method", "baseline",
        "convergence_delta", "relative_delta", "rise", "delta_over_rise", "guided_rule", "localizer", "target_layer",
        "regions", "deletion_auc",
        "insertion_auc", "random_deletion_auc", "deadline_hit", "degraded", "warnings", "milliseconds", "cached",
    ]  # fmt: skip
    assert [document[key] for key in ("deletion_auc", "insertion_auc", "random_deletion_auc")] == [0.31, 0.88, 0.64]
    assert document["milliseconds"] == {"gradients": 2210}
