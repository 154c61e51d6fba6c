"""Figures of a table's columns: data against draws, where values are missing, synthetic rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup

from deeplvm.report.figures.style import (
    FIRST,
    MUTED,
    RULE,
    bare,
    grid_lines,
    new_figure,
    pairs_of_bars,
    shares,
    short,
    small_multiples,
    svg,
)
from deeplvm.results import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEVELS = 25  # of whole numbers that have a pair of bars each
_NAMED = 7  # categories that are named, the most frequent ones
_FAR = 4.0  # a picture of all values is so many times as wide as one of 98 in 100 of them
_DECADES = 100.0  # 98 in 100 positive values span so many times: their logarithms are shown
_MONTHS = 300.0  # days, from which on dates are told by their month


@dataclass(frozen=True)
class Marginal:
    """A column's known values in the data, and in draws.

    Attributes:
        title: Its name.
        data: Values of the data.
        drawn: Values drawn.
        kind: ``"number"``, ``"whole"`` (numbers), ``"date"`` (days since 1970) or ``"code"``.
        names: What the codes stand for.
        note: What else is to be said of it.
    """

    title: str
    data: Array
    drawn: Array
    kind: Literal["number", "whole", "date", "code"] = "number"
    names: Sequence[str] = field(default=())
    note: str = ""


def marginals(columns: Sequence[Marginal]) -> Markup:
    """Each column's values in the data and in draws from the model."""
    noted = any([column.note for column in columns])
    with small_multiples(len(columns), 1.9 if noted else 1.7) as (figure, grid):
        for axes, column in zip(grid.flat, columns, strict=False):
            both = np.concatenate([column.data, column.drawn])
            if column.names:
                _categories(axes, column)
            elif column.kind in ("whole", "code") and len(np.unique(both)) <= _LEVELS:
                pairs_of_bars(axes, np.unique(both), column.drawn, column.data, ("", ""))
                bare(axes)
            else:
                _histogram(axes, column)
                bare(axes)
            axes.set_title(short(column.title), loc="left", pad=14 if column.note else 6)
            if column.note:
                place = {"transform": axes.transAxes, "color": MUTED, "fontsize": 7}
                axes.text(0, 1.04, short(column.note, 40), va="bottom", **place)
        return svg(figure, "marginals", "Values of each column, in the data and drawn")


def _categories(axes: Axes, column: Marginal) -> None:
    """Shares of the most frequent categories, and of the others together, below one another."""
    sides = [
        np.bincount(side.astype(int), minlength=len(column.names)) / max(1, len(side))
        for side in (column.drawn, column.data)
    ]
    order = np.argsort(-sides[1], kind="stable")
    many = len(order) > _NAMED + 1
    kept = order[: _NAMED if many else None]
    labels = [short(column.names[code], 12) for code in kept]
    heights = [side[kept] for side in sides]
    if many:
        labels.append(f"{len(order) - _NAMED} others")
        heights = [np.append(h, 1 - h.sum()) for h in heights]
    places = np.arange(len(labels))
    for shift, colour, height in zip((-0.2, 0.2), (FIRST, MUTED), heights, strict=True):
        axes.barh(places + shift, height, 0.4, color=colour)
    axes.set_yticks(places, labels)
    axes.set_ylim(max(len(labels), 4) - 0.4, -0.6)  # two bars are no thicker than four
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=7)
    axes.spines["bottom"].set_visible(False)


