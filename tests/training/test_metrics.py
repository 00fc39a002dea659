import numpy as np
import pytest
from sklearn import metrics as sk

from clearsight.tasks import Task
from clearsight.training.metrics import classification_metrics, probabilities

MULTI_CLASS, MULTI_LABEL = Task.MULTI_CLASS, Task.MULTI_LABEL


def one_hot_scores(rows: list[set[int]], num_classes: int) -> np.ndarray:
    return np.array([[0.9 if k in row else 0.1 for k in range(num_classes)] for row in rows])


def test_iou_of_the_worked_example() -> None:
    truth = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    found = classification_metrics(truth, one_hot_scores([{0}, {1}, {0, 1, 2}], 3), MULTI_LABEL)
    assert found["iou"] == pytest.approx(0.7222, abs=5e-5)
    assert found["iou_macro"] == pytest.approx(0.7778, abs=5e-5)
    assert found["iou_micro"] == pytest.approx(0.6667, abs=5e-5)
    assert found["iou_weighted"] == pytest.approx(0.7333, abs=5e-5)
    assert found["accuracy"] == pytest.approx(1 / 3)


def test_an_image_without_labels_and_without_predictions_is_right() -> None:
    found = classification_metrics(np.array([[0, 0], [1, 0]]), one_hot_scores([set(), {0}], 2), MULTI_LABEL)
    assert found["iou"] == found["accuracy"] == 1.0


def test_a_probability_of_one_half_predicts_the_class() -> None:
    found = classification_metrics(np.array([[1, 0]]), np.array([[0.5, 0.4999]]), MULTI_LABEL)
    assert found["accuracy"] == 1.0


def test_a_single_picture_yields_only_what_is_defined() -> None:
    found = classification_metrics(np.array([1]), np.array([[0.2, 0.7, 0.1]]), MULTI_CLASS)
    assert found["accuracy"] == 1.0
    assert "AUC_macro" not in found
    assert np.isfinite(list(found.values())).all()


def test_multi_class_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 60)
    probs = random.dirichlet(np.ones(4), 60)
    probs[np.arange(60), true] += 0.3
    probs /= probs.sum(axis=1, keepdims=True)
    predicted, truth = probs.argmax(axis=1), np.eye(4)[true]
    found = classification_metrics(true, probs, MULTI_CLASS)
    expected = {
        "accuracy": sk.accuracy_score(true, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
        "matthews_correlation": sk.matthews_corrcoef(true, predicted),
        "log_loss": sk.log_loss(true, probs),
        "norm_macro_recall": sk.balanced_accuracy_score(true, predicted, adjusted=True),
        "AUC_macro": sk.roc_auc_score(true, probs, multi_class="ovr", average="macro"),
        "AUC_weighted": sk.roc_auc_score(true, probs, multi_class="ovr", average="weighted"),
        "AUC_micro": sk.roc_auc_score(truth, probs, average="micro"),
    }
    for average in ("macro", "micro", "weighted"):
        expected |= {
            f"f1_score_{average}": sk.f1_score(true, predicted, average=average),
            f"precision_score_{average}": sk.precision_score(true, predicted, average=average),
            f"recall_score_{average}": sk.recall_score(true, predicted, average=average),
            f"average_precision_score_{average}": sk.average_precision_score(truth, probs, average=average),
        }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert not [name for name in found if name.endswith("_binary")]


def test_two_classes_have_binary_metrics_of_the_second_one() -> None:
    true, scores = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.4, 0.8, 0.9])
    found = classification_metrics(true, np.column_stack([1 - scores, scores]), MULTI_CLASS)
    assert found["precision_score_binary"] == pytest.approx(2 / 3)
    assert found["recall_score_binary"] == pytest.approx(2 / 3)
    assert found["AUC_binary"] == pytest.approx(5 / 6)
    assert found["norm_macro_recall"] == pytest.approx((0.5 * (1 / 2 + 2 / 3) - 0.5) / 0.5)


def test_a_class_that_validation_lacks_is_left_out_of_ranking_averages() -> None:
    true, probs = np.array([0, 0, 1, 1]), np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    found = classification_metrics(true, probs, MULTI_CLASS)
    both = [sk.roc_auc_score(true == k, probs[:, k]) for k in (0, 1)]
    assert found["AUC_macro"] == pytest.approx(np.mean(both))
    assert np.isfinite(list(found.values())).all()


def test_weighted_accuracy_weighs_pictures_by_the_size_of_their_class() -> None:
    true, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    found = classification_metrics(true, np.eye(2)[predicted], MULTI_CLASS)
    assert found["weighted_accuracy"] == pytest.approx(9 / 10)


def test_probabilities_hold_for_large_logits() -> None:
    logits = np.array([[1000.0, 0.0], [-1000.0, 0.0]], np.float32)
    assert probabilities(logits, MULTI_CLASS) == pytest.approx(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert probabilities(logits, MULTI_LABEL) == pytest.approx(np.array([[1.0, 0.5], [0.0, 0.5]]))
