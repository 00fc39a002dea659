"""Tables with a bar behind each number: classification report, multi-label confusion, metrics of each class."""

from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from clearsight.training.charts.detection import PER_LABEL_COLUMNS, PerLabelTable
from clearsight.training.charts.report import AVERAGES, COLUMNS, Report
from clearsight.training.charts.style import BAR, INK, MUTED, RULE, blank_axes

__all__ = ["MAX_ROWS", "draw_confusion_per_class", "draw_per_label", "draw_report"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_ROWS: Final = 100
"""Largest number of classes in a table; of more, the worst ones are shown, by F1-score or average precision."""

_ROW: Final = 0.24  # inches
_COLUMN: Final = 1.0  # inches
_GAP: Final = 0.12  # of a column, between bars
_BAR_HEIGHT: Final = 13.5  # points, 0.78 of a row


def draw_report(report: Report, names: tuple[str, ...]) -> Axes:
    """One row per class, then the averages."""
    shown = _worst(report.per_class_KC[:, COLUMNS.index("f1-score")])
    values_RC = np.concatenate([report.per_class_KC[shown], report.averages_AC])
    shares_RC = values_RC.copy()
    shares_RC[:, COLUMNS.index("support")] = np.nan
    headings = ["precision", "recall", "F1-score", "support", "AUC", "av. precision"]
    row_names = [*(names[k] for k in shown), *(f"{name} average" for name in AVERAGES)]
    texts = _texts(values_RC, "support", COLUMNS)
    axes = _draw(row_names, headings, texts, shares_RC, _title("Classification report", shown, names))
    axes.plot([0, len(COLUMNS) - _GAP], [len(shown) - 0.5] * 2, color=MUTED, linewidth=0.8)
    return axes


def draw_per_label(table: PerLabelTable, names: tuple[str, ...], title: str) -> Axes:
    """One row per class, then their mean and the sum of their objects."""
    shown = _worst(table.per_class_KC[:, PER_LABEL_COLUMNS.index("average_precision")])
    values_RC = np.concatenate([table.per_class_KC[shown], table.mean_C[None]])
    shares_RC = values_RC.copy()
    shares_RC[:, PER_LABEL_COLUMNS.index("num_objects")] = np.nan
    texts = _texts(values_RC, "num_objects", PER_LABEL_COLUMNS)
    row_names = [*(names[k] for k in shown), "mean, sum of objects"]
    headings = ["precision", "recall", "av. precision", "objects"]
    axes = _draw(row_names, headings, texts, shares_RC, _title(title, shown, names, "average precision"))
    axes.plot([0, len(PER_LABEL_COLUMNS) - _GAP], [len(shown) - 0.5] * 2, color=MUTED, linewidth=0.8)
    return axes


def draw_confusion_per_class(matrices_K22: Ints, shares_K22: Floats, report: Report, names: tuple[str, ...]) -> Axes:
    """The 2 x 2 matrix of each class in one row: of the images with it, and of those without it."""
    shown = _worst(report.per_class_KC[:, COLUMNS.index("f1-score")])
    order = ((1, 1), (1, 0), (0, 1), (0, 0))  # truth, prediction
    counts = np.stack([matrices_K22[shown, truth, predicted] for truth, predicted in order], axis=1)
    shares = np.stack([shares_K22[shown, truth, predicted] for truth, predicted in order], axis=1)
    texts = [
        [str(count) if np.isnan(share) else f"{count} ({100 * share:.0f} %)" for count, share in zip(*row, strict=True)]
        for row in zip(counts.tolist(), shares.tolist(), strict=True)
    ]
    title = _title("Confusion of each class", shown, names)
    headings = ["found", "missed", "false alarm", "rightly not"]
    axes = _draw([names[k] for k in shown], headings, texts, shares, title, head=2.0)
    for start, heading in ((0, "pictures with the class"), (2, "pictures without it")):
        axes.text(start, -1.95, heading, color=MUTED, va="center")
        axes.plot([start, start + 2 - _GAP], [-1.45] * 2, color=RULE, linewidth=0.8)
    return axes


def _draw(
    row_names: list[str], headings: list[str], texts: list[list[str]], shares_RC: Floats, title: str, head: float = 1.0
) -> Axes:
    """`head`: rows left free above the first for headings; bars are as wide as their share, none for NaN."""
    num_rows, num_columns = shares_RC.shape
    axes = blank_axes(_COLUMN * num_columns, _ROW * (num_rows + head))
    axes.set(title=title, xlim=(0, num_columns), ylim=(num_rows - 0.5, -0.5 - head))
    for column, heading in enumerate(headings):
        axes.text(column, -0.85, heading, color=MUTED, va="center")
    for row, name in enumerate(row_names):
        axes.text(-0.15, row, name, ha="right", va="center")
        for column, text in enumerate(texts[row]):
            axes.text(column + 0.04, row, text, va="center", color=INK if text != "–" else MUTED)
    rows, columns = np.nonzero(~np.isnan(shares_RC))
    widths = shares_RC[rows, columns] * (1 - _GAP)
    axes.hlines(rows, columns, columns + widths, colors=BAR, linewidth=_BAR_HEIGHT, capstyle="butt", zorder=0)
    return axes


def _worst(values_K: Floats) -> Ints:
    """Class ids in ascending order."""
    known = np.nan_to_num(values_K, nan=2.0)  # such a row has no values
    return np.sort(np.argsort(known, kind="stable")[:MAX_ROWS])


def _title(title: str, shown: Ints, names: tuple[str, ...], measure: str = "F1-score") -> str:
    if len(shown) == len(names):
        return title
    return f"{title}: the {len(shown)} of {len(names)} classes with the lowest {measure}"


def _texts(values_RC: Floats, count_column: str, columns: tuple[str, ...]) -> list[list[str]]:
    return [
        [_text(value, is_count=name == count_column) for name, value in zip(columns, row, strict=True)]
        for row in values_RC.tolist()
    ]


def _text(value: float, is_count: bool) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if is_count else f"{value:.3f}"
