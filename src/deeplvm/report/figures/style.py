"""The colours and the form of all figures: vector graphics that take the page's own colours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Stand-ins for the page's own colours, so that a figure is at home on light and on dark.
INK, MUTED, RULE, FIRST, SECOND, CARD = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    CARD: "var(--card)",
}
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.formatter.useoffset": False,  # ticks say the values themselves
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a column may be called "price ($) in $"
}
# Ten hues that are told apart on white and on near-black, also by most colour-blind readers.
CLASSES = (
    "#4c8dd8",
    "#e8853b",
    "#3fae6b",
    "#d9535a",
    "#9a77cf",
    "#a9745a",
    "#e08ac4",
    "#8a929a",
    "#b5b036",
    "#35b5c4",
)


@contextmanager
def new_figure(width: float, height: float, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in the page's style; nothing global is touched."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MatplotlibFigure

    with mpl.rc_context(_STYLE):
        # compressed: pictures keep their aspect, and their titles have room
        figure = MatplotlibFigure(figsize=(width, height), layout="compressed")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(**options)


_SMALL = 360  # points: what is narrower is not spread over the page


def svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as an ``<svg>`` element, with its width left to the page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    if layout := figure.get_layout_engine():  # here, as to save with one draws twice
        layout.execute(figure)
        figure.set_layout_engine("none")
    # the salt keeps identifiers of two figures on one page apart, and repeatable
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    width, height = figure.get_size_inches() * 72
    small = 'class="small" ' if width < _SMALL else ""
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{small}role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width * 4 / 3:.0f}px">'
    )
    text = opening + text[text.index(">") + 1 :]
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return Markup(text)


def grid_lines(axes: Axes, axis: str = "y") -> None:
    """Faint lines behind the marks, and no ticks."""
    axes.grid(visible=True, axis=axis)  # type: ignore[arg-type]
    axes.tick_params(length=0)


def legible(label: object) -> str:
    """A label that a legend shows; matplotlib leaves out those that begin with an underscore."""
    text = short(str(label))
    return f"\u200b{text}" if text.startswith("_") else text


def shares(
    axes: Axes, values: Any, bins: Any, colour: str, label: str = "", *, outline: bool = False
) -> None:
    """A histogram whose heights are shares of the values, filled or outlined."""
    form: dict[str, Any] = {"histtype": "step", "linewidth": 1.6} if outline else {"alpha": 0.5}
    weights = np.full(len(values), 1 / len(values))
    axes.hist(values, list(bins), weights=weights, color=colour, label=label, **form)


def pairs_of_bars(axes: Axes, values: Any, first: Any, second: Any, labels: Sequence[str]) -> None:
    """The share of each value in two sets of numbers, side by side; grey is the second."""
    places = np.arange(len(values))
    for side, shift, colour, label in zip(
        (first, second), (-0.2, 0.2), (FIRST, MUTED), labels, strict=True
    ):
        share = [(side == value).mean() for value in values]
        axes.bar(places + shift, share, 0.4, color=colour, label=label)
    step = max(1, len(values) // 7)
    axes.set_xticks(places[::step], [f"{value:g}" for value in values[::step]])


def bare(axes: Axes) -> None:
    """No scale upwards, and no ticks: heights are shares."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)


def colour_scale(figure: Figure, axes: Any, shown: Any, label: str = "", **options: Any) -> None:
    """What the colours of pictures stand for, beside them; neither has a frame."""
    for each in np.ravel(axes):
        each.spines[:].set_visible(False)
        each.tick_params(length=0)
    bar = figure.colorbar(shown, ax=axes, **options)
    bar.set_label(label, fontsize=8, color=MUTED)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0)


@contextmanager
def small_multiples(
    count: int,
    height: float,
    *,
    width: float = 2.0,
    wider: float = 0.3,
    most: int = 4,
    **options: Any,
) -> Iterator[tuple[Figure, Any]]:
    """A figure of ``count`` small axes, so many in a line; those left over are empty."""
    across = min(most, count)
    down = -(-count // across)
    size = width * across + wider, height * down + wider
    with new_figure(*size, nrows=down, ncols=across, squeeze=False, **options) as (figure, grid):
        for axes in grid.flat[count:]:
            axes.set_axis_off()
        yield figure, grid


def short(text: str, most: int = 22) -> str:
    """A text cut where a figure has no more room."""
    return text if len(text) <= most else text[: most - 1] + "…"
