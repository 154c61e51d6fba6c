r"""Whether a likelihood has settled: importance sampling and annealing on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Draw
from deeplvm.inference.diagnostics import TOO_HEAVY, pareto_k, tail_length
from deeplvm.inference.rows import Names, Rows, Tensors, for_rows, redrawn, rows_of
from deeplvm.inference.tempering import Start
from deeplvm.likelihood.annealing import annealed_curve
from deeplvm.likelihood.chunks import Chunks, plan
from deeplvm.randomness import RowNoise, evaluating
from deeplvm.results import Estimate, Record, finite, mean_of, number

_MIXING = 0.5  # acceptance below which particles hardly move


@dataclass(frozen=True)
class Difference(Estimate):
    """Mean of differences row by row, nats.

    Attributes:
        value: The mean.
        stderr: Its standard error over rows, with the Monte-Carlo noise of both.
    """

    @property
    def error(self) -> float:
        """Two standard errors."""
        return 2.0 * self.stderr

    def __str__(self) -> str:
        # an error of rounding is none
        return number(abs(self.value), self.stderr if self.stderr > 1e-6 else 0.0)


@dataclass(frozen=True, eq=False)
class Convergence(Record):
    r"""Two lower bounds in expectation on :math:`\log p(x)` that rise to it; nats a row.

    They are compared row by row, so that what the rows differ by is no part of an error.

    Attributes:
        particles: Numbers of draws from q, rising.
        importance: Importance sampling with each of them, shape ``(numbers, rows)``: the mean
            over disjoint groups of the same draws.
        temperatures: Numbers of temperatures, rising.
        annealed: Annealed importance sampling with each of them, shape ``(numbers, rows)``.
        acceptance: Of the transitions, mean over rows, shape ``(numbers,)``; NaN if none.
        ess: Effective particles with the most temperatures, shape ``(rows,)``.
        pareto_k: Shape of the tail of q's weights, shape ``(rows,)``.
        annealed_particles: Of annealing, a row.
        start: Where they begin.
        exact: Whether annealing had nothing to draw, so that it is log p(x) itself.
        tolerance: A difference that does not matter, nats a row.
    """

    particles: tuple[int, ...]
    importance: Tensor
    temperatures: tuple[int, ...]
    annealed: Tensor
    acceptance: Tensor
    ess: Tensor
    pareto_k: Tensor
    annealed_particles: int
    start: Start
    exact: bool
    tolerance: float

    header: ClassVar = ("", "log p(x), nats a row", "below the last")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.importance.shape[1]

    @property
    def heavy(self) -> float:
        """Share of rows whose ``pareto_k`` is above 0.7."""
        return float((self.pareto_k > TOO_HEAVY).double().mean())

    @property
    def gap(self) -> Difference:
        """Annealing with the most temperatures less importance sampling with the most draws."""
        return Difference.of(self.annealed[-1] - self.importance[-1])

    @property
    def importance_rise(self) -> Difference | None:
        """How much the last number of draws adds to the one before."""
        return _rise(self.importance)

    @property
    def annealed_rise(self) -> Difference | None:
        """How much the last number of temperatures adds to the one before."""
        return _rise(self.annealed)

    @property
    def annealed_left(self) -> Difference | None:
        """What further temperatures would add, if the bias falls as one over their number."""
        if (rise := self.annealed_rise) is None:
            return None
        before, last = self.temperatures[-2:]
        share = before / (last - before)
        return Difference(share * rise.value, share * rise.stderr)

    @property
    def verdict(self) -> str:
        """What the two curves say, in words.

        A difference counts if it is above :attr:`tolerance` and above two standard errors. The
        bias of annealing falls as 1 / T, so that a rise from S to T temperatures leaves
        S / (T - S) of it to come; annealing has settled where that is below the tolerance.
        """
        draws = f"the {self.particles[-1]:,}-particle estimate"
        other = (
            "the exact sum"
            if self.exact
            else f"annealing with {self.temperatures[-1]:,} temperatures"
        )
        gap, rise, left = self.gap, self.annealed_rise, self.annealed_left
        below = Difference(-gap.value, gap.stderr)
        rising = left is not None and left.above(self.tolerance)
        if below.above(self.tolerance) and not self.exact:
            accepted = float(self.acceptance[-1])
            if rising:
                before = f"{self.temperatures[-2]:,} temperatures"
                cause = f"it still rose by {rise} from {before}: take more"
            elif accepted < _MIXING:
                cause = (
                    f"its particles mix badly (acceptance {accepted:.2f}): take more leapfrog "
                    f"steps{self._from_q}"
                )
            else:
                cause = f"take more temperatures{self._from_q}"
            return f"{_sentence(other)} is {below} nats below {draws}; {cause}."
        if rising:
            return (
                f"Annealing has not settled: it rose by {rise} nats from "
                f"{self.temperatures[-2]:,} to {self.temperatures[-1]:,} temperatures, which "
                f"leaves about {left} to come; take more temperatures{self._from_q}. "
                f"{_sentence(draws)} is {self._apart(gap)} it."
            )
        if gap.above(self.tolerance):
            more = self.importance_rise
            stopped = (
                more is not None
                and more.value <= self.tolerance
                and more.value + more.error < gap.value / 2
            )
            if not stopped:
                return f"{_sentence(draws)} is still rising: {gap} nats below {other}."
            return (
                f"{_sentence(draws)} has stopped rising ({number(more.value, more.stderr)} nats "
                f"from {self.particles[-2]:,} particles) {gap} nats below {other}: q seems to "
                f"miss a part of the posterior."
            )
        if abs(gap.value) + gap.error > 2 * self.tolerance:
            return (
                f"Not told apart: {draws} is {self._apart(gap)} {other}; take more rows, or more "
                f"particles."
            )
        return f"Both have settled: {draws} and {other} agree within {gap} nats."

    @property
    def _from_q(self) -> str:
        return " or start from q (start='posterior')" if self.start == "prior" else ""

    @staticmethod
    def _apart(gap: Difference) -> str:
        return f"{gap} nats {'below' if gap.value > 0 else 'above'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, means over rows; what is not a number is ``None``.

        Each point has the value, its standard error over rows, and how far it is below the last
        point of annealing with the standard error of that.
        """
        return {
            "importance": [
                {"particles": count, **self._point(values)}
                for count, values in zip(self.particles, self.importance, strict=True)
            ],
            "annealing": [
                {"temperatures": count, **self._point(values), "acceptance": finite(float(rate))}
                for count, values, rate in zip(
                    self.temperatures, self.annealed, self.acceptance, strict=True
                )
            ],
            "gap": self.gap.to_dict(),
            "annealed_particles": self.annealed_particles,
            "ess": finite(float(self.ess.mean())),
            "start": self.start,
            "exact": self.exact,
            "rows": self.rows,
            "tolerance": self.tolerance,
            "pareto_k_above_0.7": self.heavy,
            "verdict": self.verdict,
        }

    def _point(self, values: Tensor) -> dict[str, float | None]:
        below = Difference.of(self.annealed[-1] - values)
        return {
            **mean_of(values),
            "below": finite(below.value),
            "below_stderr": finite(below.stderr),
        }

    def table(self) -> list[tuple[str, str, str]]:
        """Rows of what was done, log p(x), and how far that is below the last one."""
        plain = self.to_dict()
        steps = [
            *[(f"{p['particles']:,} particles", p) for p in plain["importance"]],
            *[(f"{p['temperatures']:,} temperatures", p) for p in plain["annealing"]],
        ]
        if self.exact:
            steps = [*steps[: len(self.particles)], ("exact", plain["annealing"][-1])]
        return [
            (
                name,
                number(point["value"], point["stderr"] or 0.0),
                number(point["below"], point["below_stderr"]) if point["below_stderr"] else "",
            )
            for name, point in steps
        ]

    def notes(self) -> list[str]:
        """How reliable the weights are, and what the curves say."""
        heavy = f"rows with Pareto k̂ above 0.7: {100 * self.heavy:.1f} %; {self.rows:,} rows"
        return [heavy, self.verdict]


