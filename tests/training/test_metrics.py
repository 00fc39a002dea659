import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from clearsight.errors import TrainingError
from clearsight.tasks import Task
from clearsight.training.classification.metrics import classification_metrics
from clearsight.vision.probabilities import probabilities

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


def test_a_single_image_yields_only_what_is_defined() -> None:
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


def test_weighted_accuracy_weighs_images_by_the_size_of_their_class() -> None:
    true, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    found = classification_metrics(true, np.eye(2)[predicted], MULTI_CLASS)
    assert found["weighted_accuracy"] == pytest.approx(9 / 10)


def test_probabilities_hold_for_large_logits() -> None:
    logits = np.array([[1000.0, 0.0], [-1000.0, 0.0]], np.float32)
    assert probabilities(logits, MULTI_CLASS) == pytest.approx(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert probabilities(logits, MULTI_LABEL) == pytest.approx(np.array([[1.0, 0.5], [0.0, 0.5]]))


def test_answers_that_are_not_finite_are_a_training_that_diverged() -> None:
    with pytest.raises(TrainingError, match="must stay finite"):
        classification_metrics(np.array([0]), np.array([[np.nan, 0.5]]), MULTI_CLASS)


def plain_auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Share of pairs in which the image with the class has the higher score; equal scores count half."""
    with_class, without = scores[truth == 1], scores[truth == 0]
    pairs = [float(a > b) + 0.5 * float(a == b) for a in with_class for b in without]
    return float(np.mean(pairs)) if pairs else None


def plain_average_precision(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Precision at each score from the highest down, weighted by the recall it adds."""
    if truth.sum() == 0:
        return None
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        recall = truth[found].sum() / truth.sum()
        total += (recall - recall_before) * truth[found].sum() / found.sum()
        recall_before = recall
    return total


def plain_ranking(truth: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    expected: dict[str, float | None] = {}
    for name, score in (("AUC", plain_auc), ("average_precision_score", plain_average_precision)):
        known = {k: value for k in range(probs.shape[1]) if (value := score(truth[:, k], probs[:, k])) is not None}
        weights = {k: truth[:, k].sum() for k in known}
        total = sum(weights.values())
        expected[f"{name}_macro"] = sum(known.values()) / len(known) if known else None
        expected[f"{name}_weighted"] = sum(known[k] * weights[k] for k in known) / total if total else None
        expected[f"{name}_micro"] = score(truth.ravel(), probs.ravel())
    return {name: value for name, value in expected.items() if value is not None}


def plain_report(report: dict[str, dict[str, float]], averages: dict[str, str]) -> dict[str, float]:
    columns = {"precision": "precision_score", "recall": "recall_score", "f1-score": "f1_score"}
    return {f"{columns[c]}_{a}": report[row][c] for a, row in averages.items() for c in columns}


@st.composite
def multi_class_passes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Up to 12 images of 2 to 5 classes, some of them absent; few different scores, so that many are equal."""
    num_classes = draw(st.integers(2, 5))
    true = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=12))
    row = st.lists(st.integers(0, 4), min_size=num_classes, max_size=num_classes).filter(any)
    weights = np.array([draw(row) for _ in true], np.float64)
    return np.array(true), weights / weights.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=40)
@given(multi_class_passes())
def test_any_multi_class_pass_has_exactly_the_defined_metrics(given_pass: tuple[np.ndarray, np.ndarray]) -> None:
    true, probs = given_pass
    num_classes = probs.shape[1]
    predicted = np.array([row.index(max(row)) for row in probs.tolist()])
    size = {k: int((true == k).sum()) for k in range(num_classes)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn about absent classes
        report = sk.classification_report(true, predicted, output_dict=True, zero_division=0)
        expected = {
            "accuracy": np.mean(true == predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
            "weighted_accuracy": sum(size[t] for t, p in zip(true, predicted, strict=True) if t == p)
            / sum(size[t] for t in true),
            "log_loss": -np.mean(
                [np.log(max(row[t], np.finfo(float).eps)) for t, row in zip(true, probs, strict=True)]
            ),
        }
    expected |= plain_report(report, {"macro": "macro avg", "weighted": "weighted avg"})
    expected |= dict.fromkeys(("precision_score_micro", "recall_score_micro", "f1_score_micro"), expected["accuracy"])
    chance = 1 / num_classes
    expected["norm_macro_recall"] = (expected["recall_score_macro"] - chance) / (1 - chance)
    if len({*true.tolist(), *predicted.tolist()}) > 1:
        expected["matthews_correlation"] = sk.matthews_corrcoef(true, predicted)
    expected |= plain_ranking(np.array([[t == k for k in range(num_classes)] for t in true]).astype(int), probs)
    if num_classes == 2:
        for name in ("precision_score", "recall_score", "f1_score"):
            expected[f"{name}_binary"] = getattr(sk, name)(true == 1, predicted == 1, zero_division=0)
        found_binary = {"AUC": plain_auc, "average_precision_score": plain_average_precision}
        for name, score in found_binary.items():
            value = score(true, probs[:, 1])
            expected |= {} if value is None else {f"{name}_binary": value}
    assert classification_metrics(true, probs, MULTI_CLASS) == pytest.approx(expected, abs=1e-12)


@st.composite
def multi_label_passes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    num_classes = draw(st.integers(1, 4))
    truth_row = st.lists(st.integers(0, 1), min_size=num_classes, max_size=num_classes)
    truth = draw(st.lists(truth_row, min_size=1, max_size=10))
    score_row = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=num_classes, max_size=num_classes)
    return np.array(truth), np.array([draw(score_row) for _ in truth])


@settings(deadline=None, max_examples=40)
@given(multi_label_passes())
def test_any_multi_label_pass_has_exactly_the_defined_metrics(given_pass: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probs = given_pass
    num_classes = truth.shape[1]
    pairs = [
        ({k for k in range(num_classes) if row[k]}, {k for k in range(num_classes) if scores[k] >= 0.5})
        for row, scores in zip(truth.tolist(), probs.tolist(), strict=True)
    ]
    both = [sum(k in t and k in p for t, p in pairs) for k in range(num_classes)]
    either = [sum(k in t or k in p for t, p in pairs) for k in range(num_classes)]
    support = [sum(k in t for t, _ in pairs) for k in range(num_classes)]
    per_class = [b / e if e else 0.0 for b, e in zip(both, either, strict=True)]
    of_truth = np.clip(np.where(truth == 1, probs, 1 - probs), np.finfo(float).eps, None)
    expected = {
        "accuracy": np.mean([t == p for t, p in pairs]),
        "iou": np.mean([len(t & p) / len(t | p) if t | p else 1.0 for t, p in pairs]),
        "iou_macro": np.mean(per_class),
        "iou_micro": sum(both) / sum(either) if sum(either) else 0.0,
        "iou_weighted": np.dot(per_class, support) / sum(support) if sum(support) else 0.0,
        "log_loss": -np.mean(np.log(of_truth)),
    }
    padded = [np.column_stack([array, np.zeros(len(pairs), int)]) for array in (truth, (probs >= 0.5).astype(int))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A second column makes one class multi-label to scikit-learn; `labels` leaves it out again.
        report = sk.classification_report(*padded, labels=range(num_classes), output_dict=True, zero_division=0)
    report.setdefault("micro avg", report["0"])  # of all labels, scikit-learn calls it accuracy and leaves it out
    expected |= plain_report(report, {"macro": "macro avg", "weighted": "weighted avg", "micro": "micro avg"})
    expected |= plain_ranking(truth, probs)
    assert classification_metrics(truth, probs, MULTI_LABEL) == pytest.approx(expected, abs=1e-9)
