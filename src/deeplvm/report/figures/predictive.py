"""Figures of what was checked: statistics, intervals and probabilities, scores of strange rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from markupsafe import Markup

from deeplvm.evaluation.predictive.calibration import reliability_bins
from deeplvm.report.figures.style import (
    CLASSES,
    FIRST,
    INK,
    MUTED,
    RULE,
    SECOND,
    bare,
    grid_lines,
    legible,
    new_figure,
    shares,
    short,
    small_multiples,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deeplvm.evaluation.predictive.calibration import Calibration, Reliability
    from deeplvm.evaluation.predictive.checks import PredictiveChecks
    from deeplvm.evaluation.predictive.out_of_distribution import Detection, OutOfDistribution

_MANY = 12  # columns of probabilities
_FEW = 10  # values of a bin
_PARTS = ("probability", "outcome")


def checks_figure(checks: PredictiveChecks, most: int = 8) -> Markup:
    """The most surprising statistics: of the data, a line, and of replicated data sets."""
    worst = checks.checks[:most]
    with small_multiples(len(worst), 1.8, width=2.1) as (figure, grid):
        for axes, check in zip(grid.flat, worst, strict=False):
            drawn = check.replicated.numpy()
            both = np.append(drawn, check.observed)
            axes.hist(
                drawn, np.linspace(both.min(), both.max(), 25).tolist(), color=FIRST, alpha=0.6
            )
            axes.axvline(check.observed, color=SECOND, lw=2)
            axes.set_title(
                f"{short(check.column, 26)}\n{short(check.statistic, 28)}", loc="left", fontsize=8
            )
            axes.set_xlabel(f"adjusted p = {check.family_wise:.2g}", fontsize=8)
            bare(axes)
            axes.locator_params(axis="x", nbins=3)
            axes.margins(x=0.1)
        handles = [grid.flat[0].lines[0], grid.flat[0].patches[0]]
        figure.legend(
            handles, ["the data", "draws from the model"], loc="outside upper right", ncols=2
        )
        return svg(figure, "checks", "Statistics of the data among those of draws from the model")


def calibration_figure(calibration: Calibration) -> Markup:
    """Coverage against level, the transforms' histogram, and the reliability of probabilities.

    Raises:
        ValueError: If nothing was predicted.
    """
    panels = 2 * bool(calibration.intervals) + bool(calibration.reliability)
    if not panels:
        raise ValueError("Nothing was predicted, so there is nothing to show.")
    with new_figure(3.1 * panels + 0.2, 2.9, ncols=panels, squeeze=False) as (figure, grid):
        rest = list(grid[0])
        if calibration.intervals:
            _coverage(rest.pop(0), calibration)
            _transforms(rest.pop(0), calibration)
        if calibration.reliability:
            _reliability(rest.pop(0), calibration.reliability)
        return svg(figure, "calibration", "Whether predictions of hidden values are calibrated")


def _coverage(axes: Axes, calibration: Calibration) -> None:
    axes.plot([0, 1], [0, 1], color=RULE, lw=1.2, zorder=0)
    for each in calibration.intervals[:30]:
        levels = [coverage.level for coverage in each.coverage]
        values = [coverage.value for coverage in each.coverage]
        axes.plot(levels, values, color=MUTED, lw=0.8, alpha=0.5)
    axes.errorbar(
        [each.level for each in calibration.coverage],
        [each.value for each in calibration.coverage],
        [2 * each.stderr for each in calibration.coverage],
        color=FIRST,
        marker="o",
        ms=4,
        label="all columns, ± 2 errors",
    )
    axes.plot([], [], color=MUTED, lw=0.8, label="each column")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("level of the interval")
    axes.set_ylabel("share of values inside")
    axes.legend(loc="upper left")
    grid_lines(axes, "both")


def _transforms(axes: Axes, calibration: Calibration) -> None:
    pit = calibration.pit.numpy()
    bins = int(np.clip(len(pit) // 20, 5, 20))
    heights, edges = np.histogram(pit, bins, (0, 1))
    even = len(pit) / bins
    error = 2 * np.sqrt(even * (1 - 1 / bins))
    axes.bar(edges[:-1], heights / even, np.diff(edges) * 0.92, align="edge", color=FIRST)
    axes.axhline(1, color=INK, lw=1)
    for edge in (1 - error / even, 1 + error / even):  # twice what chance does to one bar
        axes.axhline(edge, color=INK, lw=0.8, ls="--")
    axes.set(xlim=(0, 1), xlabel="F(value | rest of its row)", ylabel="rows, against uniform")
    axes.set_title(f"uniform: p = {calibration.p_value:.2g}", loc="left")
    grid_lines(axes)


def _reliability(axes: Axes, columns: tuple[Reliability, ...]) -> None:
    """The worst columns, or, where there are many, all in one: their bins would be empty."""
    lines = {legible(each.title): (each.probability, each.outcome) for each in columns[:6]}
    if len(columns) > _MANY:
        pooled = [torch.cat([getattr(each, part) for each in columns]) for part in _PARTS]
        lines = {f"all {len(columns):,} columns": (pooled[0], pooled[1])}
    bins = {n: reliability_bins(p.numpy(), y.numpy()) for n, (p, y) in lines.items()}
    _reliability_lines(axes, bins)


def reliability_figure(lines: Mapping[str, Sequence[Mapping[str, float]]]) -> Markup:
    """The share that came against the probability said, in bins, a line by name."""
    with new_figure(3.6, 3.2) as (figure, axes):
        _reliability_lines(axes, lines)
        return svg(figure, "reliability", "Whether labels come as often as is said")


def _reliability_lines(axes: Axes, lines: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    axes.plot([0, 1], [0, 1], color=RULE, lw=1.2, zorder=0)
    for colour, (title, bins) in zip(CLASSES, lines.items(), strict=False):
        most = max([each["values"] for each in bins])
        # a share of three values says nothing
        shown = [each for each in bins if each["values"] >= min(_FEW, most)]
        means = [[each[part] for each in shown] for part in _PARTS]
        size = [8 + 60 * each["values"] / most for each in shown]
        axes.plot(*means, color=colour, lw=0.9)
        axes.scatter(*means, s=size, color=colour, linewidths=0, label=title)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability said", ylabel="share that came")
    axes.legend(loc="upper left", markerscale=0.7, handletextpad=0.1)
    grid_lines(axes, "both")


def scores_figure(scores: OutOfDistribution) -> Markup:
    """A histogram of every score, inside and outside rows, and all receiver operating curves."""
    told = list(scores.detections.values())
    with small_multiples(len(told) + 1, 2.3, width=2.7, most=3) as (figure, grid):
        for axes, each in zip(grid.flat, told, strict=False):
            _histograms(axes, each)
        grid.flat[0].legend(loc="upper right")
        curves = grid.flat[len(told)]
        curves.plot([0, 1], [0, 1], color=RULE, lw=1.2)
        for colour, each in zip(CLASSES, told, strict=False):
            curves.plot(
                *_operating(each), color=colour, label=f"{each.name} {each.auroc.value:.2f}"
            )
        curves.set(xlabel="share of inside rows refused", ylabel="share of outside rows refused")
        curves.legend(loc="lower right", fontsize=7)
        grid_lines(curves, "both")
        return svg(figure, "scores", "Scores of inside and outside rows, and their ROC curves")


def _histograms(axes: Axes, each: Detection) -> None:
    inside, outside = each.inside.numpy(), each.outside.numpy()
    both = np.concatenate([inside, outside])
    low, high = np.quantile(both, [0.005, 0.995])  # a few far rows must not squeeze the rest
    bins = np.linspace(low, high if high > low else low + 1, 40)
    for values, colour, name in ((inside, FIRST, "inside"), (outside, SECOND, "outside")):
        shares(axes, np.clip(values, bins[0], bins[-1]), bins, colour, name)
    axes.set_title(f"{each.name}, AUROC {each.auroc.value:.3f}", loc="left")
    axes.set_xlabel("score, higher is stranger")
    bare(axes)
    axes.locator_params(axis="x", nbins=4)


def _operating(each: Detection) -> tuple[list[float], list[float]]:
    """Shares of inside and of outside rows at or above each threshold."""
    inside, outside = np.sort(each.inside.numpy()), np.sort(each.outside.numpy())
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    refused = [
        [0.0, *(1 - np.searchsorted(values, thresholds) / len(values)).tolist()]
        for values in (inside, outside)
    ]
    return refused[0], refused[1]
