r"""Interventional robustness: a dimension stays where it is when the other factors change."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deeplvm.evaluation.disentanglement.codes import Array, FactorScore, bootstrap_error, paired


def interventional_robustness(
    codes: ArrayLike, factors: ArrayLike, *, quantile: float = 0.99, seed: int = 0
) -> FactorScore:
    r"""IRS, with a quantile in place of the maximum.

    .. math:: 1 - \frac{E_{v_k} \sup |z_j - E[z_j | v_k]|}{\sup |z_j - E z_j|}

    of the best k, averaged over the dimensions j with the denominators as weights. The mean over
    values counts each value once. It takes the factors to be independent, so that rows with the
    same :math:`v_k` are what interventions on the others would give.

    Robustly Disentangled Causal Mechanisms (Suter, Miladinović, Schölkopf & Bauer, 2019),
    https://arxiv.org/abs/1811.00007

    From 0 to 1. What misleads: it is 1 for a code that holds a single factor and forgets the
    rest; a code of noise scores above 0, the more the fewer rows share a value; it is not
    invariant to monotone maps of a dimension, nor to its scale beside the others'; the supremum
    depends on the number of rows, which is why a quantile is taken.

    Args:
        codes: Shape ``(N, D)``.
        factors: Shape ``(N, K)``.
        quantile: Of the deviations within rows of one value; 1 for the paper's maximum.

    Returns:
        ``each`` of each dimension, 0 for one that never changes, of which ``value`` is the mean
        weighted by their largest deviations; ``matrix`` is the robustness of dimension j while
        factor k is held. ``stderr`` is too small, by about a quarter of it, as the largest
        deviations vary too little in resamples.

    Raises:
        ValueError: If the quantile is not in (0, 1], or as
            :func:`~deeplvm.evaluation.disentanglement.codes.paired`.

    Examples:
        >>> factors = np.indices((4, 5)).reshape(2, -1).T
        >>> interventional_robustness(factors, factors).value
        1.0
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"A quantile is in (0, 1]; found {quantile:g}.")
    z, v = paired(codes, factors)
    robustness, most = _robustness(z, v, quantile)

    def weighted(z: Array, v: Array) -> float:
        return _weighted(*_robustness(z, v, quantile))

    value, stderr = _weighted(robustness, most), bootstrap_error(weighted, z, v, seed)
    name = "interventional robustness"
    return FactorScore(value, stderr, name, robustness.max(1), robustness, len(z))


def _robustness(z: Array, v: Array, quantile: float) -> tuple[Array, Array]:
    """Shape ``(D, K)``, and the largest deviation of each dimension from its mean."""
    most = np.abs(z - z.mean(0)).max(0)
    moves = np.stack([_moves(z, column, quantile) for column in v.T], 1)
    most_of = most[:, None] + np.zeros_like(moves)
    return np.where(most_of > 0, 1 - moves / np.where(most_of > 0, most_of, 1.0), 0.0), most


def _moves(z: Array, v: Array, quantile: float) -> Array:
    """How far each dimension is from its mean given a value, mean over values: ``(D,)``."""
    groups = [z[v == value] for value in np.unique(v)]
    far = [np.quantile(np.abs(group - group.mean(0)), quantile, axis=0) for group in groups]
    return np.mean(far, axis=0)


def _weighted(robustness: Array, most: Array) -> float:
    return float(robustness.max(1) @ most / most.sum()) if most.sum() > 0 else 0.0
