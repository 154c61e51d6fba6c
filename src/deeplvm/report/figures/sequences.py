"""Figures of sequences: lines with bands, and piano rolls."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from deeplvm.report.figures.style import FIRST, MUTED, grid_lines, new_figure, svg
from deeplvm.results import Array

if TYPE_CHECKING:
    from deeplvm.data.variable import Variable

_MOST = 4  # columns of a step that are drawn
_SIDE = 960  # pixels


@dataclass(frozen=True, eq=False)
class Line:
    """One column of one row over its steps.

    Attributes:
        title: What it is.
        values: As they are in the data, shape ``(steps,)``; NaN where missing.
        model: What the model says, at the last steps, or all; none.
        low, high: The ends of a band around it; none.
    """

    title: str
    values: Array
    model: Array | None = None
    low: Array | None = None
    high: Array | None = None


def lines(panels: Sequence[Sequence[Line]], what: str) -> Markup:
    """Rows below one another, their columns side by side: data in grey, the model in blue."""
    across = max(len(row) for row in panels)
    with new_figure(
        min(9.6, 3.2 * across), 1.5 * len(panels), nrows=len(panels), ncols=across, squeeze=False
    ) as (figure, axes):
        for row, places in zip(panels, axes, strict=True):
            for place, axis in enumerate(places):
                if place >= len(row):
                    axis.set_axis_off()
                    continue
                _draw(axis, row[place], FIRST, MUTED)
        return svg(figure, "lines", what)


def _draw(axis: Any, line: Line, first: str, muted: str) -> None:
    steps = np.arange(len(line.values))
    mark = "o" if len(steps) < 40 else None
    axis.plot(steps, line.values, color=muted, linewidth=1.2, marker=mark, markersize=2.5)
    if line.model is not None:
        at = np.arange(len(line.model)) + len(steps) - len(line.model)
        if line.low is not None and line.high is not None:
            axis.fill_between(at, line.low, line.high, color=first, alpha=0.25, linewidth=0)
        axis.plot(at, line.model, color=first, linewidth=1.4)
    axis.set_title(line.title)
    grid_lines(axis)


def chosen(variable: Variable, most: int = _MOST) -> list[int]:
    """The columns of a step that are drawn: those that vary most, codes among the last."""
    parts = variable.each
    order = sorted(
        range(variable.elements),
        key=lambda i: (parts[i].kind in ("category",), -float(variable.std.flatten()[i])),
    )
    scaled = [i for i in order if parts[i].kind != "category"] or order
    return sorted(scaled[:most])


def lines_png(values: Array, lengths: Sequence[int], variable: Variable, most: int = 16) -> bytes:
    """Rows below one another, as a picture of its own.

    Args:
        values: Shape ``(rows, steps, *event)``.
        lengths: How many steps each row has.
        variable: What they are.
        most: Rows that are drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    flat = values.reshape(*values.shape[:2], -1)[:most]
    places = chosen(variable)
    figure = Figure(figsize=(3.2 * len(places), 1.4 * len(flat) + 0.4), layout="constrained")
    axes = figure.subplots(len(flat), len(places), squeeze=False)
    for row, steps, at in zip(flat, lengths, axes, strict=False):
        for axis, place in zip(at, places, strict=True):
            title = variable.titles[place] if axis in axes[0] else ""
            _draw(axis, Line(title, row[:steps, place]), "#4c8dd8", "#4c8dd8")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def rolls_png(values: Array, lengths: Sequence[int], side: int = _SIDE) -> bytes:
    """Piano rolls below one another: time to the right, low keys at the bottom; PNG.

    Args:
        values: Shape ``(rows, steps, keys)``, between 0 and 1; dark is 1.
        lengths: How many steps each row has; what lies beyond is grey.
        side: Pixels of the longer side, about.
    """
    from PIL import Image

    rows, steps, keys = values.shape
    used = np.flatnonzero(values.reshape(-1, keys).max(0) > 0.05)
    low, high = (used.min(), used.max() + 1) if len(used) else (0, keys)
    canvas = np.full((rows * (high - low + 2) - 2, steps), 255.0)
    for i, (row, end) in enumerate(zip(values, lengths, strict=True)):
        top = i * (high - low + 2)
        part = 255 * (1 - np.clip(np.nan_to_num(row[:, low:high]), 0, 1).T[::-1])
        part[:, end:] = 225
        canvas[top : top + high - low] = part
    by = max(1, round(side / max(canvas.shape)))
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    buffer = io.BytesIO()
    picture.resize((steps * by, canvas.shape[0] * by), Image.Resampling.NEAREST).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def rolls(values: Array, lengths: Sequence[int], what: str, width: int = _SIDE) -> Markup:
    """Piano rolls as an image of a page."""
    data = base64.b64encode(rolls_png(values, lengths, width)).decode()
    return Markup('<img class="pixels" alt="{}" src="data:image/png;base64,{}">').format(
        what, data
    )
