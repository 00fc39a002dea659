"""Values and images of the charts; scikit-learn is the oracle."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk

from clearsight.tasks import Task
from clearsight.training.charts import write_charts
from clearsight.training.charts.confusion import row_shares
from clearsight.training.charts.curves import MAX_POINTS, Curve, precision_recall_curves, roc_curves, thin
from clearsight.training.charts.lettering import choose_lettering
from clearsight.training.classification.metrics import classification_metrics

MULTI_CLASS, MULTI_LABEL = Task.MULTI_CLASS, Task.MULTI_LABEL
NAMES = ("confusion_matrix", "roc_curve", "precision_recall_curve", "classification_report")


def made_up(num_images: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and probabilities that are often right."""
    random = np.random.default_rng(seed)
    true = random.integers(0, num_classes, num_images)
    logits = random.normal(0, 1, (num_images, num_classes)) + 2.0 * np.eye(num_classes)[true]
    return true, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def read(folder: Path, name: str) -> dict[str, Any]:
    document = json.loads((folder / f"{name}.json").read_text(), parse_constant=refuse)
    assert document["schema_version"] == "1.0.0"
    return document


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """Charts of 80 images of four classes, of which the last has no images."""
    folder = tmp_path_factory.mktemp("charts") / "metrics"
    true, probs = made_up(80, 4)
    true[true == 3] = 0
    files = write_charts(folder, true, probs, ("can", "carton", "milk_bottle", "absent"), MULTI_CLASS)
    assert sorted(files) == sorted(folder.iterdir())
    return folder, true, probs


def test_one_image_is_enough(tmp_path: Path) -> None:
    files = write_charts(tmp_path, np.array([1]), np.array([[0.2, 0.7, 0.1]]), ("a", "b", "c"), MULTI_CLASS)
    assert len(files) == 9
    assert read(tmp_path, "roc_curve")["data"]["per_class"] == [None, None, None]
    report = read(tmp_path, "classification_report")["data"]
    assert report["matrix"][0] == [None, None, None, 0.0, None, None]
    assert report["matrix"][1] == [1.0, 1.0, 1.0, 1.0, None, 1.0]


def test_a_multi_label_pass_without_any_label_is_drawn_too(tmp_path: Path) -> None:
    write_charts(tmp_path, np.zeros((3, 1), int), np.full((3, 1), 0.2), ("only",), MULTI_LABEL)
    assert read(tmp_path, "roc_curve")["data"] == {"class_labels": ["only"], "per_class": [None], "average": {}}
    assert read(tmp_path, "confusion_matrix")["data"]["matrices"] == [[[3, 0], [0, 0]]]


