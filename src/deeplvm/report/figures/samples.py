"""Figures of how draws compare with data, as :mod:`deeplvm.report.figures.style` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from deeplvm.evaluation.predictive.checks import correlations as correlation_matrix
from deeplvm.evaluation.samples.precision_recall import MEASURES
from deeplvm.report.figures.images import image_grid
from deeplvm.report.figures.style import (
    CLASSES,
    FIRST,
    MUTED,
    RULE,
    colour_scale,
    grid_lines,
    new_figure,
    short,
    small_multiples,
    svg,
)
from deeplvm.results import Array

if TYPE_CHECKING:
    from deeplvm.data.variable import Variable
    from deeplvm.evaluation.samples.quality import Neighbours


def quality_bars(plain: Mapping[str, Any]) -> Markup:
    """Precision, recall, density and coverage of samples, beside those of fresh rows.

    Args:
        plain: Of :meth:`deeplvm.evaluation.samples.quality.SampleQuality.to_dict`.
    """
    places = np.arange(len(MEASURES))
    groups = (("samples", "samples", FIRST), ("fresh", f"{plain['split']} rows", MUTED))
    with new_figure(6.4, 2.7) as (figure, axes):
        for shift, (key, label, colour) in zip((-0.19, 0.19), groups, strict=True):
            found = [plain[key]["manifold"][each] for each in MEASURES]
            heights = [each["value"] or 0.0 for each in found]
            errors = [each["stderr"] or 0.0 for each in found]
            bars = axes.bar(places + shift, heights, 0.36, color=colour, label=label)
            for bar in bars:
                bar.set_alpha(1.0 if key == "samples" else 0.5)
            axes.errorbar(places + shift, heights, errors, fmt="none", ecolor=MUTED, elinewidth=1)
        axes.set_xticks(places, MEASURES)
        axes.axhline(1.0, color=MUTED, linewidth=0.6, linestyle=":")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set_ylabel("against training rows")
        grid_lines(axes)
        return svg(figure, "quality", "Precision, recall, density and coverage of samples")


def neighbour_grid(neighbours: Neighbours, variable: Variable | None = None) -> Markup:
    """Samples above their nearest training rows, one line for each space.

    The first group of lines are the first samples, the second those that are nearest to a
    training row.

    Raises:
        ValueError: If the rows are no images.
    """
    first = neighbours.first
    spaces = (neighbours.samples, *neighbours.nearest.values())
    parts = slice(0, first), slice(first, 2 * first)  # as many in either
    lines = [each[part].numpy() for part in parts for each in spaces]
    where = ", then in ".join(neighbours.nearest)
    alt = f"Samples, and below each the nearest training row in {where}"
    return image_grid(
        np.concatenate(lines), alt, columns=first, variable=variable, group=len(spaces)
    )


def correlations(data: Array, drawn: Array, names: Sequence[str]) -> Markup:
    """The correlation matrices of the data and of draws from the model, side by side."""
    with new_figure(7.4, 3.6, ncols=2) as (figure, pair):
        for axes, values, title in zip(
            pair, (data, drawn), ("data", "drawn from the model"), strict=True
        ):
            matrix = correlation_matrix(values)
            axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
            axes.set_title(title, loc="left")
            if len(names) <= 16:
                labels = [short(name, 14) for name in names]
                axes.set_xticks(range(len(names)), labels, rotation=90)
                axes.set_yticks(range(len(names)), labels if axes is pair[0] else [])
            else:
                axes.set(xticks=[], yticks=[])
        colour_scale(figure, pair, pair[0].images[0], shrink=0.75, aspect=24)
        return svg(figure, "correlations", "Correlations between columns, data and samples")


def recovered(columns: Sequence[tuple[str, Array, Array]]) -> Markup:
    """Each column's reconstruction against the original."""
    with small_multiples(len(columns), 1.9) as (figure, grid):
        for axes, (title, original, mean) in zip(grid.flat, columns, strict=False):
            low, high = np.quantile(original, [0, 1])
            axes.plot([low, high], [low, high], color=RULE, lw=1, zorder=0)
            axes.scatter(
                original, mean, s=7, color=CLASSES[0], alpha=0.6, linewidths=0, rasterized=True
            )
            axes.set_title(short(title), loc="left")
            axes.tick_params(length=0)
            axes.locator_params(nbins=3)
        figure.supxlabel("original", fontsize=9, color=MUTED)
        figure.supylabel("reconstruction", fontsize=9, color=MUTED)
        return svg(figure, "recovered", "Reconstruction against original, column by column")
