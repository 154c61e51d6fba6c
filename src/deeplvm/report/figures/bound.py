"""Figures of what the bound loses: rate and distortion, the divergence split, generalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplvm.report.figures.style import (
    FIRST,
    INK,
    MUTED,
    RULE,
    SECOND,
    grid_lines,
    new_figure,
    svg,
)

if TYPE_CHECKING:
    from markupsafe import Markup

_MOST_DIMENSIONS = 40
_APART = 0.06  # of the picture, by which one label is from the next


def rate_distortion_figure(result: Any) -> Markup:
    """The curve of the tempered posteriors, and the model's own point on its line of slope −1.

    Args:
        result: A :class:`~deeplvm.evaluation.bound.rate_distortion.RateDistortion`, or its
            ``to_dict()``.
    """
    plain = _plain(result)
    own = plain["distortion"]["value"], plain["rate"]["value"]
    points = [(p["distortion"]["value"], p["rate"]["value"], p["beta"]) for p in plain["curve"]]
    x, y = (np.array([own[i], *[p[i] for p in points]]) for i in (0, 1))
    with new_figure(6.4, 3.6) as (figure, axes):
        # an even frame around all points; the lines are drawn through it and cut there
        pad_x, pad_y = (max(0.08 * float(np.ptp(v)), 0.05) for v in (x, y))
        axes.set_xlim(x.min() - 2 * pad_x, x.max() + pad_x)
        axes.set_ylim(min(0.0, y.min()) - pad_y, y.max() + 1.5 * pad_y)
        ends = np.array(axes.get_xlim())
        axes.plot(
            ends, sum(own) - ends, color=SECOND, lw=1.1, ls=(0, (4, 3)),
            label=f"rate + distortion = {_signed(sum(own))} = −ELBO",
        )  # fmt: skip
        if points:
            distortion, rate, _ = zip(*points, strict=True)
            axes.plot(
                distortion, rate, color=FIRST, marker="o", ms=4,
                label="tempered posteriors: no q is below",
            )  # fmt: skip
            spans = np.ptp(distortion) or 1.0, np.ptp(rate) or 1.0
            last = (np.inf, np.inf)
            for d, r, beta in points:  # below the curve, where nothing else is
                if max(abs(d - last[0]) / spans[0], abs(r - last[1]) / spans[1]) < _APART:
                    continue  # it would lie on the label before
                last = (d, r)
                axes.annotate(
                    f"β = {beta:g}", (d, r), xytext=(-4, -4), textcoords="offset points",
                    ha="right", va="top", fontsize=8, color=MUTED,
                )  # fmt: skip
        axes.plot(*own, "D", color=SECOND, ms=6, label="q as it is", zorder=3)
        axes.set(xlabel="distortion, −E log p(x|z), nats a row", ylabel="rate, KL(q(z|x) ‖ p(z))")
        axes.legend(loc="upper right", labelcolor=INK)
        grid_lines(axes, "both")
        return svg(figure, "rate-distortion", "Rate against distortion, and the model's own")


def surgery_figure(result: Any) -> Markup:
    """The averaged divergence as a stacked bar: of each latent, or of the dimensions of one.

    Args:
        result: An :class:`~deeplvm.evaluation.bound.surgery.ElboSurgery`, or its ``to_dict()``.
    """
    parts = _plain(result)["parts"]
    only = next(iter(parts.values())) if len(parts) == 1 else None
    each = only["by_dimension"] if only is not None else None
    if only is not None and each is not None and len(each["marginal"]) > 1:
        informed = np.array(each["mutual_information"], dtype=float)
        marginal = np.array(each["marginal"], dtype=float)
        order = np.argsort(-(informed + marginal), kind="stable")[:_MOST_DIMENSIONS]
        labels = [str(index) for index in order]
        what = f"dimension of {only['latents'][0]}, most used first"
        informed, marginal = informed[order], marginal[order]
    else:
        labels = ["all" if len(p["latents"]) > 1 else key for key, p in parts.items()]
        informed, marginal = (
            np.array([p[name]["value"] for p in parts.values()], dtype=float)
            for name in ("mutual_information", "marginal")
        )
        what = "latent"
    with new_figure(min(7.4, max(3.6, 2.0 + 0.24 * len(labels))), 2.8) as (figure, axes):
        places = np.arange(len(labels))
        axes.bar(
            places, informed, color=FIRST, width=0.72 if len(labels) > 3 else 0.4,
            label="mutual information I(x; z)",
        )  # fmt: skip
        # an estimate may be a little below zero, and is not drawn over what is above
        axes.bar(
            places, marginal, bottom=np.where(marginal > 0, informed.clip(min=0), 0),
            color=SECOND, width=0.72 if len(labels) > 3 else 0.4, label="KL(q(z) ‖ p(z))",
        )  # fmt: skip
        step = 1 if len(labels) <= 24 else 4
        axes.set_xticks(places[::step], labels[::step])
        axes.set_xlim(-0.7, len(labels) - 0.3)
        high = float((informed.clip(min=0) + marginal.clip(min=0)).max())
        axes.set_ylim(min(0.0, float(informed.min()), float(marginal.min())), 1.3 * high or 1.0)
        axes.set_xlabel(what)
        axes.set_ylabel("nats a row")
        axes.legend(loc="upper right", labelcolor=INK)
        grid_lines(axes)
        return svg(figure, "surgery", "The averaged divergence, split in two")


def generalisation_figure(result: Any) -> Markup:
    """The parts of the difference between training and held-out rows, with two standard errors.

    Args:
        result: A :class:`~deeplvm.evaluation.bound.generalisation.GeneralisationGap`, or its
            ``to_dict()``.
    """
    plain = _plain(result)
    names = ("elbo", "decoder", "family", "encoder")
    shown = ("ELBO, train less held-out", "decoder: log p", "family of q", "encoder")
    values = [plain[name]["value"] for name in names]
    errors = [2 * (plain[name]["stderr"] or 0.0) for name in names]
    with new_figure(6.4, 2.3) as (figure, axes):
        places = np.arange(len(names))[::-1]
        colours = [
            SECOND if plain.get(f"{name}_overfits") else MUTED if name == "elbo" else FIRST
            for name in names
        ]
        axes.barh(places, values, color=colours, height=0.6)
        axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1)
        axes.axvline(0, color=RULE, lw=1)
        low, high = (
            f(0.0, *[v + s * e for v, e in zip(values, errors, strict=True)])
            for f, s in ((min, -1), (max, 1))
        )
        room = 0.22 * (high - low or 1.0)
        axes.set_xlim(low - (room if low < 0 else 0.0), high + room)
        for place, value, error in zip(places, values, errors, strict=True):
            axes.annotate(
                _signed(value), (value + (error if value >= 0 else -error), place),
                xytext=(5 if value >= 0 else -5, 0), textcoords="offset points", va="center",
                ha="left" if value >= 0 else "right", fontsize=8, color=MUTED,
            )  # fmt: skip
        axes.set_yticks(places, shown)
        axes.set_xlabel("lost on held-out rows, nats a row (± two standard errors)")
        grid_lines(axes, "x")
        return svg(figure, "generalisation", "What held-out rows lose, part by part")


def _plain(result: Any) -> Mapping[str, Any]:
    return result if isinstance(result, Mapping) else result.to_dict()


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
