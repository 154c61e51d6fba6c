r"""Mutual information gap: each factor known by one dimension, and by no second."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deeplvm.evaluation.disentanglement.codes import (
    BINS,
    Array,
    FactorScore,
    binned,
    entropies,
    gap,
    mean_of_parts,
    mutual_information,
    paired,
)

_NAME = "mutual information gap"


def mutual_information_gap(
    codes: ArrayLike, factors: ArrayLike, *, bins: int = BINS, seed: int = 0
) -> FactorScore:
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

    Returns:
        ``each`` of each factor; ``matrix`` is :math:`I(z_j; v_k)`, nats.

    Raises:
        ValueError: As :func:`~deeplvm.evaluation.disentanglement.codes.paired`.

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

    def gaps(z: Array, v: Array) -> Array:
        return _relative_gap(mutual_information(z, v), v)

    return mean_of_parts(_NAME, gaps, z, v, mutual_information(z, v), seed)


def posterior_information_gap(
    means: ArrayLike, scales: ArrayLike, factors: ArrayLike, *, seed: int = 0
) -> FactorScore:
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

    def gaps(rows: Array, v: Array) -> Array:
        return _relative_gap(terms[rows].mean(0).clip(min=0.0), v)

    information = terms.mean(0).clip(min=0.0)
    return mean_of_parts(_NAME, gaps, np.arange(len(z)), v, information, seed)


def _relative_gap(information: Array, v: Array) -> Array:
    """Of each factor, over its entropy; 0 of one that never changes."""
    entropy = entropies(v)
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
