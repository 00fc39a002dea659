"""The classification report: metrics of each class, and the averages that are logged as metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clearsight.tasks import Task
from clearsight.training.charts.curves import Curve, Curves

__all__ = ["AVERAGES", "COLUMNS", "Report", "build_report"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.int8]

COLUMNS: Final = ("precision", "recall", "f1-score", "support", "AUC", "average_precision")
AVERAGES: Final = ("micro", "macro", "weighted")
_SCALARS: Final = ("precision_score", "recall_score", "f1_score", None, "AUC", "average_precision_score")


@dataclass(frozen=True, slots=True)
class Report:
    """Rows: classes, then averages; columns: `COLUMNS`. NaN where undefined."""

    classes: tuple[str, ...]
    per_class_KC: Floats
    averages_AC: Floats

    def to_document(self) -> dict[str, Any]:
        """Azure's document (schema 1.0.0 of its evaluation component: columns up to `support`) and two more columns."""
        rows = [*self.per_class_KC.tolist(), *self.averages_AC.tolist()]
        data = {
            "class_labels": list(self.classes),
            "average": [f"{name} avg" for name in AVERAGES],
            "columns": list(COLUMNS),
            "matrix": [[value if np.isfinite(value) else None for value in row] for row in rows],
        }
        return {"schema_type": "classification_report", "schema_version": "1.0.0", "data": data}


def build_report(
    classes: tuple[str, ...],
    truth_NK: Bits,
    predicted_NK: Bits,
    roc: Curves,
    precision_recall: Curves,
    scalars: Mapping[str, float],
    task: Task,
) -> Report:
    """Make the report: classes from the 0/1 arrays, averages from the metrics of the same pass.

    Precision without predictions and recall without images are 0, as in scikit-learn. A multi-class row that has
    neither is undefined: its class is not in the averages.
    """
    hits, predicted, support = (array.sum(axis=0) for array in (truth_NK * predicted_NK, predicted_NK, truth_NK))
    scores = [_share(hits, predicted), _share(hits, support), _share(2 * hits, predicted + support)]
    if task is Task.MULTI_CLASS:
        for score in scores:
            score[predicted + support == 0] = np.nan
    areas = [_areas(curves.per_class) for curves in (roc, precision_recall)]
    total = float(support.sum())
    averages = [
        [total if name is None else scalars.get(f"{name}_{average}", np.nan) for name in _SCALARS]
        for average in AVERAGES
    ]
    per_class_KC = np.stack([*scores, support.astype(np.float64), *areas], axis=1)
    return Report(classes, per_class_KC, np.array(averages))


def _share(part: Ints, whole: Ints) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _areas(curves: tuple[Curve | None, ...]) -> Floats:
    return np.array([np.nan if curve is None else curve.area for curve in curves])
