r"""Calibration: whether hidden values lie in the model's intervals as often as it says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.steps import Masked
from deeplvm.core.trace import base_of
from deeplvm.core.values import NamedRows
from deeplvm.distributions.product import Product
from deeplvm.evaluation.latents.two_sample_tests import holm
from deeplvm.evaluation.predictive.columns import ObservedColumn, matrix, observed_columns
from deeplvm.gradients import Sampled
from deeplvm.inference.rows import Rows, inside, rows_of
from deeplvm.randomness import evaluating, seed_of
from deeplvm.results import Estimate, Record, plain

_FEW = 10  # effective particles


@dataclass(frozen=True)
class Coverage(Estimate):
    """How often the central interval of one level has the hidden value in it.

    Attributes:
        level: The share that it should be.
        value: The share that it is.
        stderr: Standard error, by rows: hidden values of one row are not independent.
    """

    level: float

    def __str__(self) -> str:
        return f"{100 * self.level:g} %: {100 * self.value:.1f} ± {100 * self.stderr:.1f} %"


@dataclass(frozen=True, eq=False)
class IntervalCalibration(Record, also="hidden", without="title pit"):
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

    @property
    def hidden(self) -> int:
        """How many values were hidden."""
        return len(self.pit)

    def __str__(self) -> str:
        each = "; ".join([str(coverage) for coverage in self.coverage])
        return f"{self.title}: {each} (uniform: p = {self.adjusted:.2g})"


@dataclass(frozen=True, eq=False)
class Calibration(Record, without="pit intervals reliability"):
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
        """Plain numbers, columns by their titles."""
        columns = {"intervals": self.intervals, "reliability": self.reliability}
        by_title = {key: {each.title: each for each in found} for key, found in columns.items()}
        return super().to_dict() | plain(by_title)

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
    data: NamedRows | Rows,
    *,
    hide: float | None = 0.2,
    names: Sequence[str] | None = None,
    levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    particles: int = 1_000,
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
        data: Rows: ``data.test[:100]``, or named tensors ``(rows, *event)``; NaN stays so.
        hide: Share of the values that are hidden, at random; ``None`` hides each column in turn,
            in all rows, which takes a pass for each.
        names: Which variables are hidden; all that p scores and from which it draws no other.
        levels: Of the central intervals.
        particles: K.

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
    taken = rows_of(model, data)
    columns = hidden_columns(model, observed_columns(model, taken), names)
    # a seed of its own: rows that were drawn from the same one must not meet their own noise
    with evaluating(model, seed_of(seed, 1)):
        pieces = list(_Hiding(model, taken, columns, particles).passes(hide))
        chosen = torch.rand(taken.rows, len(columns))
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
    from scipy.stats import kstest

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
        own = row[mask[:, i]]
        p = kstest(pit, "uniform").pvalue
        intervals.append((columns[i].title, pit, _coverage(pit, own, levels), float(p)))
    others = [i for i in range(len(columns)) if i not in numbers and bool(mask[:, i].any())]
    said = {}
    for i in others:
        own = mask[:, i]
        category = columns[i].kind == "category"
        shares = whole[f"share/{i}"][own] if category else whole["one"][own, i]
        said[columns[i].title] = shares, whole["truth"][own, i]
    hidden = torch.zeros_like(mask)
    hidden[:, numbers] = mask[:, numbers]
    one_each = _one_a_row(hidden, row, chosen)
    seen = mask.any(1)
    effective = whole["effective"][seen]
    adjusted = holm(np.array([p for *_, p in intervals]))
    found = [IntervalCalibration(*e, float(a)) for e, a in zip(intervals, adjusted, strict=True)]
    everywhere = hidden.nonzero()[:, 0]
    pit = whole["pit"][one_each]
    return Calibration(
        intervals=tuple(sorted(found, key=lambda each: (each.adjusted, each.p_value))),
        reliability=reliability(said, seed),
        coverage=_coverage(whole["pit"][hidden], row[everywhere], levels) if found else (),
        pit=pit,
        p_value=float(kstest(pit, "uniform").pvalue) if found else math.nan,
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
        found.append(Coverage(share, error, level))
    return tuple(found)


_NUMBERS = 4_000_000  # drawn at a time


def hidden_columns(
    model: LatentVariableModel, columns: Sequence[ObservedColumn], names: Sequence[str] | None
) -> list[ObservedColumn]:
    """Columns that can be hidden: nothing in p is drawn from them.

    Raises:
        ValueError: If a name is not scored by p, or p draws others from it.
    """
    p = model.p
    scored = list(dict.fromkeys([column.name for column in columns]))
    parents = (
        {parent.name for name in p.names for parent in p.parents(name)}
        if isinstance(p, Joint)
        else set[str]()
    )
    if unknown := [name for name in names or () if name not in scored]:
        raise ValueError(
            f"p does not score {', '.join(unknown)} in these data; it scores {', '.join(scored)}."
        )
    wanted = [name for name in names or scored if names or name not in parents]
    if read := [name for name in wanted if name in parents]:
        raise ValueError(
            f"p draws other names from {', '.join(read)}, which cannot be hidden by itself; leave "
            f"it out of names=."
        )
    if not wanted:
        raise ValueError(
            f"p draws other names given {', '.join(scored)}, so no value of these can be hidden."
        )
    stepwise = any([column.length is not None for column in columns])
    return [c for c in columns if c.name in wanted and (c.length is not None or not stepwise)]


class _Hiding:
    """Hides values of columns of some rows, and compares them with draws of p for each row."""

    def __init__(
        self,
        model: LatentVariableModel,
        rows: Rows,
        columns: Sequence[ObservedColumn],
        particles: int,
    ) -> None:
        self.model, self.rows, self.columns, self.particles = model, rows, columns, particles
        self.names = list(dict.fromkeys([column.name for column in columns]))
        longest = max([1, *rows.source[str(columns[0].length)][:].tolist()]
                      if columns[0].length is not None else [1])  # fmt: skip
        self.size = max(1, min(500, _NUMBERS // int(particles * len(columns) * longest)))
        self.categories = [i for i, each in enumerate(columns) if each.kind == "category"]

    def passes(self, hide: float | None) -> Iterator[dict[str, Tensor]]:
        """What was found in some rows of a pass; one for a share, one a column for ``None``.

        Of each row its number, the values, which of them were hidden, their transforms, the
        probabilities of a one and of every category, and the effective number of particles.
        """
        every: list[int | float] = [*range(len(self.columns))] if hide is None else [hide]
        for what in every:
            for start, given in self.rows.each(self.size):
                truth = matrix(given, self.columns)
                mask = (
                    torch.arange(len(self.columns)).expand(truth.shape) == what
                    if hide is None
                    else torch.rand(truth.shape) < what
                )
                yield self._compared(given, truth, mask & ~truth.isnan(), start)

    def _compared(
        self, given: dict[str, Tensor], truth: Tensor, mask: Tensor, start: int
    ) -> dict[str, Tensor]:
        length = self.columns[0].length
        padded = given[self.columns[0].name]
        here = None if length is None else inside(given[length].cpu(), padded.shape[1])  # (B, T)
        row = torch.arange(len(truth)) if here is None else here.nonzero()[:, 0]
        # of sequences all steps, as if each were a row with the weights of its own
        drawn, weights = self._predicted(given, mask, here)  # (K, B, D), (K, B)
        weights = weights[:, row]
        effective = 1 / weights.square().sum(0)
        below = torch.einsum("kb,kbd->bd", weights, (drawn < truth).double())
        ties = torch.einsum("kb,kbd->bd", weights, (drawn == truth).double())
        own = 1 / effective[:, None]  # the value itself is one more draw: exactly uniform ranks
        pit = (below + torch.rand(truth.shape) * (ties + own)) / (1 + own)
        found = {
            "row": start + row,
            "truth": truth,
            "mask": mask,
            "pit": pit,
            "one": torch.einsum("kb,kbd->bd", weights, drawn),
            "effective": effective,
        }
        for i in self.categories:
            levels = torch.arange(len(self.columns[i].categories))
            hits = (drawn[:, :, i, None] == levels).double()
            found[f"share/{i}"] = torch.einsum("kb,kbl->bl", weights, hits)
        return found

    def _predicted(
        self, given: dict[str, Tensor], mask: Tensor, here: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One draw of every value for each particle, and the particles' weights."""
        left = dict(given)
        sizes = [len([c for c in self.columns if c.name == name]) for name in self.names]
        for name, hidden in zip(self.names, mask.split(sizes, 1), strict=True):
            value = given[name]
            real = value if value.is_floating_point() else value.to(self.rows.dtype)
            if here is not None:
                whole = torch.zeros(*here.shape, hidden.shape[1], dtype=torch.bool)
                whole[here] = hidden
                hidden = whole
            holes = hidden.reshape(value.shape).to(value.device)
            left[name] = torch.where(holes, torch.nan, real)
        evidence = self.model.evidence(
            left,
            particles=self.particles,
            default=Sampled(),
            missing=self.rows.missing | set(self.names),
            rows=self.rows.data_rows,
        )
        shape = (self.particles, len(next(iter(given.values()))))
        terms = [
            term.double().expand(shape)
            for name, term in evidence.terms.items()
            if name not in evidence.shared  # drawn from q, as all rows together say
        ]
        weights = torch.stack(terms).sum(0).softmax(0)
        draws = [self._draw(name, evidence.p[name], shape) for name in self.names]
        if here is not None:
            draws = [each.reshape(*shape, here.shape[1], -1)[:, here] for each in draws]
        return torch.cat(draws, 2), weights.cpu()

    def _draw(self, name: str, site: Any, shape: tuple[int, int]) -> Tensor:
        own = site.distribution
        own = own.base if isinstance(own, Masked) else own
        if own is None:
            raise ValueError(
                f"{name!r} is unrolled step by step and has no one distribution to predict from; "
                f"leave it out of names=."
            )
        if not _factorises(own):
            raise ValueError(
                f"The elements of {name!r} depend on each other given the latents "
                f"({type(own).__name__}), so that a hidden one is not a draw of "
                f"p({name} | ...) alone; leave it out of names=."
            )
        right = site.value.shape[site.batch_dims : site.value.dim() - len(own.event_shape)]
        value = own.expand(torch.Size((*shape, *right))).sample()
        return value.reshape(*shape, -1).double().cpu()


