r"""Two tables: how alike columns and pairs of columns are, and what is learned from either."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deeplvm.evaluation.latents.two_sample_tests import classifier_test, delong
from deeplvm.evaluation.predictive.checks import correlations
from deeplvm.results import Array, Estimate, Record

FEWEST = 20
"""Rows of either kind: a fifth of them is told apart by what was learned from the rest."""
_LEARNED = 30_000  # rows that a classifier of the target learns from
_GROUPS, _RESAMPLED = 20, 100
_BINS = 10  # of a number beside a code
_MOST_PAIRS = 400
_MOST_CODES = 255  # of a column that gradient boosting takes as codes


@dataclass(frozen=True)
class Utility(Record):
    """What a classifier learns from drawn rows, measured on held-out rows.

    Attributes:
        target: The column that it predicts from all others.
        measure: ``"AUC"`` of a flag or two categories, ``"accuracy"`` of more, ``"R²"`` of a
            number.
        drawn: Of one that learned from drawn rows.
        real: Of one that learned from as many training rows.
        difference: The first less the second, with the error of this difference.
        rows: How many rows either learned from.
    """

    target: str
    measure: str
    drawn: Estimate
    real: Estimate
    difference: Estimate
    rows: int


@dataclass(frozen=True)
class Similarities(Record):
    """How alike two tables are: 1 if they are the same, 0 if they have nothing in common.

    Attributes:
        columns: Of each column.
        marginals: Their mean.
        pairs: Mean of the pairs of columns; NaN if there are none.
    """

    columns: tuple[Estimate, ...]
    marginals: Estimate
    pairs: Estimate


def similarities(
    rows: Array, others: Array, coded: Sequence[bool] | Array, *, seed: int = 0
) -> Similarities:
    r"""Similarity of the columns and of pairs of columns of two tables, with jackknife errors.

    Of a number it is :math:`1 - \sup_v |F(v) - G(v)|` (Kolmogorov and Smirnov), of a code
    :math:`1 - \frac{1}{2} \sum_v |p_v - q_v|` (total variation), both of the known values. Of two
    numbers it is :math:`1 - |\rho - \rho'| / 2` with their correlations, and of two codes that of
    the table of both, where a missing value is a code; a number beside a code is cut into ten
    bins of equal width on the range of ``others``. The means are what is published as *Shape* and
    *Trend* of synthetic tables, https://docs.sdv.dev/sdmetrics.

    Args:
        rows: Shape ``(rows, columns)``; NaN is missing.
        others: Another table of these columns.
        coded: Which columns are codes.
        seed: Of the choice of pairs, where there are more than 400.

    Examples:
        >>> a = np.array([[0, 1.0], [1, 2.0], [1, 3.0], [1, 4.0]] * 5)
        >>> b = np.array([[0, 1.0], [0, 2.0], [1, 3.0], [1, 9.0]] * 5)
        >>> [each.value for each in similarities(a, b, [True, False]).columns]
        [0.75, 0.75]
    """
    codes = np.asarray(coded, dtype=bool)
    number = len(codes)
    pairs = list(itertools.combinations(range(number), 2))
    if len(pairs) > _MOST_PAIRS:
        chosen = np.random.default_rng(seed).permutation(len(pairs))[:_MOST_PAIRS]
        pairs = [pairs[index] for index in chosen]
    cells = [_cells(rows[:, c], others[:, c], coded=bool(codes[c])) for c in range(number)]
    parts = [np.arange(len(side)) * _GROUPS // len(side) for side in (rows, others)]

    def scores(without: int | None) -> Array:
        keep = [part != without for part in parts]
        one, two = rows[keep[0]], others[keep[1]]
        found = [_column(one[:, c], two[:, c], coded=bool(codes[c])) for c in range(number)]
        linear = [correlations(side[:, ~codes]) if (~codes).any() else None for side in (one, two)]
        place = np.cumsum(~codes) - 1
        for a, b in pairs:
            if not codes[a] and not codes[b]:
                both = [np.asarray(each)[place[a], place[b]] for each in linear]
                found.append(1 - abs(both[0] - both[1]) / 2)
            else:
                (first, size), (second, more) = cells[a], cells[b]
                found.append(
                    _overlap(*[
                        np.bincount(f[k] * more + s[k], minlength=size * more)
                        for f, s, k in zip(first, second, keep, strict=True)
                    ])
                )  # fmt: skip
        return np.array(found)

    def estimates(found: Array, less: Array) -> list[Estimate]:
        errors = np.sqrt((_GROUPS - 1) * less.var(0))
        return [Estimate(float(v), float(e)) for v, e in zip(found, errors, strict=True)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns without any known value
        whole, parted = scores(None), np.stack([scores(group) for group in range(_GROUPS)])
        means = [
            np.array([np.nanmean(each[:number]), np.nanmean(each[number:])])
            for each in (whole, *parted)
        ]
    marginals, together = estimates(means[0], np.stack(means[1:]))
    return Similarities(tuple(estimates(whole[:number], parted[:, :number])), marginals, together)


def _column(first: Array, second: Array, *, coded: bool) -> float:
    """Similarity of the known values of a column."""
    known = [side[~np.isnan(side)] for side in (first, second)]
    if not min(map(len, known)):
        return math.nan
    if coded:
        levels = int(max(side.max() for side in known)) + 1
        return _overlap(*[np.bincount(side.astype(int), minlength=levels) for side in known])
    ordered = np.sort(known[0]), np.sort(known[1])
    at = np.concatenate(ordered)
    shares = [np.searchsorted(side, at, "right") / len(side) for side in ordered]
    return 1 - float(np.abs(shares[0] - shares[1]).max())


def _overlap(first: Array, second: Array) -> float:
    """One less the total variation of two tables of counts."""
    return 1 - float(np.abs(first / first.sum() - second / second.sum()).sum()) / 2


def _cells(first: Array, second: Array, *, coded: bool) -> tuple[tuple[Array, Array], int]:
    """A column of both tables as codes, a missing value as the last, and how many there are."""
    known = second[~np.isnan(second)]
    if coded:
        levels = int(max(np.nanmax(first, initial=0), np.nanmax(second, initial=0))) + 1
        binned = [first, second]
    else:
        levels = _BINS
        edges = np.linspace(known.min(), known.max(), _BINS + 1) if len(known) else np.zeros(11)
        binned = [
            np.where(np.isnan(side), side, np.digitize(side, edges[1:-1]))
            for side in (first, second)
        ]
    both = [np.where(np.isnan(side), levels, side).astype(int) for side in binned]
    return (both[0], both[1]), levels + 1


def detection(
    rows: Array, others: Array, coded: Sequence[bool] | Array, *, seed: int = 0
) -> Estimate:
    r"""2 − 2 max(AUC, ½) of gradient boosting that tells the rows of two tables apart.

    1 if it cannot, 0 if it always can; cross-validated, the error as in
    :func:`~deeplvm.evaluation.latents.two_sample_tests.classifier_test`. Both have as many rows.

    Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017),
    https://arxiv.org/abs/1610.06545
    """
    classifier = _boosting(np.concatenate([rows, others]), coded)
    sides = [torch.from_numpy(side) for side in (rows, others)]
    found = classifier_test(sides[0], sides[1], classifier, seed=seed)
    return Estimate(2 - 2 * max(found.auc, 0.5), 2 * found.auc_stderr)


def utility(
    drawn: Array,
    train: Array,
    held_out: Array,
    coded: Sequence[bool] | Array,
    titles: Sequence[str],
    target: str,
    *,
    seed: int = 0,
) -> Utility:
    """What gradient boosting learns of a column from drawn rows, and from as many real ones.

    Train on synthetic, test on real: both are measured on the held-out rows; errors by the
    bootstrap of these, of which both see the same.

    Raises:
        ValueError: If too few rows have the target, or all have one value.
    """
    rng = np.random.default_rng(seed)
    place, codes = list(titles).index(target), np.asarray(coded, dtype=bool)
    known = [rows[~np.isnan(rows[:, place])] for rows in (drawn, train, held_out)]
    count = min(len(known[0]), len(known[1]), _LEARNED)
    x, y = np.delete(known[2], place, 1), known[2][:, place]
    values = np.unique(y)
    if min(count, len(y)) < FEWEST or len(values) < 2:
        raise ValueError(
            f"{target!r} cannot be predicted: {len(y)} held-out and {count} drawn and training "
            f"rows have a value, {len(values)} different ones; name another target."
        )
    measure = "R²" if not codes[place] else "AUC" if len(values) == 2 else "accuracy"
    told = []
    for rows in known[:2]:
        some = rows[rng.permutation(len(rows))[:count]]
        learned, answers = np.delete(some, place, 1), some[:, place]
        if len(np.unique(answers)) < 2:  # nothing but one answer was learned
            told.append(np.full(len(y), answers[0] if measure != "AUC" else 0.0))
            continue
        model = _boosting(
            np.concatenate([learned, x]), np.delete(codes, place), regression=measure == "R²"
        ).fit(learned, answers)
        if measure == "AUC":
            at = list(model.classes_).index(values[1]) if values[1] in model.classes_ else 0
            told.append(model.predict_proba(x)[:, at])
        else:
            told.append(model.predict(x))
    resampled = rng.integers(len(y), size=(_RESAMPLED, len(y)))
    found = np.array([_worth(measure, y, each, values) for each in told])
    again = np.array(
        [[_worth(measure, y[index], each[index], values) for each in told] for index in resampled]
    )
    errors = np.nanstd(again, 0)
    apart = float(np.nanstd(again[:, 0] - again[:, 1]))
    return Utility(
        target=target,
        measure=measure,
        drawn=Estimate(float(found[0]), float(errors[0])),
        real=Estimate(float(found[1]), float(errors[1])),
        difference=Estimate(float(found[0] - found[1]), apart),
        rows=count,
    )


def _worth(measure: str, y: Array, told: Array, values: Array) -> float:
    """How good predictions are."""
    if measure == "accuracy":
        return float((y == told).mean())
    if measure == "R²":
        return 1 - float(((y - told) ** 2).mean() / max(y.var(), 1e-300))
    sides = [told[y == value] for value in values]
    return delong(sides[0], sides[1])[0] if min(map(len, sides)) > 1 else math.nan


def _boosting(columns: Array, coded: Sequence[bool] | Array, *, regression: bool = False) -> Any:
    """Gradient boosting that knows which columns are codes."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    few = np.asarray(coded) & (np.nan_to_num(columns).max(0) < _MOST_CODES)
    made = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    return made(categorical_features=few, random_state=0)