def _histogram(axes: Axes, column: Marginal) -> None:
    """Histograms of both over the range of the data, or of most of them where tails are long."""
    low, high = float(column.data.min()), float(column.data.max())
    near, far = (float(each) for each in np.quantile(column.data, [0.01, 0.99]))
    logarithmic = column.kind != "date" and low > 0 and near > 0 and far / near > _DECADES
    if logarithmic:
        axes.set_xscale("log")
        bins = np.geomspace(low, high, 25)
    else:
        cut = high - low > _FAR * (far - near) > 0
        low, high = (near, far) if cut else (low, high)
        # the draws' far tail, beyond the picture, must not squeeze the data into one bin
        margin = 0.15 * (high - low) or 1.0
        both = np.concatenate([column.data, column.drawn])
        low = max(low - margin, float(both.min()))
        high = min(high + margin, float(both.max()))
        bins = np.linspace(low, high if high > low else low + 1.0, 25)
    shares(axes, column.data, bins, MUTED)
    shares(axes, column.drawn, bins, FIRST, outline=True)
    if column.kind == "date":
        unit, count = (
            ("M", 3) if high - low > _MONTHS else ("D", 2) if high - low > 4 else ("h", 2)
        )
        at = np.linspace(low, high, 2 * count + 1)[1::2]
        seconds = (at * 86_400).astype("datetime64[s]")
        axes.set_xticks(at, [str(np.datetime64(each, unit)) for each in seconds])
    else:
        from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

        axes.minorticks_off()
        axes.xaxis.set_major_locator(LogLocator(numticks=4) if logarithmic else MaxNLocator(3))
        if max(abs(low), abs(high)) >= 1e4:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        elif logarithmic:
            axes.xaxis.set_major_formatter("{x:g}")


def hole_patterns(missing: Array, titles: Sequence[str], most: int = 8) -> Markup:
    """Which columns are missing together, the most frequent patterns first.

    Args:
        missing: Whether a value is missing, shape ``(rows, columns)``.
        titles: Of the columns.
        most: Patterns that are shown.
    """
    share = missing.mean(0)
    columns = np.argsort(-share, kind="stable")[: int((share > 0).sum())][:24]
    patterns, counts = np.unique(missing[:, columns], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    with new_figure(8.3, 0.9 + 0.2 * len(order), ncols=1) as (figure, axes):
        for row, pattern in enumerate(patterns[order]):
            places = np.arange(len(columns))
            for there, colour in ((~pattern, RULE), (pattern, FIRST)):
                axes.scatter(
                    places[there], np.full(there.sum(), row), s=80, marker="s", color=colour,
                    linewidths=0,
                )  # fmt: skip
        axes.set_yticks(
            range(len(order)), [f"{100 * counts[i] / len(missing):.0f} %" for i in order]
        )
        labels = [f"{short(titles[c], 16)}\n{100 * share[c]:.0f} %" for c in columns]
        axes.set_xticks(range(len(columns)), labels, rotation=0 if len(columns) <= 9 else 90)
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_ylabel("share of the rows")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return svg(figure, "holes", "Which columns are missing together")


def synthetic_columns(plain: Mapping[str, Any], most: int = 30) -> Markup:
    """Similarity of each column, drawn and real, and how well an attacker infers it.

    Args:
        plain: Of :meth:`deeplvm.evaluation.SyntheticRows.to_dict`.
        most: Columns that are shown, the least similar first.
    """
    known = {n: each for n, each in plain["columns"].items() if each["drawn"]["value"] is not None}
    order = sorted(known, key=lambda name: known[name]["drawn"]["value"])[:most]
    places = np.arange(len(order))
    with new_figure(8.3, 0.8 + 0.2 * len(order), ncols=2, sharey=True) as (figure, (left, right)):
        for key, colour, label in (("real", MUTED, "training rows"), ("drawn", FIRST, "drawn")):
            found = [known[name][key] for name in order]
            values, errors = (
                [each[what] or 0.0 for each in found] for what in ("value", "stderr")
            )
            shift = -0.12 if key == "drawn" else 0.12
            left.errorbar(
                values, places + shift, xerr=errors, fmt="o", markersize=4, color=colour,
                elinewidth=1, label=label,
            )  # fmt: skip
        left.set_title("similarity to held-out rows", loc="left")
        left.legend(loc="best")
        risks = plain["privacy"]["columns"]
        for place, name in enumerate(order):
            if name in risks:
                risk = risks[name]
                right.plot([risk["low"], risk["high"]], [place, place], color=FIRST, linewidth=1)
                right.plot(risk["value"], place, "o", markersize=4, color=FIRST)
        right.axvline(0.0, color=MUTED, linewidth=0.8)
        right.set_title("risk of inference, 95 %", loc="left")
        left.set_yticks(places, [short(name) for name in order])
        left.set_ylim(len(order) - 0.4, -0.6)
        for axes in (left, right):
            grid_lines(axes, "x")
            axes.spines["left"].set_visible(False)
        return svg(figure, "synthetic", "Similarity and risk of inference of each column")
