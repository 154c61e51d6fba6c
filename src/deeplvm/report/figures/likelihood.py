"""Figures of likelihoods and of how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from deeplvm.report.figures.style import FIRST, MUTED, SECOND, grid_lines, new_figure, svg


def convergence_figure(plain: Mapping[str, Any]) -> Markup:
    """Likelihoods by particles and by temperatures, side by side at one scale.

    Bands are two standard errors of the differences from the last point of annealing, which the
    line is drawn through: what the rows differ by is left out, so it has no band itself.

    Args:
        plain: Of :meth:`deeplvm.likelihood.Convergence.to_dict`, with at least one point of each
            kind that is a number.
    """
    importance, annealing = (
        [point for point in plain[kind] if point["value"] is not None]
        for kind in ("importance", "annealing")
    )
    with new_figure(8.0, 3.0, ncols=2, sharey=True) as (figure, pair):
        walks = f"annealing, {plain['annealed_particles']} particles"
        how = "the exact sum" if plain["exact"] else walks
        for axes, points, number, colour, title in (
            (pair[0], importance, "particles", FIRST, "importance sampling"),
            (
                pair[1],
                annealing,
                "temperatures",
                SECOND,
                "the exact sum" if plain["exact"] else how,
            ),
        ):
            axes.axhline(annealing[-1]["value"], color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
            _curve(axes, points, number, colour)
            axes.set_xlabel(number)
            axes.set_title(title, loc="left")
            grid_lines(axes)
        pair[0].set_ylabel("log p(x), nats a row")
        low, high = _limits(importance, annealing, plain["tolerance"])
        pair[0].set_ylim(low, high)
        return svg(figure, "convergence", plain["verdict"])


def _curve(axes: Any, points: Sequence[Mapping[str, Any]], number: str, colour: str) -> None:
    numbers = [point[number] for point in points]
    mean = np.array([point["value"] for point in points])
    error = 2 * np.array([point["below_stderr"] or 0.0 for point in points])
    axes.set_xscale("log")
    axes.fill_between(numbers, mean - error, mean + error, color=colour, alpha=0.22, lw=0)
    axes.plot(numbers, mean, color=colour, marker="o", ms=4)
    axes.set_xticks(numbers, [f"{each:,}" for each in numbers])
    axes.minorticks_off()


def _limits(
    importance: Sequence[Mapping[str, Any]],
    annealing: Sequence[Mapping[str, Any]],
    tolerance: float,
) -> tuple[float, float]:
    """The first points may be hundreds of nats down: the better half of both curves is shown."""
    both = [[point["value"] for point in points] for points in (importance, annealing)]
    means = np.concatenate([values[len(values) // 2 :] for values in both])
    every = np.concatenate(both)
    span = max(means.max() - means.min(), 2 * tolerance)
    low = max(every.min() - 0.1 * span, means.max() - 8 * span)
    return float(low), float(every.max() + max(0.25 * span, 0.12 * (every.max() - low)))


def particle_curve(curve: Sequence[Mapping[str, Any]]) -> Markup:
    """The bound against the number of particles, with twice the standard error of each rise."""
    particles = [point["particles"] for point in curve]
    values = [point["value"] for point in curve]
    with new_figure(6.4, 2.9) as (figure, axes):
        axes.plot(particles, values, color=FIRST, marker="o", ms=4)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(particles, [f"{number:,}" for number in particles])
        last = particles[-1]
        if len(particles) > 5:  # neighbours such as 5 and 10 stay apart, their labels would not
            labels = [
                f"{n:,}" if n == last or (str(n)[0] == "1" and n < last / 3) else ""
                for n in particles
            ]
            axes.set_xticks(particles, labels)
        axes.set(xlabel="particles, k", ylabel="nats a row")
        for index in (0, -1):
            axes.annotate(
                f"{values[index]:.2f}".replace("-", "−"),
                (particles[index], values[index]),
                xytext=(7, -2) if index == 0 else (0, -15),
                textcoords="offset points",
                ha="left" if index == 0 else "center",
                fontsize=8,
                color=MUTED,
            )
        grid_lines(axes)
        return svg(figure, "particles", "The bound rises with the number of particles")
