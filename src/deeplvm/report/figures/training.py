"""The curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from deeplvm.report.figures.style import FIRST, RULE, SECOND, grid_lines, new_figure, svg


def training_curves(
    metrics: Sequence[Mapping[str, Any]], bound: str = "elbo", best: int | None = None
) -> Markup:
    """The bound on training and held-out rows, epoch by epoch."""
    epochs = [record["epoch"] for record in metrics]
    with new_figure(8.4, 3.0) as (figure, axes):
        shown: list[float] = []
        for split, label, colour in (
            ("train", "training rows", FIRST),
            ("valid", "held-out rows", SECOND),
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
        apart = [r["epoch"] for r in metrics if not r.get("comparable", True)]
        compared = [record for record in metrics if record.get("comparable", True)] or metrics
        if apart:
            axes.axvspan(epochs[0], apart[-1], color=RULE, alpha=0.5, linewidth=0, label="warm-up")
        if len(epochs) > 10 and shown:
            # the steep start would flatten everything that follows: leave a part of it out
            late = [v for r in compared[len(compared) // 12 :] for v in _both(r, bound)]
            low, high = min(late), max(late)
            axes.set_ylim(low - 0.12 * (high - low), high + 0.08 * (high - low))
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("nats a row")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.08))
        grid_lines(axes)
        return svg(figure, "curves", f"{bound} on training and held-out rows over the epochs")


def _both(record: Mapping[str, Any], bound: str) -> list[float]:
    found = [(record.get(split) or {}).get(bound) for split in ("train", "valid")]
    return [value for value in found if value is not None]
