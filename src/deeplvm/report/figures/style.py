"""Figures inside a page: vector graphics in the page's colours, and images as PNG."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from deeplvm.data.records import Variable

# Stand-ins for the page's own colours, so that a figure is at home on light and on dark.
_INK, _MUTED, _RULE, _FIRST, _SECOND, _CARD = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _CARD: "var(--card)",
}
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.edgecolor": _RULE,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": _RULE,
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
def _figure(width: float, height: float, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in the page's style; nothing global is touched."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MatplotlibFigure

    with mpl.rc_context(_STYLE):
        figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(**options)


def _svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as an ``<svg>`` element, with its width left to the page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # the salt keeps identifiers of two figures on one page apart, and repeatable
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    width, height = figure.get_size_inches() * 72
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width * 4 / 3:.0f}px">'
    )
    text = opening + text[text.index(">") + 1 :]
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return Markup(text)


def _grid(axes: Axes, axis: str = "y") -> None:
    axes.grid(visible=True, axis=axis)  # type: ignore[arg-type]
    axes.tick_params(length=0)


def training_curves(
    metrics: Sequence[Mapping[str, Any]], bound: str = "elbo", best: int | None = None
) -> Markup:
    """The bound on training and held-out rows, epoch by epoch."""
    epochs = [record["epoch"] for record in metrics]
    with _figure(8.4, 3.0) as (figure, axes):
        shown: list[float] = []
        for split, label, colour in (
            ("train", "training rows", _FIRST),
            ("valid", "held-out rows", _SECOND),
        ):
            points = [
                (record["epoch"], record[split][bound])
                for record in metrics
                if bound in (record.get(split) or {}) and record[split][bound] is not None
            ]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, label=label, marker="o" if len(x) < 4 else None, ms=4)
            shown += y
            if split == "valid" and best in x:
                at = y[x.index(best)]
                axes.plot([best], [at], "o", color=colour, ms=5, label=f"best, epoch {best}")
        if len(epochs) > 10 and shown:
            # the steep start would flatten everything that follows: leave a part of it out
            late = [v for record in metrics[len(metrics) // 12 :] for v in _both(record, bound)]
            low, high = min(late), max(late)
            axes.set_ylim(low - 0.12 * (high - low), high + 0.08 * (high - low))
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("nats a row")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.08))
        _grid(axes)
        return _svg(figure, "curves", f"{bound} on training and held-out rows over the epochs")


def _both(record: Mapping[str, Any], bound: str) -> list[float]:
    found = [(record.get(split) or {}).get(bound) for split in ("train", "valid")]
    return [value for value in found if value is not None]


def particle_curve(curve: Sequence[Mapping[str, Any]]) -> Markup:
    """The bound against the number of particles, with twice the standard error of each rise."""
    particles = [point["particles"] for point in curve]
    values = [point["value"] for point in curve]
    with _figure(6.4, 2.9) as (figure, axes):
        axes.plot(particles, values, color=_FIRST, marker="o", ms=4)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(particles, [f"{number:,}" for number in particles])
        if len(particles) > 5:  # neighbours such as 5 and 10 stay apart, their labels would not
            labels = [
                f"{n:,}" if str(n)[0] == "1" or n == particles[-1] else "" for n in particles
            ]
            axes.set_xticks(particles, labels)
        axes.set_xlabel("particles, k")
        axes.set_ylabel("nats a row")
        for index in (0, -1):
            axes.annotate(
                f"{values[index]:.2f}".replace("-", "−"),
                (particles[index], values[index]),
                xytext=(7, -2) if index == 0 else (0, -15),
                textcoords="offset points",
                ha="left" if index == 0 else "center",
                fontsize=8,
                color=_MUTED,
            )
        _grid(axes)
        return _svg(figure, "particles", "The bound rises with the number of particles")


def dimension_bars(name: str, values: ArrayLike, active: Sequence[bool], what: str) -> Markup:
    """A bar for each dimension of a latent, most used first; those not active in grey."""
    heights = np.asarray(values, dtype=float)
    order = np.argsort(-heights, kind="stable")[:64]
    width = min(7.4, max(2.4, 1.2 + 0.2 * len(order)))
    with _figure(width, 2.4) as (figure, axes):
        colours = [_FIRST if active[i] else _MUTED for i in order]
        bars = axes.bar(range(len(order)), heights[order], color=colours, width=0.72)
        for bar, i in zip(bars, order, strict=True):
            bar.set_alpha(1.0 if active[i] else 0.5)
        step = 1 if len(order) <= 32 else 4
        places = range(0, len(order), step)
        axes.set_xticks(list(places), [str(order[i]) for i in places])
        axes.set_xlim(-0.7, len(order) - 0.3)
        axes.set_xlabel(f"dimension of {name}, most used first")
        axes.set_ylabel(what)
        _grid(axes)
        more = f" (64 of {len(heights)})" if len(heights) > 64 else ""
        return _svg(figure, f"bars-{name}", f"{what} of each dimension of {name}{more}")


def latent_map(
    points: NDArray[Any],
    labels: NDArray[Any] | None,
    classes: Sequence[str] | None,
    axis_names: tuple[str, str],
) -> Markup:
    """Posterior means in the plane, coloured by label."""
    named = labels is not None and classes is not None and 1 < len(classes) <= len(CLASSES)
    with _figure(6.2 if named else 5.0, 4.6) as (figure, axes):
        size = 12 if len(points) < 1_000 else 6
        style: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0, "rasterized": True}
        if named and labels is not None and classes is not None:
            for index, label in enumerate(classes):
                chosen = points[labels == index]
                axes.scatter(*chosen.T, color=CLASSES[index], label=_legible(label), **style)
            axes.legend(
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                markerscale=1.8 if size > 10 else 2.6,
                handletextpad=0.1,
                labelcolor=_INK,
            )
        else:
            axes.scatter(*points.T, color=CLASSES[0], **style)
        axes.set_xlabel(axis_names[0])
        axes.set_ylabel(axis_names[1])
        axes.set_aspect("equal", adjustable="datalim")
        axes.tick_params(length=0)
        return _svg(figure, "map", "Posterior means of the rows in the plane")


def latent_histogram(
    points: NDArray[Any], labels: NDArray[Any] | None, classes: Sequence[str] | None, name: str
) -> Markup:
    """Posterior means on a line, one histogram a label."""
    named = labels is not None and classes is not None and 1 < len(classes) <= len(CLASSES)
    groups = (
        [points[labels == i] for i in range(len(classes))]
        if named and classes is not None
        else [points]
    )
    with _figure(6.2, 2.6) as (figure, axes):
        names = [_legible(label) for label in classes] if named and classes is not None else None
        colours = list(CLASSES[: len(groups)])
        axes.hist(groups, bins=40, stacked=True, color=colours, label=names)
        if names:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set_xlabel(f"posterior mean of {name}")
        axes.set_ylabel("rows")
        _grid(axes)
        return _svg(figure, "map", f"Histogram of the posterior means of {name}")


def marginals(
    columns: Sequence[tuple[str, NDArray[Any], NDArray[Any], bool]],
) -> Markup:
    """Each column's values in the data and in draws from the model.

    Args:
        columns: Title, values of the data, values drawn, whether they are discrete.
    """
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    with _figure(
        2.0 * across + 0.3, 1.7 * down + 0.3, nrows=down, ncols=across, squeeze=False
    ) as (
        figure,
        grid,
    ):
        for axes, (title, data, drawn, discrete) in zip(grid.flat, columns, strict=False):
            both = np.concatenate([data, drawn])
            if discrete and len(np.unique(both)) <= 25:
                values = np.unique(both)
                for numbers, shift, colour in ((data, -0.2, _MUTED), (drawn, 0.2, _FIRST)):
                    share = [(numbers == value).mean() for value in values]
                    axes.bar(np.arange(len(values)) + shift, share, 0.4, color=colour)
                step = max(1, len(values) // 6)
                places = np.arange(0, len(values), step)
                axes.set_xticks(places, [f"{values[i]:g}" for i in places])
            else:
                # the draws' far tail, beyond the picture, must not squeeze the data into one bin
                low, high = float(data.min()), float(data.max())
                margin = 0.15 * (high - low) or 1.0
                low = max(low - margin, float(both.min()))
                high = min(high + margin, float(both.max()))
                bins = np.linspace(low, high if high > low else low + 1.0, 25)
                weights = [np.full(len(v), 1 / len(v)) for v in (data, drawn)]
                axes.hist(data, bins, weights=weights[0], color=_MUTED, alpha=0.55)
                axes.hist(
                    drawn, bins, weights=weights[1], histtype="step", color=_FIRST, linewidth=1.6
                )
            axes.set_title(_short(title), loc="left")
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.tick_params(length=0)
        for axes in grid.flat[len(columns) :]:
            axes.set_axis_off()
        return _svg(figure, "marginals", "Histograms of each column, data and samples")


def correlations(data: NDArray[Any], drawn: NDArray[Any], names: Sequence[str]) -> Markup:
    """The correlation matrices of the data and of draws from the model, side by side."""
    with _figure(7.4, 3.6, ncols=2) as (figure, pair):
        for axes, values, title in zip(
            pair, (data, drawn), ("data", "drawn from the model"), strict=True
        ):
            matrix = _correlation(values)
            axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
            axes.set_title(title, loc="left")
            if len(names) <= 16:
                labels = [_short(name, 14) for name in names]
                axes.set_xticks(range(len(names)), labels, rotation=90)
                axes.set_yticks(range(len(names)), labels if axes is pair[0] else [])
            else:
                axes.set_xticks([])
                axes.set_yticks([])
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
        bar = figure.colorbar(pair[0].images[0], ax=pair, shrink=0.75, aspect=24)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(length=0)
        return _svg(figure, "correlations", "Correlations between columns, data and samples")


def _correlation(values: NDArray[Any]) -> NDArray[Any]:
    """Pearson correlations; 0 where a column is constant, holes left out pair by pair."""
    known = np.ma.masked_invalid(values.astype(float))
    with np.errstate(all="ignore"):
        matrix = np.ma.corrcoef(known, rowvar=False, allow_masked=True)
    return np.nan_to_num(np.atleast_2d(np.ma.filled(matrix, 0.0)))


def recovered(columns: Sequence[tuple[str, NDArray[Any], NDArray[Any]]]) -> Markup:
    """Each column's reconstruction against the original."""
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    with _figure(
        2.0 * across + 0.3, 1.9 * down + 0.3, nrows=down, ncols=across, squeeze=False
    ) as (
        figure,
        grid,
    ):
        for axes, (title, original, mean) in zip(grid.flat, columns, strict=False):
            low, high = np.quantile(original, [0, 1])
            axes.plot([low, high], [low, high], color=_RULE, lw=1, zorder=0)
            axes.scatter(
                original, mean, s=7, color=CLASSES[0], alpha=0.6, linewidths=0, rasterized=True
            )
            axes.set_title(_short(title), loc="left")
            axes.tick_params(length=0)
            axes.locator_params(nbins=3)
        for axes in grid.flat[len(columns) :]:
            axes.set_axis_off()
        figure.supxlabel("original", fontsize=9, color=_MUTED)
        figure.supylabel("reconstruction", fontsize=9, color=_MUTED)
        return _svg(figure, "recovered", "Reconstruction against original, column by column")


