"""Figures of what the latents do: against the prior, its holes, and what probes read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from deeplvm.report.figures.style import (
    CLASSES,
    FIRST,
    INK,
    MUTED,
    RULE,
    SECOND,
    bare,
    colour_scale,
    grid_lines,
    legible,
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
    from numpy.typing import ArrayLike, NDArray

    from deeplvm.evaluation.latents.aggregate import AggregateTests
    from deeplvm.evaluation.latents.prior_holes import Holes
    from deeplvm.evaluation.latents.probes import Probes


_SHOWN = 2_000  # points of a scatter
_BARS = 40
_NO_LABEL = "no label"


def aggregate_figure(tests: AggregateTests, most: int = 3) -> Markup:
    """Histograms of q(z) over the prior in the worst dimensions, and the two worst in the plane.

    Args:
        tests: Of one latent, from
            :func:`~deeplvm.evaluation.latents.aggregate.aggregate_against_prior`.
        most: How many dimensions.

    Raises:
        ValueError: If they are of several latents together, which have no dimensions of one kind.
    """
    if tests.marginals is None:
        raise ValueError(f"{tests.name} are several latents; a figure is of one of them.")
    worst, discrete = tests.marginals.worst[:most], tests.marginals.test == "chi-square"
    plane = not discrete and len(tests.marginals.worst) > 1
    columns = len(worst) + plane
    with new_figure(min(2.4 * columns + 0.4, 9.6), 2.7, ncols=columns, squeeze=False) as (
        figure,
        axes,
    ):
        posterior, prior = tests.posterior.numpy(), tests.prior.numpy()
        if discrete and posterior.shape[1] != len(tests.marginals.worst):
            posterior, prior = [
                side.reshape(len(side), len(tests.marginals.worst), -1).argmax(-1)
                for side in (posterior, prior)
            ]
        for at, (index, each) in enumerate(zip(worst, axes[0], strict=False)):
            if discrete:
                _categories(each, posterior[:, index], prior[:, index])
            else:
                normal = tests.standard_normal
                _histogram(each, posterior[:, index], prior[:, index], normal=normal)
            corrected = float(tests.marginals.holm[index])
            p = "p < 0.001" if corrected < 1e-3 else f"p = {corrected:.3f}"
            each.set_title(f"{short(tests.name, 12)}[{index}], {p}", loc="left")
            bare(each)
            if at == 0:
                each.legend(loc="upper left", handlelength=1.0, borderpad=0.0)
        if plane:
            _plane(axes[0][-1], posterior, prior, tests.name, tests.marginals.worst[:2])
        alt = f"Draws of the aggregate posterior of {tests.name} and of its prior"
        return svg(figure, f"aggregate-{tests.name}", alt)


def holes_figure(holes: Holes) -> Markup:
    r"""Histograms of :math:`\log \hat q(z)` at draws of p and of q, with the threshold."""
    prior, posterior = holes.aggregate_at_prior.numpy(), holes.aggregate_at_posterior.numpy()
    with new_figure(6.4, 2.8) as (figure, axes):
        both = np.concatenate([prior, posterior])
        both = both[np.isfinite(both)]
        # a few draws far away must not squeeze all others into one bin: they are in the first
        low, high = np.quantile(both, 0.01), both.max()
        low = min(low, holes.hole.threshold) if np.isfinite(holes.hole.threshold) else low
        low -= 0.05 * (high - low) + 1e-9
        bins = np.linspace(low, high + 1e-9, 50)
        left_out = "draws of q(z), own row left out"
        shares(axes, np.maximum(posterior, low), bins, MUTED, left_out)
        shares(axes, np.maximum(prior, low), bins, FIRST, "draws of p(z)", outline=True)
        axes.axvline(holes.hole.threshold, color=SECOND, linewidth=1.2, linestyle="--")
        title = f"{holes.hole} of p(z) and {100 * holes.level:g} % of q(z) are left of the line"
        axes.set_title(title, loc="left")
        axes.set_ylim(top=axes.get_ylim()[1] * 1.4)
        axes.set_xlabel(f"log q(z) of {holes.rows:,} rows, nats; all below in the first bin")
        axes.set_ylabel("share of draws")
        axes.legend(loc="upper left")
        grid_lines(axes)
        return svg(figure, "holes", "Density of the aggregate posterior where the prior draws")


def probes_figure(probes: Probes) -> Markup:
    """Accuracy of each probe with its standard error, latents above what they are compared to."""
    bars: list[tuple[str, float, float, bool]] = []
    for each in probes.representations.values():
        title = short(each.name, 30)
        bars.append((f"{title}: linear", each.linear.value, each.linear.stderr, each.latent))
        for k, score in each.neighbours.items():
            what = "nearest" if k == 1 else f"{k} nearest"
            bars.append((f"{title}: {what}", score.value, score.stderr, each.latent))
    for each in probes.clusterings.values():
        title = f"{short(each.name, 30)}: clusters"
        bars.append((title, each.accuracy.value, each.accuracy.stderr, True))
    bars = bars[:_BARS]
    with new_figure(7.0, 0.9 + 0.2 * len(bars)) as (figure, axes):
        places = np.arange(len(bars))
        names, values, errors, latent = zip(*bars, strict=True)
        axes.barh(
            places,
            values,
            xerr=errors,
            height=0.68,
            color=[FIRST if own else MUTED for own in latent],
            alpha=0.85,
            error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2},
        )
        axes.axvline(probes.chance.value, color=SECOND, linewidth=1.2, linestyle="--")
        axes.annotate(
            "chance",
            (probes.chance.value, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
        )
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(
            f"accuracy for {short(probes.labels)}, {probes.test_rows:,} rows, ± standard error"
        )
        grid_lines(axes, "x")
        return svg(figure, "probes", f"Accuracy of probes for {probes.labels}")


def _histogram(
    axes: Axes, posterior: NDArray[np.float64], prior: NDArray[np.float64], *, normal: bool
) -> None:
    """Draws of q(z), over the prior's density where it is N(0, 1), else over its draws."""
    both = np.concatenate([posterior, prior])
    low, high = np.quantile(both, [0.002, 0.998])
    low, high = (low, high) if high > low else (low - 1.0, high + 1.0)
    bins = np.linspace(low, high, 41).tolist()
    axes.hist(posterior, bins, density=True, color=FIRST, alpha=0.55, label="q(z)")
    if normal:
        at = np.linspace(low, high, 200)
        density = np.exp(-0.5 * at**2) / np.sqrt(2 * np.pi)
        axes.plot(at, density, color=INK, linewidth=1.4, label="p(z)")
    else:
        axes.hist(
            prior, bins, density=True, histtype="step", color=INK, linewidth=1.4, label="p(z)"
        )
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)


