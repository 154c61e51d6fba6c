r"""Calibration: whether hidden values lie in the model's intervals as often as it says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.evaluation.batches import batches_of, evaluating
from deeplvm.evaluation.numbers import finite
from deeplvm.evaluation.samples.hidden_values import Hiding, hidden_columns
from deeplvm.evaluation.samples.observed_columns import (
    ObservedColumn,
    observed_columns,
)
from deeplvm.evaluation.samples.predictive_checks import holm_steps
from deeplvm.evaluation.samples.reliability import Reliability, reliability
from deeplvm.model import LatentVariableModel
from deeplvm.training.batches import seed_of

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

_FEW = 10  # effective particles


@dataclass(frozen=True)
class Coverage:
    """How often the central interval of one level has the hidden value in it.

    Attributes:
        level: The share that it should be.
        value: The share that it is.
        stderr: Standard error, by rows: hidden values of one row are not independent.
    """

    level: float
    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{100 * self.level:g} %: {100 * self.value:.1f} ± {100 * self.stderr:.1f} %"


@dataclass(frozen=True, eq=False)
class IntervalCalibration:
    r"""Predictive intervals of one column of numbers.

    Attributes:
        title: The column.
        pit: Probability integral transforms :math:`F(x_m | x_o)`, randomised where x is discrete,
            shape ``(hidden,)``; uniform if the model is right.
        coverage: By level.
        p_value: Of uniformity, by Kolmogorov's test.
        adjusted: The same after Holm's steps over all columns.
    """

    title: str
    pit: Tensor
    coverage: tuple[Coverage, ...]
    p_value: float
    adjusted: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, without the transforms."""
        return {
            "hidden": len(self.pit),
            "coverage": _plain(self.coverage),
            "p_value": self.p_value,
            "adjusted": self.adjusted,
        }

    def __str__(self) -> str:
        each = "; ".join([str(coverage) for coverage in self.coverage])
        return f"{self.title}: {each} (uniform: p = {self.adjusted:.2g})"