def _factorises(distribution: Distribution) -> bool:
    """Whether the elements of an event are independent."""
    base = base_of(distribution)
    if isinstance(base, Product):
        return all([_factorises(part) for part in base.parts])
    return math.prod(base.event_shape) == 1


_BINS = 10
_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class Reliability(
    Record,
    also="hidden",
    without="title probability outcome",
    keys={"if_calibrated": "calibration_error_if_calibrated"},
    flat=True,
):
    r"""Predictive probabilities of one binary column, or of one with categories.

    The error of the calibration error is by the bootstrap.

    Attributes:
        title: The column.
        probability: Binary: of a one. Categories: of the most probable one. Shape ``(hidden,)``.
        outcome: Whether it came, 0 or 1, shape ``(hidden,)``.
        brier: Mean of :math:`(p - y)^2`; of categories, of its sum over them. The noise of the
            draws is in it, at most one over four times the effective particles.
        calibration_error: Expected calibration error, :math:`\sum_b n_b / n\, |\bar p_b -
            \bar y_b|` over ten bins of equal width.
        if_calibrated: What it would be on average if every probability were right: above zero.
        p_value: How often it would then be at least as large.
        adjusted: The same after Holm's steps over all columns.
    """

    title: str
    probability: Tensor
    outcome: Tensor
    brier: Estimate
    calibration_error: Estimate
    if_calibrated: float
    p_value: float
    adjusted: float

    @property
    def hidden(self) -> int:
        """How many values were hidden."""
        return len(self.outcome)

    def __str__(self) -> str:
        brier, error = self.brier, self.calibration_error
        return (
            f"{self.title}: Brier score {brier.value:.4f} ± {brier.stderr:.4f}, calibration error "
            f"{error.value:.3f} ± {error.stderr:.3f}, {self.if_calibrated:.3f} if calibrated (p = "
            f"{self.adjusted:.2g})"
        )