def _categories(axes: Axes, posterior: NDArray[np.float64], prior: NDArray[np.float64]) -> None:
    """Share of each value, the most frequent ones where they are many."""
    values, counts = np.unique(np.concatenate([posterior, prior]), return_counts=True)
    values = np.sort(values[np.argsort(-counts, kind="stable")[:25]])
    pairs_of_bars(axes, values, posterior, prior, ("q(z)", "p(z)"))
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)


def _plane(
    axes: Axes,
    posterior: NDArray[np.float64],
    prior: NDArray[np.float64],
    name: str,
    dimensions: list[int],
) -> None:
    for side, colour in ((prior, MUTED), (posterior, FIRST)):
        points = side[:_SHOWN, dimensions]
        size = 6 if len(points) < 1_000 else 3
        axes.scatter(*points.T, s=size, color=colour, alpha=0.5, linewidths=0, rasterized=True)
    axes.set_title("both", loc="left")
    axes.set_xlabel(f"{short(name, 12)}[{dimensions[0]}]")
    axes.set_ylabel(f"{short(name, 12)}[{dimensions[1]}]")
    axes.axhline(0, color=RULE, linewidth=0.6, zorder=0)
    axes.axvline(0, color=RULE, linewidth=0.6, zorder=0)
    axes.tick_params(length=0)


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
        matrix: Shape ``(D, K)``: ``matrix`` of a score, or ``importance``; not negative.
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
    with new_figure(1.6 + 0.72 * columns, height) as (figure, axes):
        shown = axes.imshow(values, cmap="Blues", vmin=0, vmax=most, aspect="auto")
        axes.set_xticks(range(columns), factors, rotation=20 if columns > 4 else 0)
        step = -(-dimensions // 32)
        places = range(0, dimensions, step)
        axes.set_yticks(list(places), [f"{name}[{place}]" for place in places])
        if max(dimensions, columns) <= _MOST:
            for (row, column), value in np.ndenumerate(values):
                ink = "#ffffff" if value > 0.6 * most else "#333333"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7
                )
        colour_scale(figure, axes, shown, what)
        return svg(figure, f"factors-{name}-{what}", f"{what} of {name} with each factor")


