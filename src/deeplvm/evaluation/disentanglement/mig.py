r"""Mutual information gap: each factor known by one dimension, and by no second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeplvm.results import Estimate


@dataclass(frozen=True, eq=False)
class MutualInformationGap(Estimate):
    r"""How much more the best dimension knows of each factor than the second best.

    Attributes:
        value: Mean over factors of :attr:`by_factor`, from 0 to 1.
        stderr: Its standard error, by the bootstrap over rows.
        by_factor: :math:`(I(z_{(1)}; v_k) - I(z_{(2)}; v_k)) / H(v_k)`, shape ``(K,)``; 0 for a
            factor that never changes.
        information: :math:`I(z_j; v_k)`, nats, shape ``(D, K)``.
        entropy: :math:`H(v_k)`, nats, shape ``(K,)``.
        rows: How many rows.
    """

    by_factor: Array
    information: Array
    entropy: Array
    rows: int

    def __str__(self) -> str:
        return f"mutual information gap {super().__str__()} ({self.rows:,} rows)"


BINS = 20


def mutual_information_gap(
    codes: ArrayLike, factors: ArrayLike, *, bins: int = BINS, seed: int = 0
) -> MutualInformationGap:
    r"""MIG with codes in bins of equal width.

    .. math:: \frac1K \sum_k \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}

    Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse & Duvenaud,
    2018), https://arxiv.org/abs/1802.04942; with bins as in Challenging Common Assumptions
    (Locatello et al., 2019), https://arxiv.org/abs/1811.12359

    From 0 to 1. 1 asks for one dimension that determines a factor and others that know nothing of
    it. What misleads: a factor that two dimensions share, such as an angle as (sin, cos), counts
    as not disentangled; one dimension that holds several factors is not punished by itself; an
    outlier widens the bins; and with few rows the plug-in estimate is too high, by about
    (bins − 1)(values − 1) / 2N nats for every dimension, which the gap mostly cancels.

    Args:
        codes: Shape ``(N, D)``.
        factors: Shape ``(N, K)``, whole numbers or other repeated values.
        bins: Of each code.
        seed: Of the bootstrap.

    Raises:
        ValueError: As :func:`~deeplvm.evaluation.disentanglement.mig.paired`.

    Examples:
        >>> factors = np.indices((4, 5)).reshape(2, -1).T
        >>> round(mutual_information_gap(factors, factors).value, 6)
        1.0
        >>> both = factors.sum(1, keepdims=True)  # no dimension of its own for either
        >>> mixed = np.concatenate([both, factors[:, :1] - factors[:, 1:]], 1)
        >>> round(mutual_information_gap(mixed, factors).value, 2)
        0.0
    """
    z, v = paired(codes, factors)
    z = binned(z, bins)
    information, entropy = mutual_information(z, v), entropies(v)

    def mean_gap(z: Array, v: Array) -> float:
        return float(_relative_gap(mutual_information(z, v), entropies(v)).mean())

    by_factor = _relative_gap(information, entropy)
    stderr = bootstrap_error(mean_gap, z, v, seed)
    return MutualInformationGap(
        float(by_factor.mean()), stderr, by_factor, information, entropy, len(z)
    )


def posterior_information_gap(
    means: ArrayLike, scales: ArrayLike, factors: ArrayLike, *, seed: int = 0
) -> MutualInformationGap:
    r"""MIG from the posteriors themselves, without bins.

    With :math:`q(z_j | n)` Gaussian, :math:`q(z_j) = \frac1N \sum_n q(z_j | n)`, and
    :math:`q(z_j | v)` its mean over the rows with factor value v,

    .. math:: I(z_j; v_k) = E_{q(z_j, v_k)}[\log q(z_j | v_k) - \log q(z_j)]

    estimated with one draw of z a row (Chen, Li, Grosse & Duvenaud, 2018, section 4.1 and appendix
    C). It counts a posterior's noise, which bins of posterior means do not see: a dimension whose
    mean says everything in a range that its scale drowns has no information.

    It costs N² D densities. The rows are taken as the whole population: each row's own posterior
    is in the mean, so with few rows a value, or scales that tell every row apart, the information
    is overestimated, up to :math:`\log N`.

    Args:
        means: Shape ``(N, D)``.
        scales: Standard deviations, shape ``(N, D)``, positive.
        factors: Shape ``(N, K)``.
        seed: Of the draws and of the bootstrap.

    Raises:
        ValueError: As above, or a scale is not positive.

    Examples:
        >>> factors = np.indices((4, 5, 6)).reshape(3, -1).T
        >>> sharp = posterior_information_gap(factors, np.full(factors.shape, 0.01), factors)
        >>> drowned = posterior_information_gap(factors, np.full(factors.shape, 9.0), factors)
        >>> round(sharp.value, 3), drowned.value < 0.1
        (1.0, True)
    """
    z, v = paired(means, factors)
    s = np.asarray(scales, dtype=np.float64)
    if s.shape != z.shape or not (s > 0).all():
        raise ValueError(
            f"Every mean has a positive standard deviation; found means of shape {z.shape} and "
            f"scales of shape {s.shape}{', some not positive' * (s.shape == z.shape)}."
        )
    drawn = z + s * np.random.default_rng(seed).standard_normal(z.shape)
    columns = zip(drawn.T, z.T, s.T, strict=True)
    terms = np.stack([_log_ratios(*column, v) for column in columns], 1)  # (N, D, K)
    entropy = entropies(v)

    def mean_gap(rows: Array, v: Array) -> float:
        return float(_relative_gap(terms[rows[:, 0]].mean(0), entropies(v)).mean())

    information = terms.mean(0).clip(min=0.0)
    by_factor = _relative_gap(information, entropy)
    stderr = bootstrap_error(mean_gap, np.arange(len(z))[:, None], v, seed)
    return MutualInformationGap(
        float(by_factor.mean()), stderr, by_factor, information, entropy, len(z)
    )


def _relative_gap(information: Array, entropy: Array) -> Array:
    return np.divide(gap(information), entropy, out=np.zeros_like(entropy), where=entropy > 0)


def _log_ratios(drawn: Array, mean: Array, scale: Array, v: Array, size: int = 256) -> Array:
    r""":math:`\log q(z_n | v_k) - \log q(z_n)` of one dimension: shape ``(N, K)``."""
    from scipy.special import logsumexp
    from scipy.stats import norm

    counts = [np.bincount(column) for column in v.T]
    parts = []
    for start in range(0, len(drawn), size):
        rows = slice(start, start + size)
        density = norm.logpdf(drawn[rows, None], mean, scale)  # (size, N)
        whole = logsumexp(density, 1) - np.log(len(drawn))
        within = [
            logsumexp(density, 1, b=column[rows, None] == column) - np.log(count[column[rows]])
            for column, count in zip(v.T, counts, strict=True)
        ]
        parts.append(np.stack(within, 1) - whole[:, None])
    return np.concatenate(parts)


Array = NDArray[Any]
"""Bins of a code's range, as in Locatello et al. (2019)."""
BOOTSTRAPS = 50
"""Resamples for a standard error: enough to know it to a tenth."""


