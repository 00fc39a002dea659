"""The confusion matrix of a multi-class trial as an image."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from clearsight.training.charts.style import FAINT, INK, RULE, SHADES, new_axes

__all__ = ["draw_matrix"]

_MAX_NUMBERED: Final = 25
"""Largest number of classes for which cells hold numbers; with more, a colour scale stands beside the matrix."""
_MAX_NAMED: Final = 150
"""Largest number of classes for which the axes show names; with more, they show class ids."""
_MAX_SIDE: Final = 16.0  # inches


def draw_matrix(values_KK: npt.NDArray[np.float64], names: tuple[str, ...], title: str, percent: bool) -> Axes:
    """Rows: truth; columns: prediction. Cells are counts or, with `percent`, shares of their row.

    A row without images, NaN throughout, stays white.
    """
    num_classes = len(names)
    is_numbered = num_classes <= _MAX_NUMBERED
    cell = min(0.9, 2.2 / num_classes + 0.35) if is_numbered else min(0.16, _MAX_SIDE / num_classes)
    axes = new_axes(cell * num_classes, cell * num_classes)
    highest = 1.0 if percent else max(1.0, float(np.nanmax(values_KK)))
    # Beside a strong diagonal a linear scale hides single errors; where cells hold numbers, these show them.
    norm = PowerNorm(1.0 if is_numbered else 0.4, vmin=0.0, vmax=highest)
    image = axes.imshow(values_KK, cmap=SHADES, norm=norm, interpolation="nearest")
    axes.set_title(title)
    axes.set_xlabel("Prediction", labelpad=8)
    axes.set_ylabel("Truth", labelpad=8)
    axes.spines[:].set_color(RULE)
    axes.tick_params(length=0, labelsize=9 if is_numbered else 6)
    if num_classes <= _MAX_NAMED:
        axes.set_xticks(range(num_classes), names, **_turned(names, cell))
        axes.set_yticks(range(num_classes), names)
    if is_numbered:
        _write_numbers(axes, values_KK, highest, percent)
    else:
        scale = axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0.0, 0.02, 0.3)))
        scale.outline.set_visible(False)
        scale.ax.tick_params(length=0, labelsize=8)
        if percent:
            scale.ax.set_yticks([0.0, 0.1, 0.5, 1.0], ["0 %", "10 %", "50 %", "100 %"])
        else:
            scale.ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return axes


def _turned(names: tuple[str, ...], cell: float) -> dict[str, Any]:
    """Names side by side if they fit (about 0.085 inches a letter), else slanted, else upright."""
    if max(map(len, names)) * 0.085 < cell:
        return {}
    if cell < 0.3:
        return {"rotation": 90}
    return {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def _write_numbers(axes: Axes, values_KK: npt.NDArray[np.float64], highest: float, percent: bool) -> None:
    for row, values in enumerate(values_KK):
        for column, value in enumerate(values):
            if np.isnan(value):
                continue
            text = f"{100 * value:.0f}" if percent else f"{value:.0f}"
            colour = FAINT if value == 0 else "white" if value > 0.55 * highest else INK
            size = 9 if len(text) < 5 else 6
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