def dimension_bars(
    name: str,
    values: ArrayLike,
    active: Sequence[bool],
    what: str,
    names: Sequence[str] | None = None,
) -> Markup:
    """A bar for each dimension of a latent, most used first; those not active in grey.

    With ``names`` the bars are latents, in their own order.
    """
    heights = np.asarray(values, dtype=float)
    ranked = np.argsort(-heights, kind="stable")[:64].tolist()
    order = list(range(len(heights))) if names else ranked
    width = min(7.4, max(2.4, 1.2 + 0.2 * len(order)))
    with new_figure(width, 2.4) as (figure, axes):
        colours = [FIRST if active[i] else MUTED for i in order]
        bars = axes.bar(range(len(order)), heights[order], color=colours, width=0.72)
        for bar, i in zip(bars, order, strict=True):
            bar.set_alpha(1.0 if active[i] else 0.5)
        step = 1 if len(order) <= 32 else 4
        places = range(0, len(order), step)
        titles = names or [str(i) for i in range(len(heights))]
        axes.set_xticks(list(places), [titles[order[i]] for i in places])
        axes.set_xlim(-0.7, len(order) - 0.3)
        axes.set_xlabel("latent" if names else f"dimension of {name}, most used first")
        axes.set_ylabel(what)
        grid_lines(axes)
        more = f" (64 of {len(heights)})" if len(heights) > 64 else ""
        alt = "each latent" if names else f"each dimension of {name}{more}"
        return svg(figure, f"bars-{name}", f"{what} of {alt}")


def latent_map(
    points: Array,
    labels: Array | None,
    classes: Sequence[str] | None,
    axis_names: tuple[str, str],
    edges: Array | None = None,
) -> Markup:
    """Posterior means in the plane, coloured by label; lines between pairs ``(edges, 2)``."""
    named = labels is not None and classes is not None and 1 < len(classes) <= len(CLASSES)
    with new_figure(6.2 if named else 5.0, 4.6) as (figure, axes):
        size = 12 if len(points) < 1_000 else 6
        style: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0, "rasterized": True}
        if edges is not None:
            from matplotlib.collections import LineCollection

            lines = LineCollection([*points[edges]], colors=MUTED, linewidths=0.4, alpha=0.25)
            lines.set_rasterized(True)
            axes.add_collection(lines)
        if named and labels is not None and classes is not None:
            if (none := np.isnan(labels)).any():
                axes.scatter(*points[none].T, color=MUTED, label=_NO_LABEL, **style)
            for index, label in enumerate(classes):
                chosen = points[labels == index]
                axes.scatter(*chosen.T, color=CLASSES[index], label=legible(label), **style)
            axes.legend(
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                markerscale=1.8 if size > 10 else 2.6,
                handletextpad=0.1,
                labelcolor=INK,
            )
        else:
            axes.scatter(*points.T, color=CLASSES[0], **style)
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        axes.set_aspect("equal", adjustable="datalim")
        axes.tick_params(length=0)
        return svg(figure, "map", "Posterior means of the rows in the plane")


def latent_histogram(
    points: Array, labels: Array | None, classes: Sequence[str] | None, name: str
) -> Markup:
    """Posterior means on a line, one histogram a label."""
    named = labels is not None and classes is not None and 1 < len(classes) <= len(CLASSES)
    groups = (
        [points[labels == i] for i in range(len(classes))]
        if named and classes is not None
        else [points]
    )
    with new_figure(6.2, 2.6) as (figure, axes):
        names = [legible(label) for label in classes] if named and classes is not None else None
        colours = list(CLASSES[: len(groups)])
        if names and labels is not None and (none := np.isnan(labels)).any():
            groups.append(points[none])
            names, colours = [*names, _NO_LABEL], [*colours, MUTED]
        axes.hist(groups, bins=40, stacked=True, color=colours, label=names)
        if names:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set(xlabel=f"posterior mean of {name}", ylabel="rows")
        grid_lines(axes)
        return svg(figure, "map", f"Histogram of the posterior means of {name}")


def column_traversals(
    changes: Sequence[tuple[str, Array]], columns: Sequence[str], steps: Sequence[str]
) -> Markup:
    """How each column's mean moves with a latent dimension, in its standard deviations."""
    height = 0.6 + 0.19 * min(len(columns), 24)
    form = {"sharex": True, "sharey": True}
    with small_multiples(len(changes), height, width=1.5, wider=1.8, **form) as (figure, grid):
        for axes, (title, change) in zip(grid.flat, changes, strict=False):
            axes.imshow(
                change.T, vmin=-2, vmax=2, cmap="RdBu_r", aspect="auto", interpolation="nearest"
            )
            axes.set_title(title, loc="left")
            if len(columns) <= 24:
                axes.set_yticks(range(len(columns)), [short(name, 18) for name in columns])
            axes.set_xticks([0, len(steps) - 1], [steps[0], steps[-1]])
        shown = grid.flat[0].images[0]
        colour_scale(figure, grid, shown, "standard deviations", shrink=0.8, aspect=24)
        return svg(figure, "traversals", "Change of each column's mean along latent dimensions")