def reliability(
    columns: Mapping[str, tuple[Tensor, Tensor]], seed: int
) -> tuple[Reliability, ...]:
    """How right the probabilities of every column are, the worst first.

    Args:
        columns: By title the probabilities, of a one, shape ``(hidden,)``, or of every category,
            shape ``(hidden, categories)``, and the values, shape ``(hidden,)``.
        seed: Of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    each = [_of(title, *values, generator) for title, values in columns.items()]
    adjusted = holm(np.array([one.p_value for one in each]))
    found = [replace(one, adjusted=float(a)) for one, a in zip(each, adjusted, strict=True)]
    return tuple(sorted(found, key=lambda one: (one.adjusted, one.p_value)))


def _of(title: str, shares: Tensor, value: Tensor, generator: np.random.Generator) -> Reliability:
    if shares.dim() > 1:
        levels = torch.arange(shares.shape[1])
        brier = (shares - (value[:, None] == levels).double()).square().sum(1)
        probability, best = shares.max(1)
        outcome = (best == value).double()
    else:
        probability, outcome = shares.clamp(0, 1), value
        brier = (probability - outcome).square()
    p, y = probability.numpy(), outcome.numpy()
    error = calibration_error(p, y)
    again = generator.integers(len(p), size=(_RESAMPLES, len(p)))
    spread = float(np.std([calibration_error(p[index], y[index]) for index in again]))
    by_chance = generator.random((_RESAMPLES, len(p))) < p
    expected = np.array([calibration_error(p, drawn.astype(float)) for drawn in by_chance])
    p_value = float((1 + (expected >= error - 1e-12).sum()) / (_RESAMPLES + 1))
    return Reliability(
        title,
        probability,
        outcome,
        Estimate.of(brier),
        Estimate(error, spread),
        float(expected.mean()),
        p_value,
        adjusted=p_value,
    )


def calibration_error(probability: Any, outcome: Any) -> float:
    """Expected calibration error over ten bins of equal width.

    >>> calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.array([0.0, 1.0, 0.0, 1.0]))
    0.25
    """
    (gaps,) = in_bins(probability, probability - outcome)
    return float(np.abs(gaps).sum() / len(probability))


def in_bins(probability: Any, *values: Any) -> list[Any]:
    """Sums of values over ten bins of equal width of the probabilities, ``(10,)`` each."""
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    return [np.bincount(bins, each, minlength=_BINS) for each in values]


def reliability_bins(probability: Any, outcome: Any) -> list[dict[str, float]]:
    """Of ten bins of equal width those that have values: the mean of what was said and what came.

    Args:
        probability: What was said, shape ``(values,)``.
        outcome: Whether it came, 0 or 1, the same shape.

    >>> reliability_bins(np.array([0.25, 0.25, 0.75]), np.array([0.0, 1.0, 1.0]))[0]
    {'probability': 0.25, 'outcome': 0.5, 'values': 2}
    """
    counts, *sums = in_bins(probability, np.ones_like(probability), probability, outcome)
    return [
        {"probability": float(p / n), "outcome": float(y / n), "values": int(n)}
        for n, p, y in zip(counts, *sums, strict=True)
        if n
    ]
