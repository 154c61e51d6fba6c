"""Models side by side."""

from __future__ import annotations

from markupsafe import Markup

from deeplvm.evaluation.comparison import Comparison
from deeplvm.report.figures.style import FIRST, MUTED, grid_lines, new_figure, short, svg


def comparison_figure(found: Comparison) -> Markup:
    """How far each model is behind the best, with the interval of 95 %; the best at the top."""
    models = found.models
    with new_figure(7.4, 0.7 + 0.36 * len(models)) as (figure, axes):
        axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        for place, each in enumerate(reversed(models)):
            low, high = each.behind.interval() if each is not models[0] else (0.0, 0.0)
            axes.plot([-high, -low], [place, place], color=FIRST, linewidth=1.6)
            axes.plot([-each.behind.value], [place], "o", color=FIRST, markersize=5)
        axes.set_yticks(range(len(models)), [short(each.name, 40) for each in reversed(models)])
        axes.set_xlabel("log p(x) less that of the best, nats a row; interval of 95 %")
        axes.margins(y=0.12)
        grid_lines(axes, "x")
        return svg(figure, "comparison", "Models by log-likelihood, behind the best")
