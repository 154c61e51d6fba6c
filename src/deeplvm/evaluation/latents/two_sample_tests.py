r"""Two-sample tests: are these the draws of one law?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.objectives.discrepancy import Kernel, rbf
from deeplvm.results import Array, Record

FOLDS = 5
"""Parts of the draws, each told by a classifier that learned from the others."""

_GROUPS = 20  # of the jackknife


@dataclass(frozen=True, eq=False)
class MarginalTests(Record, lists="statistic p holm", keys={"holm": "p_holm"}):
    r"""A test of each dimension by itself.

    Attributes:
        test: ``"Kolmogorov–Smirnov"`` or, of a discrete latent, ``"chi-square"``.
        statistic: Shape ``(dimensions,)``: the largest difference of the two distribution
            functions, or :math:`\chi^2` of the category counts.
        p: P-values, shape ``(dimensions,)``.
        holm: The same, corrected for their number by Holm's rule: below α in any dimension has
            probability at most α if the laws are the same.
    """

    test: str
    statistic: Tensor
    p: Tensor
    holm: Tensor

    @property
    def worst(self) -> list[int]:
        """The dimensions, that with the smallest p-value first."""
        # p-values underflow to 0 far out: the statistic then tells them apart
        return np.lexsort((-self.statistic.numpy(), self.p.numpy())).tolist()


@dataclass(frozen=True)
class DiscrepancyTest(Record):
    r"""Squared maximum mean discrepancy, unbiased, with a permutation test.

    Attributes:
        value: :math:`\widehat{MMD}{}^2`; zero in expectation if the laws are the same, negative
            about every other time then.
        stderr: Jackknife standard error.
        p: Share of permutations of the pooled draws with at least this value, the draws as they
            are counted as one of them: a valid p-value for any number of draws.
        scale: Squared length of the kernel.
        draws: Draws of each side.
    """

    value: float
    stderr: float
    p: float
    scale: float
    draws: int


@dataclass(frozen=True)
class ClassifierTest(Record):
    """How well a classifier tells draws of q(z) from draws of p(z) that it was not trained on.

    Attributes:
        accuracy: Share told right in cross-validation; one half if the laws are the same.
        stderr: Its standard error, with what folds have in common.
        p: Of one more classifier, trained on a random half: the probability of as many right of
            the other half by tossing a coin. Cross-validated predictions depend on each other and
            would give no valid p-value.
        auc: Area under the receiver operating characteristic, mean over folds; one half if the
            laws are the same.
        auc_stderr: Its standard error, with what folds have in common.
    """

    accuracy: float
    stderr: float
    p: float
    auc: float
    auc_stderr: float


@dataclass(frozen=True)
class Moments(Record):
    r"""Distance of the aggregate's first two moments from those of N(0, I).

    Attributes:
        mean_distance: :math:`\|m\|`, m the mean of the draws.
        mean_stderr: Jackknife standard error.
        mean_expected: What exact draws of N(0, I) have on average: :math:`\sqrt{D / n}`.
        covariance_distance: :math:`\|S - I\|_F`, S their covariance.
        covariance_stderr: Jackknife standard error.
        covariance_expected: What exact draws have: :math:`\sqrt{D (D + 1) / (n - 1)}`.
    """

    mean_distance: float
    mean_stderr: float
    mean_expected: float
    covariance_distance: float
    covariance_stderr: float
    covariance_expected: float


def marginal_tests(first: Tensor, second: Tensor, *, discrete: bool = False) -> MarginalTests:
    """A test of each dimension of two samples, shape ``(n, *event)``; real or discrete values."""
    columns = [side.reshape(len(side), -1).double().numpy().T for side in (first, second)]
    test = _chi_square if discrete else _kolmogorov_smirnov
    found = np.array([test(a, b) for a, b in zip(*columns, strict=True)])
    statistic, p = found.T
    return MarginalTests(
        "chi-square" if discrete else "Kolmogorov–Smirnov",
        *[torch.from_numpy(each.copy()) for each in (statistic, p, holm(p))],
    )


def _kolmogorov_smirnov(first: Array, second: Array) -> tuple[float, float]:
    """Largest difference of two empirical distribution functions and its p-value."""
    from scipy.stats import ks_2samp

    found = ks_2samp(first, second, method="exact" if len(first) <= 1_000 else "asymp")
    return float(found.statistic), float(found.pvalue)


def _chi_square(first: Array, second: Array) -> tuple[float, float]:
    """Statistic and p-value of equal category frequencies in two samples."""
    from scipy.stats import chi2_contingency

    values = np.unique(np.concatenate([first, second]))
    counts = np.array([[(side == v).sum() for v in values] for side in (first, second)])
    counts = counts[:, np.argsort(counts.sum(0))]
    # the approximation wants five expected in each cell: the rarest are taken together
    together = int((np.cumsum(counts.sum(0)) < 10).sum()) + 1
    rare = counts[:, :together].sum(1, keepdims=True)
    counts = np.concatenate([rare, counts[:, together:]], 1)
    if counts.shape[1] < 2:
        return 0.0, 1.0
    found = chi2_contingency(counts, correction=False)
    return float(found.statistic), float(found.pvalue)


def standard_moments(draws: Tensor) -> Moments:
    """Moments of draws, shape ``(n, dimensions)``, against those of N(0, I)."""
    n, dimensions = draws.shape
    mean, covariance = _distances(draws)
    groups = torch.arange(n) * min(_GROUPS, n) // n
    without = np.array([_distances(draws[groups != group]) for group in range(min(_GROUPS, n))])
    errors = np.sqrt((len(without) - 1) * without.var(0))
    return Moments(
        mean,
        float(errors[0]),
        math.sqrt(dimensions / n),
        covariance,
        float(errors[1]),
        math.sqrt(dimensions * (dimensions + 1) / (n - 1)),
    )


def _distances(draws: Tensor) -> tuple[float, float]:
    """Of mean and covariance from those of N(0, I)."""
    mean = draws.mean(0)
    centred = draws - mean
    covariance = centred.T @ centred / (len(draws) - 1)
    covariance.diagonal().sub_(1.0)
    return float(mean.norm()), float(covariance.norm())


def holm(p: Array) -> Array:
    r"""Holm's corrected p-values: :math:`\max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})`.

    A Simple Sequentially Rejective Multiple Test Procedure (Holm, 1979),
    https://www.jstor.org/stable/4615733

    >>> holm(np.array([0.01, 0.04, 0.03])).round(10).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, factors * p[order]))
    return corrected


