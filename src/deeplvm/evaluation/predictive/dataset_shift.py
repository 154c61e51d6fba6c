"""Whether two sets of rows come from one source, asked of the values alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.evaluation.latents.two_sample_tests import classifier_test, holm
from deeplvm.results import Array, Estimate, Record

_LEVEL = 1e-3  # family-wise, of the columns; and of the classifier
_LARGE = 0.2  # a difference of two distribution functions, or of shares of holes
_TOLD = 0.65  # area under the curve; a few strange rows in a hundred stay below it
_MOST_ROWS = 1_000  # of each side that a classifier learns from
_TREES = 50


@dataclass(frozen=True)
class ShiftedColumn(Record):
    """One column of two sets of rows.

    Attributes:
        title: The column's.
        statistic: Largest difference of the two distribution functions, or of the shares of
            missing cells if that is larger.
        p: Its p-value, corrected for the number of columns by Holm's rule.
        medians: Of the known values, of both sets.
        spreads: Distances from the 25 % to the 75 % quantile, of both sets.
        holes: Shares of missing cells, of both sets.
    """

    title: str
    statistic: float
    p: float
    medians: tuple[float, float]
    spreads: tuple[float, float]
    holes: tuple[float, float]

    @property
    def factor(self) -> float | None:
        """By what the second set is the first in another unit, if it looks so; 1.5 or more."""
        (first, second), (narrow, wide) = self.medians, self.spreads
        if min(narrow, wide) <= 0:
            return None
        # far from zero the medians tell it more exactly, near zero only the spreads do
        far = min(abs(first) / narrow, abs(second) / wide) > 1
        factor = second / first if far else wide / narrow
        if factor <= 0 or abs(math.log(factor)) < math.log(1.5):
            return None
        same = abs(second - factor * first) < 0.2 * wide
        return factor if same and abs(math.log(wide / narrow / factor)) < math.log(1.4) else None

    def __str__(self) -> str:
        if abs(self.holes[1] - self.holes[0]) > _LARGE:
            one, other = (f"{100 * each:.0f} %" for each in self.holes)
            return f"{self.title} is missing in {other}, where training rows have {one}"
        one, other = (f"{each:.3g}" for each in self.medians)
        unit = "" if self.factor is None else f": {self.factor:.3g} times, as in another unit"
        return f"{self.title} has the median {other}, training rows {one}{unit}"


@dataclass(frozen=True, eq=False)
class DatasetShift(Record):
    """How far two sets of rows are from being draws of one distribution.

    Attributes:
        columns: The columns that differ clearly (family-wise 0.001) and by much (0.2 between the
            distribution functions, or the shares of missing cells), the worst first.
        auc: How well a forest of trees tells which set a row is of, cross-validated; one half if
            they are alike. It sees what no column shows by itself, such as a correlation.
        p: P-value of another forest, on rows that it did not learn from.
        rows: How many of each set.
    """

    columns: tuple[ShiftedColumn, ...]
    auc: Estimate
    p: float
    rows: tuple[int, int]

    @property
    def found(self) -> bool:
        """Whether the sets differ, clearly and by much."""
        told = self.p < _LEVEL and self.auc.value > _TOLD
        return bool(self.columns) or (told and self.auc.value - 0.5 > 4 * self.auc.stderr)


def dataset_shift(
    first: Tensor, second: Tensor, titles: Sequence[str] | None = None, *, seed: int = 0
) -> DatasetShift:
    """Compare two sets of rows, shape ``(rows, columns)``, NaN where missing.

    Each column by a Kolmogorov–Smirnov test and by its missing cells, all together by a forest.

    Failing Loudly: An Empirical Study of Methods for Detecting Dataset Shift (Rabanser, Günnemann
    & Lipton, 2019), https://arxiv.org/abs/1810.11953

    Args:
        first: The one set; the training rows.
        second: The other.
        titles: Of the columns.

    Raises:
        ValueError: If a set has fewer than ten rows.

    Examples:
        >>> rows = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> other = rows[200:] * torch.tensor([1.0, 1000.0])
        >>> found = dataset_shift(rows[:200], other, ["length", "weight"])
        >>> found.found, [column.title for column in found.columns]
        (True, ['weight'])
    """
    if min(len(first), len(second)) < 10:
        raise ValueError(
            f"Ten rows of each set are the fewest that can be told apart; found {len(first)} and "
            f"{len(second)}."
        )
    one, other = (each.detach().cpu().double().numpy() for each in (first, second))
    titles = [f"x[{i}]" for i in range(one.shape[1])] if titles is None else titles
    tested = [_column(a, b) for a, b in zip(one.T, other.T, strict=True)]
    corrected = holm(np.array([p for _, p in tested]))
    columns = [
        ShiftedColumn(title, statistic, float(p), *_described(a, b))
        for title, (statistic, _), p, a, b in zip(
            titles, tested, corrected, one.T, other.T, strict=True
        )
        if p < _LEVEL and statistic > _LARGE
    ]
    columns.sort(key=lambda each: (-each.statistic, each.p))
    count = min(len(one), len(other), _MOST_ROWS)
    ours, theirs = _features(one[:count], other[:count])
    found = classifier_test(ours, theirs, _forest(seed), seed=seed)
    return DatasetShift(
        tuple(columns), Estimate(found.auc, found.auc_stderr), found.p, (len(one), len(other))
    )


def _column(first: Array, second: Array) -> tuple[float, float]:
    """The larger of both differences of a column, and its p-value; twice, as there are two."""
    from scipy.stats import fisher_exact, ks_2samp

    known = [side[~np.isnan(side)] for side in (first, second)]
    holes = [len(side) - len(rest) for side, rest in zip((first, second), known, strict=True)]
    statistic, p = 0.0, 1.0
    if min(map(len, known)):
        tested = ks_2samp(*known, method="asymp")
        statistic, p = float(tested.statistic), float(tested.pvalue)
    if any(holes):
        table = [[holes[0], len(known[0])], [holes[1], len(known[1])]]
        share = abs(holes[0] / len(first) - holes[1] / len(second))
        if share > statistic:
            statistic, p = share, float(fisher_exact(table).pvalue)
        p = min(1.0, 2 * p)
    return statistic, p


def _described(first: Array, second: Array) -> tuple[tuple[float, float], ...]:
    """Medians, spreads and shares of holes of a column."""
    sides = [(side, side[~np.isnan(side)]) for side in (first, second)]
    quantiles = [
        np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else np.full(3, math.nan)
        for _, known in sides
    ]
    (a, b, c), (d, e, f) = ([float(each) for each in of] for of in quantiles)
    gone = [1 - len(known) / len(side) for side, known in sides]
    return (b, e), (c - a, f - d), (gone[0], gone[1])


def _features(first: Array, second: Array) -> tuple[Tensor, Tensor]:
    """What a classifier reads: the values, the median where missing, and which are missing."""
    both = np.concatenate([first, second])
    holes = np.isnan(both)
    middle = np.nanmedian(np.where(holes.all(0), 0.0, both), 0)
    read = np.concatenate([np.where(holes, middle, both), holes[:, holes.any(0)]], 1)
    return torch.from_numpy(read[: len(first)]), torch.from_numpy(read[len(first) :])


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(_TREES, min_samples_leaf=5, random_state=seed)
