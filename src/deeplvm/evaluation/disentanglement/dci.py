r"""Disentanglement, completeness and informativeness, from what a predictor looks at."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deeplvm.evaluation.disentanglement.codes import Array, parted
from deeplvm.results import Estimate, Record

PARTS = 4
"""Disjoint parts of the rows, from whose spread the standard errors come."""
Predictor = Callable[[Array, Array, int], tuple[Array, Callable[[Array], Array]]]
"""From codes, one factor and a seed: importances, shape ``(D,)``, and a prediction of codes."""


@dataclass(frozen=True, eq=False)
class ImportanceScores(Record, flat=True):
    r"""DCI.

    Errors are from disjoint parts of the training rows, of informativeness over rows held out.

    Attributes:
        disentanglement: How far each dimension is important for one factor only, weighted by its
            importance; from 0 to 1.
        completeness: How far each factor is predicted from one dimension only; from 0 to 1.
        informativeness: Accuracy of the predictions on rows held out, mean over factors.
        chance: The accuracy of always guessing the most frequent value.
        importance: Shape ``(D, K)``; of each factor it sums to 1 where anything is important.
        rows: Rows that it was trained on.
    """

    disentanglement: Estimate
    completeness: Estimate
    informativeness: Estimate
    chance: float
    importance: Array
    rows: int

    def __str__(self) -> str:
        names = ("disentanglement", "completeness", "informativeness")
        shown = [f"{name} {getattr(self, name)}" for name in names]
        return f"DCI: {', '.join(shown)} (chance {self.chance:.2f}; {self.rows:,} rows)"


def boosted_trees(z: Array, v: Array, seed: int) -> tuple[Array, Callable[[Array], Array]]:
    """Gradient-boosted trees, scikit-learn's defaults: 100 rounds of one tree a value."""
    from sklearn.ensemble import GradientBoostingClassifier

    with _many_values():
        fitted = GradientBoostingClassifier(random_state=seed).fit(z, v)
    return fitted.feature_importances_, fitted.predict


def random_forest(z: Array, v: Array, seed: int) -> tuple[Array, Callable[[Array], Array]]:
    """A random forest of 100 trees: much quicker where factors have many values."""
    from sklearn.ensemble import RandomForestClassifier

    with _many_values():
        fitted = RandomForestClassifier(100, max_features=1.0, random_state=seed).fit(z, v)
    return fitted.feature_importances_, fitted.predict


@contextlib.contextmanager
def _many_values() -> Iterator[None]:
    """A factor may have as many values as a part of the rows is long; that is no regression."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield


def importance_scores(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    predictor: Predictor = boosted_trees,
    held_out: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> ImportanceScores:
    r"""DCI: predict each factor from the whole code, and see which dimensions that took.

    With :math:`R_{jk}` the importance of dimension j for factor k, :math:`P_{jk} = R_{jk} /
    \sum_k R_{jk}`, :math:`\tilde P_{jk} = R_{jk} / \sum_j R_{jk}`, and :math:`H_n` an entropy to
    the base n,

    .. math:: D = \sum_j \rho_j (1 - H_K(P_{j\cdot})), \quad C = \sum_k \rho_k
              (1 - H_D(\tilde P_{\cdot k}))

    where :math:`\rho` is the share of all importance.

    A Framework for the Quantitative Evaluation of Disentangled Representations (Eastwood &
    Williams, 2018), https://openreview.net/forum?id=By-7dz-AZ; boosted trees as in Locatello et
    al. (2019), https://arxiv.org/abs/1811.12359

    Each from 0 to 1. What misleads: importances are the predictor's, and another predictor has
    others; a predictor that fails spreads noise, so D and C mean something only where
    informativeness is well above chance; a factor that no dimension holds still shares out an
    importance of 1; D forgives two dimensions with the same factor, C does not.

    Args:
        codes: Shape ``(N, D)``.
        factors: Shape ``(N, K)``.
        predictor: :func:`boosted_trees`, :func:`random_forest`, or another. Boosted trees cost
            100 trees for each value of each factor.
        held_out: Codes and factors to judge on; a random half of the rows by default.
        seed: Of that half, of the predictor and of the parts.

    Raises:
        ValueError: If a factor does not vary, or as
            :func:`~deeplvm.evaluation.disentanglement.codes.paired`.

    Examples:
        >>> factors = np.indices((2, 3, 60)).reshape(3, -1).T[:, :2]
        >>> scores = importance_scores(factors, factors, predictor=random_forest)
        >>> round(scores.disentanglement.value, 2), round(scores.informativeness.value, 2)
        (1.0, 1.0)
    """
    (z, v), (other, truth) = parted(codes, factors, held_out, seed)
    for k, column in enumerate(v.T):
        if len(np.unique(column)) < 2:
            raise ValueError(f"Factor {k} has one value in the rows; leave it out.")
    found = [predictor(z, column, seed) for column in v.T]
    importance = np.stack([weights for weights, _ in found], 1)
    right = np.stack([guess(other) for _, guess in found], 1) == truth
    often = np.array([np.bincount(column).argmax() for column in v.T])
    d_error, c_error = _errors(z, v, predictor, seed)
    each = right.mean(1)
    error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan
    return ImportanceScores(
        Estimate(disentangled(importance), d_error),
        Estimate(complete(importance), c_error),
        Estimate(float(right.mean()), error),
        float((truth == often).mean()),
        importance,
        len(z),
    )


def disentangled(importance: Array) -> float:
    """D of an importance matrix of shape ``(D, K)``: see :func:`importance_scores`.

    Examples:
        >>> disentangled(np.eye(3)), round(disentangled(np.ones((3, 3))), 6)
        (1.0, 0.0)
    """
    return complete(np.asarray(importance).T)


def complete(importance: Array) -> float:
    """C of an importance matrix of shape ``(D, K)``; 1 for one dimension, 0 if none counts."""
    matrix = np.abs(np.asarray(importance, dtype=np.float64))
    whole = matrix.sum()
    if whole == 0:
        return 0.0
    if len(matrix) == 1:
        return 1.0
    share = matrix.sum(0) / whole
    used = share > 0
    each = matrix[:, used] / matrix[:, used].sum(0)
    logs = np.log(each, out=np.zeros_like(each), where=each > 0)
    concentrated = 1 + (each * logs).sum(0) / math.log(len(matrix))
    return float((share[used] * concentrated).sum())


def _errors(z: Array, v: Array, predictor: Predictor, seed: int) -> tuple[float, float]:
    """Spread over disjoint parts, scaled to all rows; NaN where a part lacks a factor's values."""
    order = np.random.default_rng(seed).permutation(len(z))
    scores = []
    for rows in np.array_split(order, PARTS):
        if any([len(np.unique(column)) < 2 for column in v[rows].T]):
            return math.nan, math.nan
        weights = np.stack([predictor(z[rows], column, seed)[0] for column in v[rows].T], 1)
        scores.append((disentangled(weights), complete(weights)))
    errors = np.std(scores, axis=0, ddof=1) / math.sqrt(PARTS)
    return float(errors[0]), float(errors[1])