def paired(codes: ArrayLike, factors: ArrayLike) -> tuple[Array, Array]:
    """Codes as float64 of shape ``(N, D)`` and factor values numbered 0, 1, .. of ``(N, K)``.

    Raises:
        ValueError: If the shapes do not fit, there are fewer than two rows, a number is missing
            or infinite, or a factor has (nearly) a value of its own for each row.
    """
    z, v = np.asarray(codes, dtype=np.float64), np.asarray(factors)
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v) or not z.shape[1] or not v.shape[1]:
        raise ValueError(
            f"Codes have shape (rows, dimensions) and factors (rows, factors); found {z.shape} "
            f"and {v.shape}. A single column is [:, None]."
        )
    if len(z) < 2:
        raise ValueError("One row shows no dependence of codes on factors; give more rows.")
    if not np.isfinite(z).all() or not np.isfinite(v.astype(np.float64)).all():
        raise ValueError(
            "A code or a factor is missing (NaN) or infinite; leave those rows out, of both."
        )
    numbered = np.stack([np.unique(column, return_inverse=True)[1] for column in v.T], 1)
    for k, many in enumerate(numbered.max(0) + 1):
        if v.dtype.kind == "f" and many > 2 and many > len(v) / 2:
            raise ValueError(
                f"Factor {k} has {many:,} values in {len(v):,} rows, too many to be repeated; put "
                f"it into bins first, as with binned(factors)."
            )
    return z, numbered