def convergence(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: Sequence[int] = (1, 10, 100, 1_000, 5_000),
    temperatures: Sequence[int] = (10, 30, 100, 300, 1_000),
    *,
    annealed_particles: int = 16,
    steps: int = 10,
    start: Start = "prior",
    draw: Mapping[str, Draw] | None = None,
    tolerance: float = 0.05,
    seed: int = 0,
) -> Convergence:
    r"""Importance sampling with more and more particles beside annealing, on the same rows.

    Both are lower bounds in expectation, so the higher is the better one, and one that still
    rises is not there yet. It costs as much as the longest annealing and half as much again.

    On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
    https://arxiv.org/abs/1611.04273

    Args:
        model, data, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        particles: Numbers of draws from q.
        temperatures: Numbers of temperatures.
        annealed_particles: Of annealing, a row.
        steps: Leapfrog steps a transition.
        start: Where they begin.
        draw: ``{"y": Enumerated()}`` for a discrete latent that importance sampling sums over, as
            annealing does in any case.
        tolerance: A difference that does not matter, nats a row.

    Raises:
        ValueError: If there are less than two rows, a number is below one, or the model cannot be
            annealed.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=1.0)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> found = convergence(model, {"x": torch.ones(9, 2)}, (1, 500), (10, 100), steps=3)
        >>> found.importance.shape, found.annealed.shape
        (torch.Size([2, 9]), torch.Size([2, 9]))
    """
    numbers, temperatures = _rising(particles, "particles"), _rising(temperatures, "temperatures")
    rows = rows_of(model, data, omit=redrawn(draw))
    if rows.rows < 2:
        raise ValueError(f"Differences are between rows: take at least 2, found {rows.rows}.")
    drawn = _importance(model, rows, numbers, draw, seed)
    walks = annealed_curve(
        model, rows, annealed_particles, temperatures, steps=steps, start=start, draw=draw,
        seed=seed + 1,
    )  # fmt: skip
    return Convergence(
        particles=numbers,
        importance=drawn["curve"].T,
        temperatures=temperatures,
        annealed=torch.stack([walk.log_px for walk in walks]),
        acceptance=torch.stack([walk.acceptance.nanmean() for walk in walks]),
        ess=walks[-1].ess,
        pareto_k=drawn["pareto_k"],
        annealed_particles=annealed_particles,
        start=start,
        exact=walks[-1].exact,
        tolerance=tolerance,
    )


