"""ROC and precision-recall curves as images."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from clearsight.training.charts.curves import Curve, Curves
from clearsight.training.charts.lettering import LEFT_TO_RIGHT
from clearsight.training.charts.style import CLASS_COLOURS, FAINT, INK, MUTED, RULE, new_axes

__all__ = ["draw_curves"]

_SIDE: Final = 4.2  # inches
_AVERAGES: Final[Mapping[str, Mapping[str, Any]]] = {
    "micro": {"color": INK, "linestyle": "-", "linewidth": 2.0, "zorder": 4},
    "macro": {"color": INK, "linestyle": (0, (2, 1.5)), "linewidth": 2.0, "zorder": 4},
}
_REST: Final[Mapping[str, Any]] = {"color": FAINT, "linewidth": 0.7, "alpha": 0.6, "zorder": 2}


def draw_curves(
    curves: Curves, names: tuple[str, ...], title: str, axis_names: tuple[str, str], area_name: str, steps: bool
) -> Axes:
    """Every class in its colour; of more than six classes the worst five, and the others in grey.

    `steps`: a point's height is kept up to the next point (precision-recall), instead of straight lines.
    """
    axes = new_axes(_SIDE, _SIDE)
    axes.set(title=title, xlabel=axis_names[0], ylabel=axis_names[1], aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    if not steps:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    drawstyle = "steps-post" if steps else "default"
    entries: list[tuple[Line2D, str]] = []
    for curve, label, look in _lines(curves, names):
        if curve is None:
            line = Line2D([], [], linestyle="none")
        else:
            [line] = axes.plot(curve.x_P, curve.y_P, drawstyle=drawstyle, clip_on=False, **look)
        if label is not None:
            entries.append((line, label))
    if not any(curves.per_class) and not curves.averages:
        axes.text(0.5, 0.5, "not defined for these pictures", ha="center", va="center", color=MUTED)
    handles, labels = [line for line, _ in entries], [label for _, label in entries]
    axes.legend(
        handles, labels, title=area_name, alignment="left", loc="upper left", bbox_to_anchor=(1.03, 1.0), borderpad=0
    )
    return axes


def _lines(curves: Curves, names: tuple[str, ...]) -> Iterator[tuple[Curve | None, str | None, Mapping[str, Any]]]:
    """Curve, text of the legend and line style of each line."""
    for average, mean_curve in curves.averages.items():
        yield mean_curve, _label(mean_curve, f"{average} average"), _AVERAGES[average]
    classes = list(zip(curves.per_class, names, strict=True))
    if len(classes) <= len(CLASS_COLOURS):
        for (curve, name), colour in zip(classes, CLASS_COLOURS, strict=False):
            yield curve, _label(curve, name), {"color": colour, "linewidth": 1.4, "zorder": 3}
        return
    known = sorted(((curve, name) for curve, name in classes if curve is not None), key=lambda item: item[0].area)
    worst, rest = known[: len(CLASS_COLOURS) - 1], known[len(CLASS_COLOURS) - 1 :]
    for (known_curve, name), colour in zip(worst, CLASS_COLOURS, strict=False):
        yield known_curve, _label(known_curve, name), {"color": colour, "linewidth": 1.4, "zorder": 3}
    for position, (known_curve, _) in enumerate(rest):
        yield known_curve, f"{len(rest)} other classes" if position == 0 else None, _REST
    if len(known) < len(classes):
        yield None, f"{len(classes) - len(known)} classes without a curve", {}


def _label(curve: Curve | None, name: str) -> str:
    return f"{LEFT_TO_RIGHT}{'  –   ' if curve is None else f'{curve.area:.3f}'}  {name}"
