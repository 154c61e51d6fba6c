"""The trials of a study: how it went, and which options matter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from deeplvm.report.figures.style import FIRST, MUTED, SECOND, grid_lines, new_figure, short, svg
from deeplvm.runs.study import Study, Trial

_MOST = 9  # options that are drawn


def _scored(study: Study) -> list[Trial]:
    return [each for each in study.finished if each.score is not None]


def _window(study: Study) -> tuple[float, float]:
    """From a little below the middle of the trials to the best: the worst would flatten all."""
    scores = np.array([each.score for each in _scored(study)])
    done = np.array([each.score for each in study.finished if each.state == "done"])
    sign = 1 if study.direction == "higher" else -1
    best, far = (sign * done).max(), np.quantile(sign * scores, 0.25)
    room = max(best - far, 1e-6)
    ends = sign * (best + 0.1 * room), sign * (far - 0.1 * room)
    return min(ends), max(ends)


def study_history(study: Study) -> Markup | None:
    """The bound of each trial with the best so far, and how each came there."""
    if study.best is None:
        return None
    with new_figure(8.4, 3.2, ncols=2, sharey=True) as (figure, (left, right)):
        best = np.maximum if study.direction == "higher" else np.minimum
        for state, face in (("done", FIRST), ("stopped", "none")):
            those = [each for each in _scored(study) if each.state == state]
            left.plot(
                [t.number for t in those], [t.score for t in those], "o", ms=4,
                markerfacecolor=face, markeredgecolor=FIRST if state == "done" else MUTED,
                label=state, linestyle="none",
            )  # fmt: skip
        done = [each for each in _scored(study) if each.state == "done"]
        steps = best.accumulate(np.array([each.score for each in done]))
        numbers = [*[t.number for t in done], study.finished[-1].number]
        left.step(numbers, [*steps, steps[-1]], where="post", color=SECOND, label="best so far")
        left.set_xlabel("trial")
        left.xaxis.get_major_locator().set_params(integer=True)
        left.set_ylabel(f"held-out {study.bound}, nats a row")
        left.legend(loc="lower right")
        for trial in _scored(study):
            first = trial is study.best
            parts, values = zip(*trial.curve, strict=True) if trial.curve else ((), ())
            right.plot(
                [10 * part for part in parts], values,
                color=SECOND if first else FIRST if trial.state == "done" else MUTED,
                linewidth=1.8 if first else 0.8, alpha=1.0 if first else 0.6, zorder=2 + first,
            )  # fmt: skip
        right.set_xlabel("part of a trial's time, %")
        left.set_ylim(*_window(study))
        for axes in (left, right):
            grid_lines(axes)
        return svg(figure, "history", "The bound of each trial, and how each came there")


def importance_figure(study: Study) -> Markup | None:
    """How much of the variance of the bound each option explains."""
    if not study.importance:
        return None
    shares = sorted(study.importance.items(), key=lambda item: item[1])
    with new_figure(6.4, 0.6 + 0.26 * len(shares)) as (figure, axes):
        axes.barh(range(len(shares)), [100 * share for _, share in shares], 0.6, color=FIRST)
        axes.set_yticks(range(len(shares)), [short(name, 30) for name, _ in shares])
        axes.set_xlabel("%")
        grid_lines(axes, "x")
        return svg(figure, "importance", "Share of the variance that each option explains")


def options_figure(study: Study) -> Markup | None:
    """The bound by each option, the most important first."""
    weight = study.importance or {}
    names = sorted(study.search, key=lambda name: -weight.get(name, 0.0))[:_MOST]
    if study.best is None or not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with new_figure(
        2.9 * columns, 2.2 * rows, nrows=rows, ncols=columns, sharey=True, squeeze=False
    ) as (figure, grid):
        for name, axes in zip(names, grid.flat, strict=False):
            _by_option(axes, study, name)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(study.bound)
        grid[0, 0].set_ylim(*_window(study))
        return svg(figure, "options", "The bound of each trial by each option")


def _by_option(axes: Any, study: Study, name: str) -> None:
    trials, text = _scored(study), study.search[name]
    values = [_number(each.options[name]) for each in trials]
    if "|" in text or any([math.isnan(each) for each in values]):
        words = list(dict.fromkeys([*text.split("|"), *[_word(t.options[name]) for t in trials]]))
        values = [words.index(_word(each.options[name])) for each in trials]
        axes.set_xticks(range(len(words)), [short(word, 12) for word in words])
        axes.set_xlim(-0.5, len(words) - 0.5)
        if len("".join(words)) > 24:
            axes.tick_params(axis="x", labelrotation=30)
    elif min(values) > 0 and max(values) / min(values) >= 10:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for trial, value in zip(trials, values, strict=True):
        done = trial.state == "done"
        colour = SECOND if trial is study.best else FIRST if done else MUTED
        axes.plot(
            [value], [trial.score], "o", ms=5 if trial is study.best else 3.5,
            markeredgecolor=colour, markerfacecolor=colour if done else "none",
        )  # fmt: skip
    axes.set_title(name, loc="left")
    grid_lines(axes)


def _number(value: Any) -> float:
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else math.nan


def _word(value: Any) -> str:
    return str(value).replace(" ", "")
