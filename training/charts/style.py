"""The style of all charts: colours that colour-blind people can distinguish, one font size, no frames."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "BAR",
    "CLASS_COLOURS",
    "FAINT",
    "INK",
    "MUTED",
    "RULE",
    "SHADES",
    "blank_axes",
    "chart_style",
    "new_axes",
    "to_png",
]

INK: Final = "#1a1a1a"
MUTED: Final = "#707070"
FAINT: Final = "#a8a8a8"
RULE: Final = "#d9d9d9"
BAR: Final = "#b5d4e9"
SHADES: Final = "Blues"
CLASS_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito, Color Universal Design (2008), without black (used for averages) and yellow (too faint)."""

_DPI: Final = 120


@contextmanager
def chart_style(families: tuple[str, ...]) -> Iterator[None]:
    """Apply the settings of the charts to matplotlib in a context, whatever the machine's `matplotlibrc` says."""
    ours = {
        "font.family": list(families),
        "font.size": 9,
        "text.parse_math": False,  # `$` in a class name is a dollar sign
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.unicode_minus": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
    }
    with matplotlib.style.context(["default", ours]):
        yield


def new_axes(width: float, height: float) -> Axes:
    """Make axes of exactly this size in inches; `to_png` enlarges the image by the labels around them."""
    return Figure(figsize=(width, height)).add_axes((0.0, 0.0, 1.0, 1.0))


def blank_axes(width: float, height: float) -> Axes:
    """Make axes without ticks and spines, for tables."""
    axes = new_axes(width, height)
    axes.set_axis_off()
    return axes


def to_png(axes: Axes) -> bytes:
    """The image of the axes' figure, with a margin."""
    stream = io.BytesIO()
    figure = cast(Figure, axes.figure)  # ours have no figures within figures
    figure.savefig(stream, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    return stream.getvalue()