def column_traversals(
    changes: Sequence[tuple[str, NDArray[Any]]], columns: Sequence[str], steps: Sequence[str]
) -> Markup:
    """How each column's mean moves with a latent dimension, in its standard deviations."""
    across = min(4, len(changes))
    down = -(-len(changes) // across)
    height = down * (0.6 + 0.19 * min(len(columns), 24)) + 0.4
    with _figure(
        1.5 * across + 1.8,
        height,
        nrows=down,
        ncols=across,
        squeeze=False,
        sharex=True,
        sharey=True,
    ) as (figure, grid):
        for axes, (title, change) in zip(grid.flat, changes, strict=False):
            axes.imshow(
                change.T, vmin=-2, vmax=2, cmap="RdBu_r", aspect="auto", interpolation="nearest"
            )
            axes.set_title(title, loc="left")
            if len(columns) <= 24:
                axes.set_yticks(range(len(columns)), [_short(name, 18) for name in columns])
            axes.set_xticks([0, len(steps) - 1], [steps[0], steps[-1]])
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
        for axes in grid.flat[len(changes) :]:
            axes.set_axis_off()
        bar = figure.colorbar(grid.flat[0].images[0], ax=grid, shrink=0.8, aspect=24)
        bar.set_label("standard deviations", fontsize=8, color=_MUTED)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(length=0)
        return _svg(figure, "traversals", "Change of each column's mean along latent dimensions")


def brightness(variable: Variable | None, values: NDArray[Any]) -> tuple[float, float]:
    """The values that black and white stand for."""
    if variable is not None and variable.kind == "levels" and variable.levels:
        return 0.0, float(variable.levels - 1)
    if variable is not None and variable.kind in ("binary", "unit"):
        return 0.0, 1.0
    known = values[np.isfinite(values)]
    low, high = (
        (variable.minimum, variable.maximum)
        if variable is not None
        else (float(known.min()), float(known.max()))
        if known.size
        else (0.0, 1.0)
    )
    return (low, high) if high > low else (low, low + 1.0)


def grid_png(
    images: ArrayLike,
    *,
    columns: int | None = None,
    variable: Variable | None = None,
    gap: int = 1,
    side: int = 0,
    group: int = 0,
    opaque: bool = False,
) -> bytes:
    """Images in a grid as PNG, transparent between them; a missing pixel is red.

    Args:
        images: Values in the data's own units, shape ``(rows, channels, height, width)``.
        columns: Images in a line; a square if left out.
        variable: What they are, which says the values of black and white.
        gap: Pixels between images, before enlarging.
        side: Small images are enlarged by a whole number until the longer side of the grid is
            about this long; 0 for no enlarging.
        group: A wider gap after so many lines; 0 for none.
        opaque: White between them, for a file of its own; without colours it is a grey picture.

    Raises:
        ValueError: If they are no images.
    """
    from PIL import Image

    values = np.asarray(images, dtype=float)
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ValueError(
            f"A grid is of images (rows, 1 or 3 channels, height, width), found shape "
            f"{values.shape}."
        )
    low, high = brightness(variable, values)
    holes: NDArray[np.bool_] = np.any(np.isnan(values), axis=1)
    shades = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    shades = np.round(255 * np.repeat(shades, 4 - values.shape[1], axis=1)[:, :3]).astype(np.uint8)
    rows, _, height, width = shades.shape
    columns = columns or max(1, round(math.sqrt(rows)))
    lines = -(-rows // columns)

    def top(line: int) -> int:
        return gap + line * (height + gap) + (line // group * 3 * gap if group else 0)

    canvas = np.zeros((top(lines - 1) + height + gap, columns * (width + gap) + gap, 4), np.uint8)
    for i in range(rows):
        y, x = top(i // columns), gap + (i % columns) * (width + gap)
        canvas[y : y + height, x : x + width, :3] = shades[i].transpose(1, 2, 0)
        canvas[y : y + height, x : x + width, 3] = 255
        canvas[y : y + height, x : x + width][holes[i]] = (196, 60, 60, 255)
    if opaque:
        canvas[canvas[..., 3] == 0] = 255
        canvas = canvas[..., :3] if values.shape[1] == 3 or holes.any() else canvas[..., 0]
    scale = max(1, side // max(canvas.shape[:2]))
    buffer = io.BytesIO()
    Image.fromarray(canvas.repeat(scale, 0).repeat(scale, 1)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_grid(
    images: ArrayLike,
    alt: str,
    *,
    columns: int,
    variable: Variable | None = None,
    group: int = 0,
    width: int = 0,
) -> Markup:
    """An ``<img>`` element that carries its own picture, shown at a whole multiple of its size."""
    values = np.asarray(images)
    content = grid_png(values, columns=columns, variable=variable, group=group)
    natural = columns * (values.shape[-1] + 1) + 1
    factor = max(1, (width or 720) // natural)
    data = base64.b64encode(content).decode()
    return Markup(
        '<img class="pixels" alt="{}" style="width:{}px" src="data:image/png;base64,{}">'
    ).format(alt, natural * factor, data)


def _legible(label: object) -> str:
    """A label that a legend shows; matplotlib leaves out those that begin with an underscore."""
    text = _short(str(label))
    return f"\u200b{text}" if text.startswith("_") else text


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