def binned(values: ArrayLike, bins: int = BINS) -> Array:
    """The number of each value's bin, of equal width over its column's range: ``(N, D)``.

    Examples:
        >>> binned([[0.0], [0.4], [0.6], [1.0]], bins=2).T
        array([[0, 0, 1, 1]])
    """
    if bins < 2:
        raise ValueError(f"Bins tell values apart if there are two or more; found bins={bins}.")
    columns = np.asarray(values, dtype=np.float64).T
    edges = [np.histogram_bin_edges(column, bins)[1:-1] for column in columns]
    return np.stack([np.digitize(c, e) for c, e in zip(columns, edges, strict=True)], 1)


def mutual_information(codes: Array, factors: Array) -> Array:
    """Plug-in mutual information of whole numbers, nats: shape ``(D, K)``.

    Biased upwards by about (bins − 1)(values − 1) / 2N (Miller, 1955).
    """
    return np.array([[_information(z, v) for v in factors.T] for z in codes.T])


def entropies(factors: Array) -> Array:
    """Plug-in entropy of each factor, nats: shape ``(K,)``."""
    return np.array([_entropy(np.bincount(v)) for v in factors.T])


def gap(matrix: Array) -> Array:
    """What the largest of each column exceeds the second by; of one row, the value itself."""
    ordered = np.sort(matrix, axis=0)
    return ordered[-1] - ordered[-2] if len(ordered) > 1 else ordered[-1]


def bootstrap_error(
    statistic: Callable[[Array, Array], float], codes: Array, factors: Array, seed: int
) -> float:
    """Standard error of a statistic by drawing the rows anew with replacement.

    An Introduction to the Bootstrap (Efron & Tibshirani, 1993)
    """
    random = np.random.default_rng(seed)
    draws = [random.integers(len(codes), size=len(codes)) for _ in range(BOOTSTRAPS)]
    return float(np.std([statistic(codes[rows], factors[rows]) for rows in draws], ddof=1))


def parted(
    codes: ArrayLike, factors: ArrayLike, held_out: tuple[ArrayLike, ArrayLike] | None, seed: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Rows to learn from and rows to be judged on: those given, or a random half of the rows.

    Raises:
        ValueError: As :func:`paired`, or the two do not have the same columns.
    """
    z, v = paired(codes, factors)
    if held_out is None:
        order = np.random.default_rng(seed).permutation(len(z))
        learnt, judged = order[: (len(z) + 1) // 2], order[(len(z) + 1) // 2 :]
        return (z[learnt], v[learnt]), (z[judged], v[judged])
    other, _ = paired(*held_out)
    values, theirs = np.asarray(factors), np.asarray(held_out[1])
    if other.shape[1] != z.shape[1] or theirs.shape[1] != v.shape[1]:
        raise ValueError("The rows held out have other dimensions or factors; give the same.")
    both = [np.unique(np.r_[a, b], return_inverse=True)[1] for a, b in zip(values.T, theirs.T)]  # noqa: B905
    numbered = np.stack(both, 1)
    return (z, numbered[: len(z)]), (other, numbered[len(z) :])


def _information(z: Array, v: Array) -> float:
    table = np.bincount(z * (v.max() + 1) + v, minlength=(z.max() + 1) * (v.max() + 1))
    table = table.reshape(z.max() + 1, v.max() + 1)
    return max(_entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(table.ravel()), 0.0)


def _entropy(counts: Array) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
