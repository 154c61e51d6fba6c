r"""Predictive checks: what of the data would be surprising, were they draws from the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.steps import Masked
from deeplvm.core.values import NamedRows
from deeplvm.distributions.counts import Multinomial, OfTotal
from deeplvm.evaluation.latents.two_sample_tests import holm
from deeplvm.evaluation.predictive.columns import ObservedColumn, matrix, observed_columns
from deeplvm.gradients import Sampled
from deeplvm.inference.rows import Rows, rows_of
from deeplvm.randomness import evaluating, seed_of
from deeplvm.results import Array, Record

_BATCH = 2_000
_REFERENCES = 20  # data sets whose mean correlations the distance is measured from
Statistic = Callable[[Mapping[str, Tensor]], Any]


@dataclass(frozen=True, eq=False)
class Check(Record, also="mean spread", without="replicated"):
    r"""One statistic of the data against its distribution over replicated data sets.

    Attributes:
        column: What it is a statistic of: a column's title, or ``"all columns"``.
        statistic: What it is, in words.
        observed: :math:`T(x)` of the data.
        replicated: :math:`T(x^{(r)})` of the draws, shape ``(replicates,)``.
        p_value: Two-sided, for this statistic by itself.
        family_wise: Adjusted for all statistics together: the share of data sets whose most
            extreme statistic is at least as extreme as this one (Westfall & Young).
        holm: The p-value adjusted by Holm's steps, which also bounds the family-wise error.
        discovery_rate: The p-value adjusted by Benjamini & Hochberg's steps, for the share of
            false findings among all that are at most this large.
    """

    column: str
    statistic: str
    observed: float
    replicated: Tensor
    p_value: float
    family_wise: float
    holm: float
    discovery_rate: float

    @property
    def mean(self) -> float:
        """Mean over the replicated data sets."""
        return float(self.replicated.mean())

    @property
    def spread(self) -> float:
        """Standard deviation over the replicated data sets: what chance alone does."""
        return float(self.replicated.std())

    def __str__(self) -> str:
        drawn = f"{_short(self.mean)} ± {self.spread:.2g}"
        return (
            f"{self.column}: {self.statistic} is {_short(self.observed)} in the data, {drawn} in "
            f"draws (p = {self.p_value:.2g}, adjusted {self.family_wise:.2g})"
        )


@dataclass(frozen=True)
class CorrelatedPair(Record):
    """The two columns whose correlation is the farthest from that of draws.

    Attributes:
        first: Title of the one column.
        second: Title of the other.
        data: Their correlation in the data.
        draws: Mean of it over further draws of data sets.
    """

    first: str
    second: str
    data: float
    draws: float

    def __str__(self) -> str:
        return (
            f"The correlation of {self.first} and {self.second} is {self.data:.2f} in the data, "
            f"{self.draws:.2f} in draws"
        )


@dataclass(frozen=True, eq=False)
class PredictiveChecks(Record, also="p_value", without="posterior"):
    r"""What of the held-out rows is unlike draws from the model, most surprising first.

    Attributes:
        checks: All of them; first the smallest ``family_wise``, then the smallest ``p_value``.
        posterior: Whether rows were replicated from their own posterior,
            :math:`x' \sim p(x | z), z \sim q(z | x)`, and not from p(x).
        rows: Rows of each data set.
        replicates: Number R of replicated data sets.
        pair: Which columns the check :data:`CORRELATION` is about, if it was made.
    """

    checks: tuple[Check, ...]
    posterior: bool
    rows: int
    replicates: int
    pair: CorrelatedPair | None = None

    @property
    def p_value(self) -> float:
        """Of all statistics together: how often draws have one as extreme as the data's worst."""
        return self.checks[0].family_wise

    @property
    def source(self) -> str:
        """Where the replicated rows come from, in words."""
        if self.posterior:
            return "posterior predictive: x' ~ p(x | z), z ~ q(z | x)"
        return "prior predictive: x' ~ p(x)"

    def found(self, level: float = 0.05) -> tuple[Check, ...]:
        """The checks that fail: a model that is right has any in this share of cases at most."""
        return tuple([check for check in self.checks if check.family_wise <= level])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, without the replicated values."""
        source = "posterior" if self.posterior else "prior"
        return super().to_dict() | {"source": source, "found": len(self.found())}

    def __str__(self) -> str:
        found = self.found()
        head = (
            f"{len(found)} of {len(self.checks)} statistics of {self.rows:,} rows are unlike "
            f"{self.replicates:,} replicated data sets (family-wise error 5 %)"
        )
        shown = [f"  {check}" for check in (found or self.checks)[:10]]
        more = [f"  … and {len(found) - 10} more"] if len(found) > 10 else []
        worst = [] if found else ["the most surprising:"]
        return "\n".join([head, self.source, *worst, *shown, *more])


def predictive_checks(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    posterior: bool = False,
    statistics: Mapping[str, Statistic] | None = None,
    standard: bool = True,
    replicates: int = 1_000,
    seed: int = 0,
) -> PredictiveChecks:
    r"""Statistics T of the data against those of data sets of the same size, drawn from the model.

    If the data were draws from the model, :math:`T(x)` would be one of
    :math:`T(x^{(1)}), \dots, T(x^{(R)})`. The p-value is two-sided and a tie counts half (mid-p):

    .. math:: p = 2 \min\left(1/2,\ \frac{1 + \#\{T^{(r)} > T\} + \#\{T^{(r)} = T\} / 2}{R + 1},\
              \frac{1 + \#\{T^{(r)} < T\} + \#\{T^{(r)} = T\} / 2}{R + 1}\right)

    It cannot be below :math:`2 / (R + 1)`, so that after Holm's or Benjamini & Hochberg's steps
    over m statistics little is left unless R is large against m. ``family_wise`` has no such
    limit: it is the share of data sets whose largest standardised deviation is at least as large,
    or the p-value if that is larger, so the dependence of the statistics is taken as it is.

    Of p(x), which is the default, the check is exact: held-out rows, and nothing fitted to them.
    With ``posterior`` each row is replicated from its own latents: that looks at p(x | z) alone,
    and uses the rows twice, so that p-values are too near to 1/2; one that is small still counts.

    Inputs of the model are held at those of the rows, and of sequences the lengths; the statistics
    are then of all their steps, drawn with the dependence that the model has. A missing element
    (NaN) is missing in every replicate. Names that all rows share are drawn from q.

    Statistics. Reals: mean, standard deviation, skewness, quantiles, share of zeros. Counts: mean,
    variance-to-mean ratio, maximum, share of zeros; the totals and the zeros of a row. Binary: the
    share of ones; the ones of a row. Categories: the share of each. All but categories: the
    distance of the correlations from those of further draws, and the largest of their
    differences. One that has the same value in the
    data and in all draws is left out.

    Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng &
    Stern, 1996), https://www.jstor.org/stable/24306036. Resampling-Based Multiple Testing
    (Westfall & Young, 1993). Permutation p-values should never be zero (Phipson & Smyth, 2010),
    https://arxiv.org/abs/1603.05766

    Args:
        posterior: Replicate each row from q(z | x) instead of from p(z).
        statistics: Further ones by name: from named values of shape ``(rows, *event)`` to a
            number.
        standard: Whether the standard ones are computed too.
        replicates: R.

    Raises:
        ValueError: If there are fewer than two rows or 19 replicates, or nothing to check.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Poisson
        >>> counts = torch.tensor([[0.0], [9.0], [0.0], [7.0], [0.0], [8.0], [0.0], [8.0]])
        >>> poisson = LatentVariableModel(Joint({"x": Poisson(1, mean=4.0)}))
        >>> checks = predictive_checks(poisson, {"x": counts}, replicates=200)
        >>> print(checks.checks[0])
        x[0]: share of zeros is 0.5 in the data, 0.0213 ± 0.047 in draws (p = 0.01, adjusted 0.01)
    """
    if replicates < 19:
        raise ValueError(
            f"replicates is at least 19, the fewest that can say p ≤ 0.1; found {replicates}."
        )
    taken = rows_of(model, data)
    count = taken.rows
    if count < 2:
        raise ValueError(
            f"A check compares the spread of rows with that of draws: give two rows or more, "
            f"found {count}."
        )
    columns = observed_columns(model, taken)
    names = list(dict.fromkeys([column.name for column in columns]))
    # a seed of its own: rows that were drawn from the same one must not meet their own noise
    with evaluating(model, seed_of(seed, 1)):
        replicate = _Replicate(model, taken, names, posterior)
        observed = {name: replicate.known[name].clone() for name in names} | replicate.lengths
        chosen = Statistics((), (), None)
        if standard:
            drawn = [matrix(replicate(), columns).numpy() for _ in range(_REFERENCES)]
            chosen = standard_statistics(columns, drawn, matrix(observed, columns).numpy())
        further = dict(statistics or {})
        told = [*chosen.titles, *[("data", name) for name in further]]
        if not told:
            raise ValueError("There is nothing to check; leave standard=True or give statistics.")

        def measured(values: Mapping[str, Tensor]) -> Array:
            own = [float(each(values)) for each in further.values()]
            return np.array([*chosen(matrix(values, columns).numpy()), *own])

        first = measured(observed)
        table = np.stack([measured(replicate()) for _ in range(replicates)])
    checks = _checks(told, first, table)
    return PredictiveChecks(checks, posterior, count, replicates, chosen.pair)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows of several batches; of sequences padded with zeros to the longest of all."""
    longest = max([part.shape[1] if part.dim() > 1 else 0 for part in parts])
    if not longest:
        return torch.cat([*parts])
    beyond = [
        part.new_zeros(len(part), longest - part.shape[1], *part.shape[2:]) for part in parts
    ]
    return torch.cat([torch.cat(pair, 1) for pair in zip(parts, beyond, strict=True)])


class _Replicate:
    """Draws of data sets that have the inputs and the holes of the rows."""

    def __init__(
        self,
        model: LatentVariableModel,
        rows: Rows,
        names: list[str],
        posterior: bool,  # noqa: FBT001
    ) -> None:
        self.model, self.names, self.posterior = model, names, posterior
        self.missing = rows.missing
        self.parts = [part for _, part in rows.each(_BATCH)]
        lengths = {rows.lengths.get(name) for name in names}.intersection(rows.names)
        self.lengths = {str(n): torch.cat([part[str(n)] for part in self.parts]) for n in lengths}
        self.known = {name: joined([part[name] for part in self.parts]) for name in names}
        self.holes = {name: self.known[name].isnan() for name in names if name in rows.missing}

    def __call__(self) -> dict[str, Tensor]:
        drawn = [self._draw(part) for part in self.parts]
        values = {name: joined([part[name] for part in drawn]) for name in self.names}
        for name, holes in self.holes.items():
            values[name] = torch.where(holes, torch.nan, values[name])
        return values | self.lengths

    def _draw(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.posterior:
            trace = self.model.reconstruct(given, missing=self.missing)
        else:
            p = self.model.p
            sites: dict[str, Any] = {
                name: value for name, value in given.items() if name not in p.names
            }
            shared = self.model.shared.intersection(p.names, self.model.q.names)
            if shared:
                posterior = self.model.posterior(given, missing=self.missing)
                sites |= {name: posterior[name] for name in shared}
            known = {name: v for name, v in sites.items() if name in {*p.inputs, *p.names}}
            trace = p(known, (len(given[self.names[0]]),), default=Sampled())
        found = {}
        for name in self.names:
            own, value = trace[name].distribution, trace[name].value
            own = own.base if isinstance(own, Masked) else own
            if isinstance(own, Multinomial | OfTotal):
                value = own.given_total(given[name].sum(-1)).sample()  # each row's own total
            found[name] = value.expand(given[name].shape)
        return found


def _checks(
    titles: list[tuple[str, str]], observed: Array, replicated: Array
) -> tuple[Check, ...]:
    """P-values of every statistic, from shapes ``(S,)`` and ``(R, S)``."""
    from scipy.stats import false_discovery_control

    pool = np.concatenate([observed[None], replicated])  # (R + 1, S)
    kept = np.isfinite(pool).all(0) & (np.ptp(np.nan_to_num(pool), 0) > 0)
    if not kept.any():
        raise ValueError(
            "No statistic is a number that varies: the model draws constants, or values that are "
            "not finite; look at model.sample(10)."
        )
    titles = [title for title, keep in zip(titles, kept, strict=True) if keep]
    pool = pool[:, kept]
    p_values = mid_p(pool[0], pool[1:])
    # each data set, the observed one among them, against all of them: exchangeable under the model
    extreme = np.abs(pool - pool.mean(0)) / pool.std(0)
    largest = extreme.max(1)
    near = 1e-9 * (1 + extreme[0])
    together = (largest[1:, None] >= extreme[0] - near).sum(0) + 1
    family_wise = np.maximum(together / len(pool), p_values)
    adjusted = holm(p_values)
    discovery = false_discovery_control(p_values)
    told = np.stack([p_values, family_wise, adjusted, discovery], 1).tolist()
    checks = [
        Check(*title, float(pool[0, i]), torch.from_numpy(pool[1:, i].copy()), *told[i])
        for i, title in enumerate(titles)
    ]
    order = sorted(range(len(checks)), key=lambda i: (family_wise[i], -extreme[0, i]))
    return tuple([checks[i] for i in order])


def mid_p(observed: Array, replicated: Array) -> Array:
    """Two-sided p-values, ties counted half, from shapes ``(S,)`` and ``(R, S)``.

    >>> mid_p(np.array([5.0]), np.array([[1.0], [2.0], [3.0]])).item()  # 2 · 1 / (R + 1)
    0.5
    """
    near = 1e-12 * (1 + np.abs(observed))  # sums in another order are no difference
    above = (replicated > observed + near).sum(0)
    below = (replicated < observed - near).sum(0)
    ties = len(replicated) - above - below
    tail = (1 + np.minimum(above, below) + ties / 2) / (len(replicated) + 1)
    return np.minimum(1.0, 2 * tail)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"


_MOST_CORRELATED = 300  # columns; the matrix has their square
_QUANTILES = {
    "minimum": 0.0,
    "5 % quantile": 0.05,
    "25 % quantile": 0.25,
    "median": 0.5,
    "75 % quantile": 0.75,
    "95 % quantile": 0.95,
    "maximum": 1.0,
}
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Statistics:
    """Several statistics of one matrix of shape ``(rows, columns)``, NaN where missing.

    Attributes:
        titles: What each is a statistic of, and what it is.
        functions: From the matrix to some of the numbers, in the order of the titles.
        pair: The columns whose correlation in the data is the farthest from that of draws.
    """

    titles: tuple[tuple[str, str], ...]
    functions: tuple[Function, ...]
    pair: CorrelatedPair | None

    def __call__(self, values: Array) -> Array:
        """All of them, shape ``(statistics,)``."""
        found = [each(values) for each in self.functions]
        return np.concatenate([np.zeros(0), *found])


def standard_statistics(
    columns: Sequence[ObservedColumn], references: Sequence[Array], observed: Array
) -> Statistics:
    """The statistics that suit the columns' kinds.

    Args:
        columns: What the columns of the matrix are.
        references: Draws whose mean correlations are those that a distance is measured from.
        observed: The data; they decide which pair of columns is named.
    """
    pair: CorrelatedPair | None = None
    titles: list[tuple[str, str]] = []
    functions: list[Function] = []
    known: Array = np.any(~np.isnan(references[0]), axis=0)  # the draws have the holes of the data

    def add(told: list[tuple[str, str]], function: Function, places: Sequence[int]) -> None:
        chosen = np.array(places)
        titles.extend(told)
        functions.append(lambda values: function(values[:, chosen]).ravel())

    for kind, names, function in (
        ("real", REAL, of_reals),
        ("counts", COUNTS, of_counts),
        ("binary", ("share of ones",), lambda values: np.nanmean(values, 0)),
    ):
        places = [i for i, column in enumerate(columns) if column.kind == kind and known[i]]
        if places:
            told = [(columns[i].title, name) for name in names for i in places]
            add(told, function, places)
        if len(places) > 1 and kind != "real":
            what = "all counts" if kind == "counts" else "all binary columns"
            add([(what, name) for name in BY_ROW], by_row, places)
    for i, column in enumerate(columns):
        if column.kind == "category" and known[i]:
            told = [(column.title, f"share of {each}") for each in column.categories]
            codes = np.arange(len(told))
            add(told, lambda values, codes=codes: shares(values, codes), [i])
    numeric = [i for i, each in enumerate(columns) if each.kind != "category" and known[i]]
    if 1 < len(numeric) <= _MOST_CORRELATED:
        middle = np.mean([correlations(each[:, numeric]) for each in references], 0)

        def distances(values: Array) -> Array:
            off = correlations(values) - middle
            return np.array([np.linalg.norm(off), np.abs(off).max()])

        told = [("all columns", CORRELATIONS), ("all columns", CORRELATION)]
        add(told, distances, numeric)
        found = correlations(observed[:, numeric])
        i, j = np.unravel_index(np.abs(found - middle).argmax(), middle.shape)
        one, other = (columns[numeric[place]].title for place in sorted((int(i), int(j))))
        pair = CorrelatedPair(one, other, float(found[i, j]), float(middle[i, j]))
    return Statistics(tuple(titles), tuple(functions), pair)


CORRELATIONS = "distance of the correlations from those of draws"
CORRELATION = "largest difference of one correlation from that of draws"
REAL = ("mean", "standard deviation", "skewness", *_QUANTILES, "share of zeros")
COUNTS = ("mean", "variance-to-mean ratio", "maximum", "share of zeros")
BY_ROW = (
    "standard deviation of a row's total",
    "largest total of a row",
    "standard deviation of a row's zeros",
    "most zeros of a row",
)


def of_reals(values: Array) -> Array:
    """The statistics :data:`REAL` of each column, shape ``(statistics, columns)``."""
    mean = np.nanmean(values, 0)
    centred = values - mean
    spread = np.sqrt(np.nanmean(centred**2, 0))
    cubed = np.nanmean(centred**3, 0)
    flat = spread <= 1e-12 * np.abs(mean)  # a constant has no skew, and rounding none to speak of
    skewness = np.where(flat, 0.0, cubed / np.where(flat, 1.0, spread) ** 3)
    quantiles = _quantiles(values, list(_QUANTILES.values()))
    return np.stack([mean, spread, skewness, *quantiles, _zeros(values)])


def of_counts(values: Array) -> Array:
    """The statistics :data:`COUNTS` of each column; zeros alone have the ratio 1, as Poisson's."""
    mean, variance = np.nanmean(values, 0), np.nanvar(values, 0)
    ratio = np.where(mean > 0, variance / np.where(mean > 0, mean, 1.0), 1.0)
    return np.stack([mean, ratio, np.nanmax(values, 0), _zeros(values)])


def by_row(values: Array) -> Array:
    """The statistics :data:`BY_ROW`; what is missing counts neither as a zero nor in a total."""
    total, zeros = np.nansum(values, 1), (values == 0).sum(1)
    return np.array([total.std(), total.max(), zeros.std(), zeros.max()])


def shares(values: Array, codes: Array) -> Array:
    """The share that each code has in one column, of the values that are known."""
    known = np.count_nonzero(~np.isnan(values))
    return (values == codes).sum(0) / max(known, 1)


def correlations(values: Array) -> Array:
    """Correlations of the columns, over the rows where both are known; 0 of a constant."""
    known = ~np.isnan(values)
    counts = np.maximum(known.sum(0), 1)
    centred = np.where(known, values - np.nansum(values, 0) / counts, 0.0)
    spread = np.sqrt((centred**2).sum(0) / counts)
    scaled = centred / np.where(spread > 0, spread, 1.0)
    both = known.T.astype(float) @ known.astype(float)
    return scaled.T @ scaled / np.maximum(both, 1.0)


def _quantiles(values: Array, shares: Sequence[float]) -> list[Array]:
    """Quantiles of each column's known values, linear between them."""
    ordered = np.sort(values, 0)  # NaN comes last
    known = (~np.isnan(values)).sum(0)
    found = []
    for share in shares:
        at = share * (known - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, known - 1)
        below, above = (np.take_along_axis(ordered, i[None], 0)[0] for i in (low, high))
        found.append(below + (at - low) * (above - below))
    return found


def _zeros(values: Array) -> Array:
    return (values == 0).sum(0) / (~np.isnan(values)).sum(0)
