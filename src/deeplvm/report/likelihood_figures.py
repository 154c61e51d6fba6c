"""Figures of likelihoods and of how sure they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from deeplvm.report.figures import _FIRST, _MUTED, _SECOND, _figure, _grid, _svg

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.evaluation.likelihood.convergence import Convergence


def convergence_figure(result: Convergence) -> Markup:
    """Likelihoods by particles and by temperatures, side by side at one scale.

    Bands are two standard errors of the differences from the last point of annealing, which the
    line is drawn through: what the rows differ by is left out, so it has no band itself.
    """
    with _figure(8.0, 3.0, ncols=2, sharey=True) as (figure, pair):
        last = float(result.annealed[-1].mean())
        for axes, numbers, values, colour, what, title in (
            (pair[0], result.particles, result.importance, _FIRST, "particles",
             "importance sampling"),
            (pair[1], result.temperatures, result.annealed, _SECOND, "temperatures",
             "the exact sum" if result.exact else f"annealing, {result.chains} chains"),
        ):  # fmt: skip
            axes.axhline(last, color=_MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
            _curve(axes, numbers, values, result.annealed[-1], colour)
            axes.set_xlabel(what)
            axes.set_title(title, loc="left")
            _grid(axes)
        pair[0].set_ylabel("log p(x), nats a row")
        low, high = _limits(result)
        pair[0].set_ylim(low, high)
        return _svg(figure, "convergence", result.verdict)


def _curve(axes: Any, numbers: tuple[int, ...], values: Tensor, last: Tensor, colour: str) -> None:
    mean = values.mean(1).numpy()
    error = 2 * ((values - last).std(1) / values.shape[1] ** 0.5).numpy()
    axes.set_xscale("log")
    axes.fill_between(numbers, mean - error, mean + error, color=colour, alpha=0.22, lw=0)
    axes.plot(numbers, mean, color=colour, marker="o", ms=4)
    axes.set_xticks(numbers, [f"{each:,}" for each in numbers])
    axes.minorticks_off()


def _limits(result: Convergence) -> tuple[float, float]:
    """The first points may be hundreds of nats down: the better half of both curves is shown."""
    means = np.concatenate(
        [each.mean(1).numpy()[len(each) // 2 :] for each in (result.importance, result.annealed)]
    )
    every = np.concatenate([result.importance.mean(1).numpy(), result.annealed.mean(1).numpy()])
    span = max(means.max() - means.min(), 2 * result.tolerance)
    low = max(every.min() - 0.1 * span, means.max() - 8 * span)
    return float(low), float(every.max() + max(0.25 * span, 0.12 * (every.max() - low)))
