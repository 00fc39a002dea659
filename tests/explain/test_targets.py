import pytest

from clearsight.errors import BadRequest
from clearsight.handlers.explain.answering.targets import Targets, choose_targets
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.tasks import Task

LABELS = ("can", "carton", "milk_bottle", "water_bottle")
PROBS = (0.98, 0.03, 0.91, 0.10)


def choose(task, max_labels=10, may_leave_out=True, probs=PROBS, **parameters):
    return choose_targets(probs, LABELS, task, XaiParameters(**parameters), max_labels, may_leave_out)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(1.0, ()), (0.99, ()), (0.98, (0,)), (0.5, (0, 2)), (0.1, (0, 2, 3)), (0.0, (0, 1, 2, 3))],
)
def test_multi_label_explains_from_the_threshold_on_in_the_order_of_labels(threshold, expected):
    assert choose(Task.MULTI_LABEL, threshold=threshold) == Targets(expected, is_list=True)


@pytest.mark.parametrize(("probs", "expected"), [(PROBS, 0), ((0.1, 0.2, 0.6, 0.1), 2), ((0.25,) * 4, 0)])
def test_multi_class_explains_the_most_probable_label_the_first_on_ties(probs, expected):
    assert choose(Task.MULTI_CLASS, probs=probs, threshold=1.0) == Targets((expected,), is_list=False)


def test_the_most_probable_labels_stay_where_there_are_too_many():
    assert choose(Task.MULTI_LABEL, max_labels=2, threshold=0.0) == Targets((0, 2), is_list=True, num_left_out=2)
    assert choose(Task.MULTI_LABEL, max_labels=2) == Targets((0, 2), is_list=True, num_left_out=0)
    with pytest.raises(BadRequest, match="at most 2 labels of a picture are explained, but 4 reach the threshold"):
        choose(Task.MULTI_LABEL, max_labels=2, may_leave_out=False, threshold=0.0)


@pytest.mark.parametrize("task", [Task.MULTI_CLASS, Task.MULTI_LABEL])
def test_named_labels_keep_their_order(task):
    assert choose(task, target_labels=("water_bottle", "can")) == Targets((3, 0), is_list=True)
    assert choose(task, target_labels=("carton",)) == Targets((1,), is_list=task is Task.MULTI_LABEL)
    with pytest.raises(BadRequest, match="'target_labels' must name at most 1 labels"):
        choose(task, max_labels=1, target_labels=("can", "carton"))


@pytest.mark.parametrize("task", [Task.MULTI_CLASS, Task.MULTI_LABEL])
def test_a_contrast_is_another_label_of_the_model(task):
    assert choose(task, contrast_label="carton").contrast_id == 1
    for contrast, words in (
        ("can", "must differ from the explained labels"),
        ("tin", "must name labels of this model"),
    ):
        with pytest.raises(BadRequest, match=words):
            choose(task, contrast_label=contrast)