def test_every_chart_is_a_document_with_an_image(written: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, *_ = written
    for name in NAMES:
        document = read(folder, name)
        assert document["schema_type"] == name
        assert document["data"]["class_labels"] == ["can", "carton", "milk_bottle", "absent"]
    for name in (*NAMES, "confusion_matrix_normalized"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 150


def test_the_confusion_matrix_counts_truth_in_rows(written: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, true, probs = written
    expected = sk.confusion_matrix(true, probs.argmax(axis=1), labels=range(4))
    assert read(folder, "confusion_matrix")["data"]["matrix"] == expected.tolist()


def test_a_row_without_images_has_no_shares() -> None:
    shares = row_shares(np.array([[3, 1], [0, 0]]))
    assert shares[0].tolist() == [0.75, 0.25]
    assert np.isnan(shares[1]).all()


def test_curves_are_scikit_learns(written: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, true, probs = written
    truth = np.eye(4, dtype=int)[true]
    roc = read(folder, "roc_curve")["data"]
    recall = read(folder, "precision_recall_curve")["data"]
    columns = [(truth[:, k], probs[:, k], roc["per_class"][k], recall["per_class"][k]) for k in range(3)]
    columns.append((truth.ravel(), probs.ravel(), roc["average"]["micro"], recall["average"]["micro"]))
    for labels, scores, roc_curve, recall_curve in columns:
        fpr, tpr, thresholds = sk.roc_curve(labels, scores)
        assert roc_curve["fpr"] == pytest.approx(fpr, rel=1e-5)
        assert roc_curve["tpr"] == pytest.approx(tpr, rel=1e-5)
        assert roc_curve["thresholds"][0] is None  # infinite: nothing is predicted
        assert roc_curve["thresholds"][1:] == pytest.approx(thresholds[1:], rel=1e-5)
        assert roc_curve["AUC"] == pytest.approx(sk.roc_auc_score(labels, scores))
        assert recall_curve["average_precision"] == pytest.approx(sk.average_precision_score(labels, scores))
        precisions, recalls, thresholds = sk.precision_recall_curve(labels, scores)
        full = dict(zip(thresholds.tolist(), zip(precisions, recalls, strict=False), strict=False))
        assert (recall_curve["precision"][-1], recall_curve["recall"][-1]) == (1.0, 0.0)
        assert recall_curve["thresholds"].pop() is None
        for position, threshold in enumerate(recall_curve["thresholds"]):
            nearest = min(full, key=lambda one: abs(one - threshold))
            point = (recall_curve["precision"][position], recall_curve["recall"][position])
            assert point == pytest.approx(full[nearest], rel=1e-5)
    assert roc["per_class"][3] is recall["per_class"][3] is None


def test_the_macro_roc_curve_has_the_mean_area_of_the_classes() -> None:
    true, probs = made_up(150, 5, seed=3)
    macro = roc_curves(np.eye(5, dtype=np.int8)[true], probs).averages["macro"]
    assert np.trapezoid(macro.y_P, macro.x_P) == pytest.approx(sk.roc_auc_score(true, probs, multi_class="ovr"))
    assert (macro.x_P[0], macro.y_P[0], macro.x_P[-1], macro.y_P[-1]) == (0, 0, 1, 1)
    assert (np.diff(macro.x_P) >= 0).all()
    assert (np.diff(macro.y_P) >= 0).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60), st.integers(2, 30))
def test_a_thinned_curve_keeps_its_ends_and_its_shape(steps: list[tuple[int, int]], max_points: int) -> None:
    x, y = np.cumsum(np.array([(0, 0), *steps]), axis=0).T / 100
    curve = thin(Curve(x, y, np.arange(len(x), dtype=float), 0.5), max_points)
    assert len(curve.x_P) <= max_points
    assert curve.thresholds_P is not None
    assert {0.0, len(x) - 1.0} <= set(curve.thresholds_P) | ({0.0} if len(curve.x_P) == 1 else set())
    kept = np.column_stack([curve.x_P, curve.y_P])
    farthest = max(np.abs(kept - point).sum(axis=1).min() for point in np.column_stack([x, y]))
    assert farthest <= (x[-1] + y[-1]) / (max_points - 1) + 1e-12


def test_a_curve_of_many_images_is_thinned() -> None:
    true, probs = made_up(20_000, 2, seed=1)
    truth = np.eye(2, dtype=np.int8)[true]
    for curves in (roc_curves(truth, probs), precision_recall_curves(truth, probs)):
        assert len(curves.per_class[0].x_P) <= MAX_POINTS  # type: ignore[union-attr]
    roc = roc_curves(truth, probs).per_class[0]
    assert roc is not None
    assert roc.area == sk.roc_auc_score(truth[:, 0], probs[:, 0])
    assert np.trapezoid(roc.y_P, roc.x_P) == pytest.approx(roc.area, abs=0.001)


def test_the_report_is_scikit_learns_with_two_more_columns(written: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, true, probs = written
    data = read(folder, "classification_report")["data"]
    assert data["columns"] == ["precision", "recall", "f1-score", "support", "AUC", "average_precision"]
    assert data["average"] == ["micro avg", "macro avg", "weighted avg"]
    predicted = probs.argmax(axis=1)
    expected = sk.classification_report(true, predicted, labels=range(4), output_dict=True, zero_division=0)
    for k, row in enumerate(data["matrix"][:4]):
        assert row[:4] == pytest.approx([expected[str(k)][column] for column in data["columns"][:4]])
    assert data["matrix"][3][4:] == [None, None]  # no images: no ranking
    scalars = classification_metrics(true, probs, MULTI_CLASS)
    for average, row in zip(("micro", "macro", "weighted"), data["matrix"][4:], strict=True):
        names = ("precision_score", "recall_score", "f1_score", "", "AUC", "average_precision_score")
        assert row == pytest.approx([scalars[f"{name}_{average}"] if name else 80.0 for name in names])


def test_multi_label_has_a_two_by_two_matrix_for_each_class(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    truth, probs = random.integers(0, 2, (40, 3)), random.random((40, 3))
    write_charts(tmp_path, truth, probs, ("a", "b", "c"), MULTI_LABEL)
    document = read(tmp_path, "confusion_matrix")
    assert document["schema_type"] == "multilabel_confusion_matrix"
    expected = sk.multilabel_confusion_matrix(truth, probs >= 0.5)
    assert document["data"]["matrices"] == expected.tolist()
    roc = read(tmp_path, "roc_curve")["data"]
    assert [curve["AUC"] for curve in roc["per_class"]] == pytest.approx(sk.roc_auc_score(truth, probs, average=None))


AWKWARD = (
    "$x^2$ and $y_",
    "_hidden",
    "حليب كامل الدسم",
    "בקבוק מים",
    "牛乳パック",
    "🥛 milk",
    "two\nlines\tand a tab",
    "turn \u202e around",
    "\x07bell",
    "a very long class name that says everything about the bottle, its cap and its colour (red)",
    "a very long class name that says everything about the bottle, its cap and its color (red)",
    "",
)


def test_awkward_names_are_drawn_without_a_warning(tmp_path: Path) -> None:
    true, probs = made_up(60, len(AWKWARD))
    write_charts(tmp_path, true, probs, AWKWARD, MULTI_CLASS)  # warnings are errors here
    assert read(tmp_path, "confusion_matrix")["data"]["class_labels"] == list(AWKWARD)


def test_names_as_drawn_are_short_single_lines_and_all_different() -> None:
    names = choose_lettering(AWKWARD).names
    assert names[:2] == AWKWARD[:2]
    assert names[6] == "two lines and a tab"
    assert names[9:] == ("a very long class nam…lour (red)", "a very long class nam…olor (red)", "[11]")
    assert len(set(names)) == len(names)
    assert "□" not in names[4] or names[4].endswith("[4]")  # where no font has Japanese, the id tells the class
    for name in names:
        assert len(name) <= 40
        assert not {unicodedata.category(c) for c in name} & {"Cc", "Cs", "Zl", "Zp"}


def test_an_error_in_drawing_leaves_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("a broken font")

    monkeypatch.setattr("clearsight.training.charts.draw_curves.draw_curves", break_down)
    with pytest.raises(RuntimeError, match="a broken font"):
        write_charts(tmp_path, *made_up(20, 2), ("a", "b"), MULTI_CLASS)
    assert {file.stem for file in tmp_path.glob("*.json")} == set(NAMES)


def test_a_name_that_ends_like_a_class_id_is_not_confused_with_another() -> None:
    assert choose_lettering(["a", "a ", "a [1]"]).names == ("a [0]", "a [1]", "a [1] [2]")


def test_names_that_would_look_the_same_carry_their_class_id() -> None:
    assert choose_lettering([f"{'x' * 30}{k}{'y' * 30}" for k in range(2)]).names[1].endswith("yyyy [1]")


@pytest.mark.slow
def test_a_hundred_classes_make_images_of_sensible_size(tmp_path: Path) -> None:
    true, probs = made_up(600, 101)
    for file in write_charts(tmp_path, true, probs, tuple(f"class {k}" for k in range(101)), MULTI_CLASS):
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert max(image.size) < 3500
                assert math.prod(image.size) > 60_000
            assert file.stat().st_size < 700_000