def steps_to(most: int) -> list[int]:
    """Rising numbers whose last is the one given: two a decade, over two decades.

    >>> steps_to(1_000)
    [10, 33, 100, 333, 1000]
    """
    return sorted({max(1, round(most / part)) for part in (100, 30, 10, 3, 1)})


def _importance(
    model: LatentVariableModel,
    rows: Rows,
    numbers: tuple[int, ...],
    draw: Mapping[str, Draw] | None,
    seed: int,
) -> dict[str, Tensor]:
    """Estimates ``(rows, numbers)``, and the tails of the weights."""
    with evaluating(model, seed):
        planned = plan(model, rows, numbers[-1], draw=draw)
    chunks = Chunks(model, rows, planned, draw)

    @torch.inference_mode()
    def measure(given: Tensors, _: Names, noise: RowNoise) -> Tensors:
        log_weight = torch.cat(
            [each.log_weight_of_particles()[:used].double() for each, used in chunks(given, noise)]
        )
        largest = log_weight.topk(min(tail_length(len(log_weight)) + 1, len(log_weight)), 0)
        curve = torch.stack([_grouped(log_weight, each) for each in numbers], 1)
        return {"log_px": curve[:, -1], "curve": curve, "pareto_k": pareto_k(largest.values)}

    found = for_rows(model, rows, measure, batch_size=planned.batch_size, seed=seed)
    return {key: value.clone() for key, value in found.items()}


def _grouped(log_weight: Tensor, size: int) -> Tensor:
    """Mean over disjoint groups of so many particles of the bound of each, ``(rows,)``."""
    size = min(size, len(log_weight))  # an exact sum has one
    groups = log_weight[: len(log_weight) // size * size].unflatten(0, (-1, size))
    return (torch.logsumexp(groups, 1) - math.log(size)).mean(0)


def _rising(numbers: Sequence[int], what: str) -> tuple[int, ...]:
    found = tuple(sorted(set(numbers)))
    if not found or found[0] < 1:
        raise ValueError(f"{what} are numbers of at least 1, found {tuple(numbers)}.")
    return found


def _rise(values: Tensor) -> Difference | None:
    return Difference.of(values[-1] - values[-2]) if len(values) > 1 else None


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
