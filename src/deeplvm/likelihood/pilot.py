"""What a pass through a model takes: a timed pilot of small batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping

import torch

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Draw
from deeplvm.inference.rows import Rows, redrawn, rows_of
from deeplvm.likelihood.chunks import Plan, plan
from deeplvm.randomness import evaluating

_LONG = 0.2  # seconds after which a pilot has seen enough
_WIDEST = 64  # rows
_PARTICLES, _FEWEST_ROWS = 16, 20


def seconds_each(
    work: Callable[[int], object],
    most: int = _WIDEST,
    *,
    small: float = 0.0,
    clock: Callable[[], float] | None = None,
) -> float:
    """Seconds of one of so many things that are done together, in the best of growing numbers.

    Args:
        work: Does a number of them.
        most: So many at most.
        small: So few seconds need not be known more exactly.
        clock: Seconds.

    >>> spent = []
    >>> seconds_each(lambda count: spent.append(0.1 + 0.01 * count), clock=lambda: sum(spent))
    0.01625
    """
    clock = clock or time.perf_counter
    best, count, again = math.inf, 1, True
    while True:
        began = clock()
        work(count)
        took = clock() - began
        best = min(best, took / count)
        if best <= small:
            return best
        if again and _LONG < took < 10 * _LONG:  # something else may have taken that time
            again = False
        elif took > _LONG or count >= most:
            return best
        else:
            again, count = True, min(4 * count, most)


def seconds_a_particle(
    model: LatentVariableModel,
    rows: Rows,
    planned: Plan,
    draw: Mapping[str, Draw] | None = None,
    *,
    small: float = 0.0,
    clock: Callable[[], float] | None = None,
) -> float:
    """Seconds of one particle of a row, drawn by q and scored by p, where many are at once.

    Args:
        model: Left as it was.
        rows: The first of them are taken.
        planned: Of their evaluation, from :func:`~deeplvm.likelihood.chunks.plan`.
        draw: How a latent is drawn.
        small, clock: As for :func:`seconds_each`.
    """
    particles = min(_PARTICLES, planned.particles)

    def work(count: int) -> None:
        given = rows[slice(0, count)]
        model.evidence(
            given, particles=particles, draw=draw, missing=rows.missing, rows=rows.data_rows
        )

    with evaluating(model, 0), torch.inference_mode():
        most = min(_WIDEST, rows.rows)
        return seconds_each(work, most, small=small * particles, clock=clock) / particles


def affordable(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int,
    seconds: float,
    *,
    beside: int = 0,
    draw: Mapping[str, Draw] | None = None,
    clock: Callable[[], float] | None = None,
) -> tuple[int, int]:
    """Of how many rows, and by how many particles each, a likelihood is estimated in some seconds.

    All that were asked for where that is soon done; else fewer particles, down to a few, and
    then fewer rows.

    Args:
        model: Left as it was.
        data: All rows.
        particles: As many are wanted.
        seconds: For all.
        beside: Further particles a row that will be drawn.
        draw: How a latent is drawn.
        clock: Seconds.
    """
    rows = rows_of(model, data, omit=redrawn(draw))
    with evaluating(model, 0):
        planned = plan(model, rows, particles, draw=draw)
    beside = beside if planned.particles > 1 else 0
    small = seconds / (rows.rows * (planned.particles + beside))
    each = seconds_a_particle(model, rows, planned, draw, small=small, clock=clock)
    if each <= small:
        return rows.rows, particles
    fewest = min(planned.particles, _PARTICLES)
    fewer = max(fewest, int(seconds / each / rows.rows) - beside)
    count = min(rows.rows, max(_FEWEST_ROWS, int(seconds / each / (fewer + beside))))
    return count, particles if planned.particles == 1 else fewer


def level(costs: Iterable[float], budget: float) -> float:
    """What each may cost at most so that all together cost no more than a budget.

    >>> level([1.0, 2.0, 50.0, 90.0], 43.0)
    20.0
    """
    left, ordered = budget, sorted(costs)
    for place, cost in enumerate(ordered):
        share = left / (len(ordered) - place)
        if cost > share:
            return max(share, 0.0)
        left -= cost
    return math.inf


def spoken(seconds: float) -> str:
    """A length of time in words.

    >>> spoken(4), spoken(1200), spoken(90_000)
    ('4 s', '20 minutes', '25 hours')
    """
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 6_000 else f"{seconds / 3_600:.0f} hours"
