"""Figures of codes against factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

from deeplvm.report.figures import _figure, _svg

_MOST = 12  # dimensions and factors up to which every cell says its number


def factor_matrix_figure(
    matrix: ArrayLike,
    factors: Sequence[str],
    *,
    what: str = "mutual information, nats",
    name: str = "z",
    top: float | None = None,
) -> Markup:
    """A heat map of latents by factors; a disentangled code has one dark cell a row and column.

    Args:
        matrix: Shape ``(D, K)``: ``information``, ``scores``, ``importance`` or ``robustness``
            of a result, not negative.
        factors: Names of the factors.
        what: What the numbers are.
        name: Of the latent.
        top: The value of full colour; the largest by default.

    Raises:
        ValueError: If there is not one name for each column, or a number is missing.
    """
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(factors) or not np.isfinite(values).all():
        raise ValueError(
            f"A matrix of finite numbers has one column for each of {', '.join(factors)}; found "
            f"shape {values.shape}."
        )
    dimensions, columns = values.shape
    most = top or float(values.max()) or 1.0
    height = min(7.0, 1.0 + 0.28 * dimensions)
    with _figure(1.6 + 0.72 * columns, height) as (figure, axes):
        shown = axes.imshow(values, cmap="Blues", vmin=0, vmax=most, aspect="auto")
        axes.set_xticks(range(columns), factors, rotation=20 if columns > 4 else 0)
        step = -(-dimensions // 32)
        places = range(0, dimensions, step)
        axes.set_yticks(list(places), [f"{name}[{place}]" for place in places])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if max(dimensions, columns) <= _MOST:
            for (row, column), value in np.ndenumerate(values):
                ink = "#ffffff" if value > 0.6 * most else "#333333"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7
                )
        figure.colorbar(shown, ax=axes, label=what).outline.set_visible(False)
        return _svg(figure, f"factors-{name}-{what}", f"{what} of {name} with each factor")
