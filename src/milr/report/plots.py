"""Figures as SVG with the page's colours, by matplotlib (an extra)."""

from __future__ import annotations

import io
import re
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from milr.errors import UsageError
from milr.report.figures import Figure, Series
from milr.report.statistics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INSTALL = 'pip install "milr[report]"'
COLORS = ("#3b82c4", "#d9722e", "#3f9c5a", "#b4539b", "#8a6fd1", "#c0504d", "#2aa1a8", "#9a8433")
"""Colours that are readable on white and on near-black."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Markers, for readers who cannot tell the colours apart."""
_WIDTH, _HEIGHT, _LEGEND = 5.2, 3.3, 0.22  # inches; the last for each line of the legend
_LINE = 58  # characters of the legend
_NAME, _NAMES = 22, 4  # characters of a name on the axis; lines of names for which the usual height has room
_INK, _GRID = "#010203", "#040506"  # placeholders for values that CSS sets: matplotlib needs numbers
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "milr",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def need_matplotlib() -> None:
    """Raise an error before any work if matplotlib is missing.

    Raises:
        UsageError: It has the command that installs it.
    """
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise UsageError(f"an HTML report draws its figures with matplotlib: {INSTALL}, or --format md") from None


def draw_figure(figure: Figure) -> str:
    """Return the figure as one <svg> element without a fixed size: it is as wide as its container."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    labels = [textwrap.fill(series.label, _LINE) for series in figure.series]
    rows = _HEIGHT + _LEGEND * sum(label.count("\n") + 1 for label in labels)
    if _as_points(figure):
        rows += _LEGEND * max(0, sum(name.count("\n") + 1 for name in _named(figure)) - _NAMES)
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(_WIDTH, rows), layout="constrained")
        axes: Axes = canvas.subplots()
        places = _places(figure)
        points = _as_points(figure)
        for number, series in enumerate(figure.series):
            spread = 0.16 * (number - (len(labels) - 1) / 2) if points else None
            _draw_series(axes, places, series, labels[number], number, spread)
        _draw_axes(axes, figure, places)
        canvas.legend(loc="outside lower left", frameon=False, fontsize=9)
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _clean(out.getvalue(), figure)


def _as_points(figure: Figure) -> bool:
    """Return true for names without an order, which are not joined by lines."""
    return figure.scale == "names" and not all(_is_number(position) for position in figure.positions)


def _named(figure: Figure) -> list[str]:
    """Return the names on the axis, wrapped to lines that leave room for the plot."""
    return [textwrap.fill(position, _NAME) for position in figure.positions]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text) is not None


def _places(figure: Figure) -> Floats:
    """Return the coordinate of each position on the axis."""
    if figure.scale == "names":
        return np.arange(len(figure.positions), dtype=float)
    values = np.array([float(position) for position in figure.positions])
    return np.log2(values) if figure.scale == "log2" else values


def _draw_series(axes: Axes, places: Floats, series: Series, label: str, number: int, beside: float | None) -> None:
    """Draw a line with its band; or points with intervals, moved beside one another, if the positions have no order."""
    known = [(place, one) for place, one in zip(places, series.estimates, strict=True) if one is not None]
    across = np.array([place for place, _ in known])
    values, low, high = (np.array([getattr(one, end) for _, one in known]) for end in ("value", "low", "high"))
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    plain: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4.5, "label": label}
    if beside is not None:
        spread = np.stack([values - low, high - values]).clip(min=0)
        axes.errorbar(values, across + beside, xerr=spread, linestyle="none", elinewidth=1.4, **plain)
        return
    axes.plot(across, values, linewidth=1.6, **plain)
    axes.fill_between(across, low, high, color=color, alpha=0.14, linewidth=0)


def _draw_axes(axes: Axes, figure: Figure, places: Floats) -> None:
    axes.grid(True, linewidth=0.6)
    axes.set_axisbelow(True)
    if _as_points(figure):
        axes.set_yticks(places, _named(figure))
        axes.invert_yaxis()
        axes.set_xlabel(figure.up)
        return
    axes.set_xlabel(f"{figure.across} (log2)" if figure.scale == "log2" else figure.across)
    axes.set_ylabel(figure.up)
    if figure.scale != "linear" or len(places) <= 8:
        axes.set_xticks(places, figure.positions)


def _clean(svg: str, figure: Figure) -> str:
    """Return the element for a page: with CSS colours, and ids that no other figure has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s(width|height)=\"[^\"]*pt\"", "", svg, count=2)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{figure.key}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_quote(figure.title)}" ', 1)


def _quote(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