def discrepancy_test(
    first: Tensor, second: Tensor, kernel: Kernel = rbf, *, permutations: int = 500, seed: int = 0
) -> DiscrepancyTest:
    """Unbiased MMD² of two samples of equal size, shape ``(n, dimensions)``, with its p-value."""
    n = len(first)
    pooled = torch.cat([first, second])
    distances = torch.cdist(pooled, pooled).square()
    upper = distances[tuple(torch.triu_indices(2 * n, 2 * n, 1))]
    # of categories more than half the pairs may be equal
    scale = float(upper.median()) or float(upper.mean()) or 1.0
    similar = kernel(distances, scale).fill_diagonal_(0.0)

    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(permutations, 2 * n, generator=generator).argsort(1)
    ours = torch.cat([torch.arange(2 * n)[None], noise])[:, :n]  # the first as they are
    member = torch.zeros(len(ours), 2 * n, dtype=similar.dtype).scatter_(1, ours, 1.0).T
    within = (member * (similar @ member)).sum(0)
    across = similar.sum(1) @ member - within
    others = similar.sum() - within - 2.0 * across
    values = (within + others) / (n * (n - 1)) - 2.0 * across / n**2
    # rounding must not make an equal value a smaller one
    reached = (values[1:] >= values[0] - 1e-12).sum()

    ab = similar[:n, n:]
    pairs = similar[:n, :n] + similar[n:, n:] - ab - ab.T
    return DiscrepancyTest(
        float(values[0]),
        _jackknife_pairs(pairs),
        (1 + int(reached)) / (1 + permutations),
        scale,
        n,
    )