@dataclass(frozen=True, eq=False)
class Calibration:
    """What hidden values say of the model's predictions; the worst columns come first.

    Attributes:
        intervals: Columns of numbers.
        reliability: Binary columns and those of categories.
        coverage: Of all columns of numbers together, by level.
        pit: One transform a row, of a hidden number that was chosen at random: independent, where
            those of one row are not. Shape ``(rows with one,)``.
        p_value: Of the uniformity of ``pit``; NaN where no column holds numbers.
        effective_particles: Median over rows, of ``particles``.
        few_particles: Share of rows with fewer than ten effective particles, whose predictions
            are coarse; more ``particles`` help, or training with values missing.
        rows: Rows with anything hidden.
        particles: Draws for each row.
    """

    intervals: tuple[IntervalCalibration, ...]
    reliability: tuple[Reliability, ...]
    coverage: tuple[Coverage, ...]
    pit: Tensor
    p_value: float
    effective_particles: float
    few_particles: float
    rows: int
    particles: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; what is not a number is ``None``."""
        return {
            "rows": self.rows,
            "particles": self.particles,
            "effective_particles": self.effective_particles,
            "few_particles": self.few_particles,
            "coverage": _plain(self.coverage),
            "p_value": finite(self.p_value),
            "intervals": {each.title: each.to_dict() for each in self.intervals},
            "reliability": {each.title: each.to_dict() for each in self.reliability},
        }

    def __str__(self) -> str:
        lines = [f"hidden values of {self.rows:,} rows, ± one standard error"]
        if self.intervals:
            lines += [f"  interval of {coverage}" for coverage in self.coverage]
            lines += [f"  transforms uniform, one a row: p = {self.p_value:.2g}", "worst columns:"]
            lines += [f"  {each}" for each in self.intervals[:5]]
        if self.reliability:
            lines += ["probabilities, worst columns:"]
            lines += [f"  {each}" for each in self.reliability[:5]]
        lines.append(
            f"{self.effective_particles:.0f} effective particles of {self.particles:,} (median)"
        )
        if self.few_particles > 0.05:
            lines.append(
                f"careful: {100 * self.few_particles:.0f} % of rows have fewer than {_FEW} "
                f"effective particles; their predictions are coarse, give more particles"
            )
        return "\n".join(lines)


def calibration(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    *,
    hide: float | None = 0.2,
    names: Sequence[str] | None = None,
    levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    particles: int = 1_000,
    split: Split = "test",
    rows: int | None = None,
    seed: int = 0,
) -> Calibration:
    r"""Hide values, predict them from what is left of their rows, and compare.

    The prediction is :math:`p(x_m | x_o) \approx \sum_k w_k\, p(x_m | z_k)`, with
    :math:`z_k \sim q(z | x_o)` and normalised weights :math:`w_k \propto p(x_o, z_k) / q(z_k |
    x_o)`, by one draw of :math:`x_m` for each particle. So it is the model p that is judged, and
    an encoder that is poor with holes costs only effective particles.

    Numbers: with :math:`u \sim U[0, 1]` the transform :math:`F(x_m^-) + u\,p(x_m)` is uniform if
    the model is right, and a central interval of level a has the value where the transform is
    within a/2 of 1/2. Binary values and categories: Brier score, and the calibration error beside
    what chance gives.

    In a model of y given inputs x, what p scores is y: ``hide=1.0`` predicts all of it from x.

    Probabilistic Forecasts, Calibration and Sharpness (Gneiting, Balabdaoui & Raftery, 2007),
    https://doi.org/10.1111/j.1467-9868.2007.00587.x. Predictive Model Assessment for Count Data
    (Czado, Gneiting & Held, 2009), https://doi.org/10.1111/j.1541-0420.2009.01191.x. On
    Calibration of Modern Neural Networks (Guo et al., 2017), https://arxiv.org/abs/1706.04599.
    Increasing the Reliability of Reliability Diagrams (Bröcker & Smith, 2007),
    https://doi.org/10.1175/WAF993.1

    Args:
        model: Evaluated in ``eval()`` mode, without gradients; left as it was.
        data: Data, or named tensors of shape ``(rows, *event)``; what is missing (NaN) stays so.
        hide: Share of the values that are hidden, at random; ``None`` hides each column in turn,
            in all rows, which takes a pass for each.
        names: Which variables are hidden; all that p scores and from which it draws no other.
        levels: Of the central intervals.
        particles: K.
        split: Which split of Data.
        rows: How many, from the first on; all.
        seed: Same seed, same numbers.

    Raises:
        ValueError: If nothing can be hidden: a name is not scored by p, or others are drawn from
            it, or its elements depend on each other given z.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian
        >>> narrow = LatentVariableModel(Joint({"x": Gaussian(3, scale=0.5)}))
        >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> found = calibration(narrow, {"x": x})  # 2 Φ(1.64 / 2) − 1 = 0.59
        >>> print(f"{found.coverage[2].value:.2f}, {found.p_value < 1e-4}")
        0.60, True
    """
    if hide is not None and not 0 < hide <= 1:
        raise ValueError(f"hide is a share above 0 and at most 1, or None; found {hide}.")
    if particles < 2 or any([not 0 < level < 1 for level in levels]):
        raise ValueError(
            f"particles is at least 2 and every level between 0 and 1; found {particles} and "
            f"{', '.join(map(str, levels))}."
        )
    taken = batches_of(model, data, split)
    columns = hidden_columns(model, observed_columns(model, taken), names)
    count = taken.rows if rows is None else min(rows, taken.rows)
    # a seed of its own: rows that were drawn from the same one must not meet their own noise
    with evaluating(model, seed_of(seed, 1)):
        pieces = list(Hiding(model, taken, columns, particles).passes(hide, count))
        chosen = torch.rand(count, len(columns))
    whole = {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}
    return _collected(whole, chosen, columns, levels, particles, seed)


def _collected(
    whole: Mapping[str, Tensor],
    chosen: Tensor,
    columns: Sequence[ObservedColumn],
    levels: Sequence[float],
    particles: int,
    seed: int,
) -> Calibration:
    mask, row = whole["mask"], whole["row"]
    if not bool(mask.any()):
        raise ValueError(
            "Nothing was hidden: every value is missing already, or hide is too small for so few "
            "rows; give hide=None, which hides each column in turn."
        )
    numbers = [i for i, each in enumerate(columns) if each.kind in ("real", "counts")]
    intervals = []
    for i in [i for i in numbers if bool(mask[:, i].any())]:
        pit = whole["pit"][mask[:, i], i]
        rows_of = row[mask[:, i]]
        intervals.append((columns[i].title, pit, _coverage(pit, rows_of, levels), uniform_p(pit)))
    others = [i for i in range(len(columns)) if i not in numbers and bool(mask[:, i].any())]
    told = reliability(
        {
            columns[i].title: (
                whole[f"share/{i}"][mask[:, i]]
                if columns[i].kind == "category"
                else whole["one"][mask[:, i], i],
                whole["truth"][mask[:, i], i],
            )
            for i in others
        },
        seed,
    )
    hidden = torch.zeros_like(mask)
    hidden[:, numbers] = mask[:, numbers]
    one_each = _one_a_row(hidden, row, chosen)
    seen = mask.any(1)
    effective = whole["effective"][seen]
    adjusted = holm_steps(np.array([p for *_, p in intervals]))
    found = [IntervalCalibration(*e, float(a)) for e, a in zip(intervals, adjusted, strict=True)]
    everywhere = hidden.nonzero()[:, 0]
    pit = whole["pit"][one_each]
    return Calibration(
        intervals=tuple(sorted(found, key=lambda each: (each.adjusted, each.p_value))),
        reliability=told,
        coverage=_coverage(whole["pit"][hidden], row[everywhere], levels) if found else (),
        pit=pit,
        p_value=uniform_p(pit) if found else math.nan,
        effective_particles=float(effective.median()),
        few_particles=float((effective < _FEW).double().mean()),
        rows=len(row[seen].unique()),
        particles=particles,
    )


def _one_a_row(hidden: Tensor, row: Tensor, chosen: Tensor) -> Tensor:
    """A mask with one hidden value of every row, that with the largest random number."""
    order = torch.where(hidden, chosen[row], -1.0)
    best = torch.full((len(chosen),), -1.0, dtype=order.dtype)
    best = best.scatter_reduce(0, row, order.amax(1), "amax")
    return hidden & (order == best[row, None])


def _coverage(pit: Tensor, row: Tensor, levels: Sequence[float]) -> tuple[Coverage, ...]:
    """Shares within the central intervals, with errors by rows."""
    found = []
    for level in levels:
        inside = ((pit - 0.5).abs() <= level / 2).double()
        share = float(inside.mean())
        by_row = torch.zeros(int(row.max()) + 1, dtype=torch.float64)
        by_row.index_add_(0, row, inside - share)
        error = float(by_row.square().sum().sqrt()) / len(pit)
        # a share of 0 or 1 has an error too: that of half a value more
        least = (len(pit) * share + 0.5) / (len(pit) + 1)
        error = max(error, math.sqrt(least * (1 - least) / len(pit)))
        found.append(Coverage(level, share, error))
    return tuple(found)


def uniform_p(values: Tensor) -> float:
    r"""P-value of Kolmogorov's test that values are uniform on [0, 1].

    Of :math:`D = \sup_u |F_n(u) - u|` by its limit with the correction of EDF Statistics for
    Goodness of Fit and Some Comparisons (Stephens, 1974),
    https://doi.org/10.1080/01621459.1974.10480196

    >>> uniform_p((torch.arange(20) + 0.5) / 20)
    1.0
    """
    count = len(values)
    ordered = values.double().sort().values
    steps = torch.arange(count, dtype=torch.float64)
    gap = float(torch.maximum((steps + 1) / count - ordered, ordered - steps / count).max())
    scaled = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * gap
    if scaled < 0.3:  # the series would need many terms to say 1
        return 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 30)]
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def _plain(coverage: Sequence[Coverage]) -> list[dict[str, float]]:
    return [{"level": each.level, "value": each.value, "stderr": each.stderr} for each in coverage]
