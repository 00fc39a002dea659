"""ROC and precision-recall curves: each class against the rest, and averages; computed by scikit-learn.

Legend of shapes: N images, K classes, P points of a curve.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn import metrics  # type: ignore[import-untyped]

__all__ = ["MAX_POINTS", "Curve", "Curves", "precision_recall_curves", "roc_curves", "thin"]

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.int8]

MAX_POINTS: Final = 500
"""Largest number of points of a curve; more cannot be distinguished in an image."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart, reduced to `MAX_POINTS` points."""

    x_P: Floats
    y_P: Floats
    thresholds_P: Floats | None
    """The score at or above which a class counts as predicted; not finite where a point has none."""
    area: float
    """Area under the curve of all points, before their number is reduced: AUC or average precision."""


@dataclass(frozen=True, slots=True)
class Curves:
    """All lines of a chart."""

    per_class: tuple[Curve | None, ...]
    """The curves by name; None where the validation images leave a curve undefined."""
    averages: Mapping[str, Curve]

    def to_document(self, chart: str, classes: tuple[str, ...], x_name: str, y_name: str, area_name: str) -> Any:
        def lines(curve: Curve) -> dict[str, Any]:
            document: dict[str, Any] = {x_name: _rounded(curve.x_P), y_name: _rounded(curve.y_P)}
            if curve.thresholds_P is not None:
                document["thresholds"] = _rounded(curve.thresholds_P)
            return {**document, area_name: curve.area}

        data = {
            "class_labels": list(classes),
            "per_class": [None if curve is None else lines(curve) for curve in self.per_class],
            "average": {name: lines(curve) for name, curve in self.averages.items()},
        }
        return {"schema_type": chart, "schema_version": "1.0.0", "data": data}


def roc_curves(truth_NK: Bits, probs_NK: Floats) -> Curves:
    """x: false positive rate, y: true positive rate, both ascending. Averages: `micro`, `macro`, where defined.

    `micro` pools all cells of the two arrays; `macro` is the mean height of the defined curves, so that its area is
    the mean of theirs. A class needs images with and without it.
    """
    full = _per_class(_roc, truth_NK, probs_NK)
    averages = {"micro": _roc(truth_NK.ravel(), probs_NK.ravel()), "macro": _mean_height(full)}
    return _thinned(full, averages)


def precision_recall_curves(truth_NK: Bits, probs_NK: Floats) -> Curves:
    """x: recall, descending; y: precision. The last point, recall 0 and precision 1, has no threshold.

    Average: `micro`, where defined. A class needs images with it.
    """
    full = _per_class(_precision_recall, truth_NK, probs_NK)
    return _thinned(full, {"micro": _precision_recall(truth_NK.ravel(), probs_NK.ravel())})


def thin(curve: Curve, max_points: int = MAX_POINTS) -> Curve:
    """Keep points at equal distances along the curve, both ends included.

    Every point left out is at most `length / (max_points - 1)` from one that is kept, in |dx| + |dy|; the length of a
    ROC curve is 2.
    """
    if len(curve.x_P) <= max_points:
        return curve
    steps = np.abs(np.diff(curve.x_P)) + np.abs(np.diff(curve.y_P))
    lengths = np.concatenate([[0.0], np.cumsum(steps)])
    kept = np.unique(np.searchsorted(lengths, np.linspace(0.0, lengths[-1], max_points)))
    kept[-1] = len(lengths) - 1  # points equal to the end may precede it
    thresholds_P = None if curve.thresholds_P is None else curve.thresholds_P[kept]
    return Curve(curve.x_P[kept], curve.y_P[kept], thresholds_P, curve.area)


def _roc(truth_N: Bits, scores_N: Floats) -> Curve | None:
    if not 0 < truth_N.sum() < len(truth_N):
        return None
    x_P, y_P, thresholds_P = metrics.roc_curve(truth_N, scores_N)
    return Curve(x_P, y_P, thresholds_P, float(metrics.roc_auc_score(truth_N, scores_N)))


def _precision_recall(truth_N: Bits, scores_N: Floats) -> Curve | None:
    if truth_N.sum() == 0:
        return None
    precision_P, recall_P, thresholds = metrics.precision_recall_curve(truth_N, scores_N, drop_intermediate=True)
    area = float(metrics.average_precision_score(truth_N, scores_N))
    return Curve(recall_P, precision_P, np.append(thresholds, np.inf), area)


def _mean_height(curves: tuple[Curve | None, ...]) -> Curve | None:
    """The mean of the curves at every x where one of them has a point, from the left and from the right."""
    known = [curve for curve in curves if curve is not None]
    if not known:
        return None
    grid = np.unique(np.concatenate([curve.x_P for curve in known]))
    below, above = np.zeros_like(grid), np.zeros_like(grid)
    for curve in known:  # of equal x, `np.interp` takes the last: the upper end, or of the mirrored curve the lower
        below += np.interp(-grid, -curve.x_P[::-1], curve.y_P[::-1])
        above += np.interp(grid, curve.x_P, curve.y_P)
    y_P = np.stack([below, above], axis=1).ravel() / len(known)
    return Curve(np.repeat(grid, 2), y_P, None, float(np.mean([curve.area for curve in known])))


def _per_class(
    curve_of: Callable[[Bits, Floats], Curve | None], truth_NK: Bits, probs_NK: Floats
) -> tuple[Curve | None, ...]:
    return tuple(curve_of(truth_NK[:, k], probs_NK[:, k]) for k in range(truth_NK.shape[1]))


def _thinned(per_class: tuple[Curve | None, ...], averages: Mapping[str, Curve | None]) -> Curves:
    return Curves(
        per_class=tuple(None if curve is None else thin(curve) for curve in per_class),
        averages={name: thin(curve) for name, curve in averages.items() if curve is not None},
    )


def _rounded(values_P: Floats) -> list[float | None]:
    """Round to six digits, finer than an image shows; None for numbers that are not finite, which JSON lacks."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values_P.tolist()]