def _jackknife_pairs(pairs: Tensor) -> float:
    """Standard error of the mean of ``pairs`` off the diagonal, one index left out at a time."""
    n = len(pairs)
    if n < 3:
        return math.nan
    of_index = pairs.sum(1) - pairs.diagonal()
    without = (of_index.sum() - 2.0 * of_index) / ((n - 1) * (n - 2))
    return float((without.var(correction=0) * (n - 1)).sqrt())


def classifier_test(
    first: Tensor, second: Tensor, classifier: Any, *, seed: int = 0
) -> ClassifierTest:
    r"""Cross-validated accuracy and AUC of a scikit-learn classifier on two equal samples.

    The standard errors are those of independent predictions times
    :math:`\sqrt{1 + k\, n_\text{test} / n_\text{train}} = 1.5`: the classifiers of k = 5 folds
    share most of their training. Inference for the Generalization Error (Nadeau & Bengio, 2003),
    https://doi.org/10.1023/A:1024068626366
    """
    from sklearn.model_selection import StratifiedKFold

    x: Any = torch.cat([first, second]).numpy()
    y: Any = np.repeat([1, 0], [len(first), len(second)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    right, areas, variances = 0, [], []
    for train, test in folds.split(x, y):
        score = _scores(classifier, x, y, train, test)
        right += int(((score > 0.5) == y[test]).sum())
        area, error = delong(score[y[test] == 0], score[y[test] == 1])
        areas.append(area)
        variances.append(error**2)
    accuracy = right / len(y)
    common = math.sqrt(1.0 + FOLDS / (FOLDS - 1))
    return ClassifierTest(
        accuracy,
        common * math.sqrt(accuracy * (1 - accuracy) / len(y)),
        _held_out(classifier, x, y, seed),
        float(np.mean(areas)),
        common * math.sqrt(sum(variances)) / FOLDS,
    )


def _held_out(classifier: Any, x: Array, y: Array, seed: int) -> float:
    """P-value of a classifier trained on half of either sample, by the other halves."""
    from scipy.stats import binom

    n = len(y) // 2
    order = np.random.default_rng(seed).permutation(n)
    train, test = (np.concatenate([part, part + n]) for part in np.array_split(order, 2))
    right = ((_scores(classifier, x, y, train, test) > 0.5) == y[test]).sum()
    return float(binom.sf(right - 1, len(test), 0.5))


def _scores(classifier: Any, x: Array, y: Array, train: Array, test: Array) -> Array:
    """Probability of the first sample, shape ``(test,)``."""
    from sklearn.base import clone

    return clone(classifier).fit(x[train], y[train]).predict_proba(x[test])[:, 1]


def delong(inside: Array, outside: Array) -> tuple[float, float]:
    r"""AUROC, and its standard error from the two variances of placements, by DeLong.

    Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves
    (DeLong, DeLong & Clarke-Pearson, 1988), https://doi.org/10.2307/2531595

    :math:`V_j = \frac{1}{m} \sum_i 1\{s_i < s_j\} + \frac{1}{2} 1\{s_i = s_j\}` is where outside
    row j stands among the m inside rows; their mean is the AUROC.

    >>> area, error = delong(np.array([0.0, 1.0]), np.array([0.5, 2.0]))
    >>> area, round(error, 3)
    (0.75, 0.354)
    """
    above = placements(outside, inside)
    below = 1 - placements(inside, outside)
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    return float(above.mean()), math.sqrt(variance)


def placements(values: Array, among: Array) -> Array:
    """The share of other numbers that each is above, a tie counted half."""
    ordered = np.sort(among)
    ranks = [np.searchsorted(ordered, values, side) for side in ("left", "right")]
    return (ranks[0] + ranks[1]) / (2 * len(among))
