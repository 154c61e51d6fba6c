r"""Modularity: no dimension knows two factors. Explicitness: all together know each value."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deeplvm.evaluation.disentanglement.codes import (
    BINS,
    NO_MATRIX,
    Array,
    FactorScore,
    binned,
    mean_of_parts,
    mutual_information,
    paired,
    parted,
)
from deeplvm.evaluation.latents.two_sample_tests import placements


def modularity(
    codes: ArrayLike, factors: ArrayLike, *, bins: int = BINS, seed: int = 0
) -> FactorScore:
    r"""Modularity, with codes in bins of equal width.

    .. math:: \frac1D \sum_j \Bigl(1 - \frac{\sum_{k \ne k_j} I(z_j; v_k)^2}
              {(K - 1)\, I(z_j; v_{k_j})^2}\Bigr), \quad k_j = \arg\max_k I(z_j; v_k)

    Learning Deep Disentangled Embeddings with the F-Statistic Loss (Ridgeway & Mozer, 2018),
    https://arxiv.org/abs/1802.05312

    From 0 to 1. What misleads: factors that no dimension knows, and ones that many share, cost
    nothing; a dimension of pure noise counts by the noise of its estimated information, which
    looks different for factors with many values and few; one that never changes counts 0.

    Args:
        codes: Shape ``(N, D)``.
        factors: Shape ``(N, K)``, two or more.
        bins: Of each code.

    Returns:
        ``each`` of each dimension, 0 for one that knows nothing; ``matrix`` is
        :math:`I(z_j; v_k)`, nats.

    Raises:
        ValueError: There is one factor only, or as
            :func:`~deeplvm.evaluation.disentanglement.codes.paired`.

    Examples:
        >>> factors = np.indices((4, 5)).reshape(2, -1).T
        >>> modularity(np.concatenate([factors, factors], 1), factors).value
        1.0
    """
    z, v = paired(codes, factors)
    if v.shape[1] < 2:
        raise ValueError("Modularity compares factors; give two or more.")
    z = binned(z, bins)

    def parts(z: Array, v: Array) -> Array:
        return _modular(mutual_information(z, v))

    return mean_of_parts("modularity", parts, z, v, mutual_information(z, v), seed)


def explicitness(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    held_out: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> FactorScore:
    r"""Area under the ROC curve of logistic regression on the standardised code.

    Mean over a factor's values, each against the others (Ridgeway & Mozer, 2018), with
    scikit-learn's default penalty.

    From 0.5, chance, to 1. What misleads: it is blind to disentanglement, as any invertible linear
    mixture of the code has the same value; and a middle value of an ordered factor cannot be cut
    out by a linear classifier of its own, though the softmax over all values does it.

    Args:
        codes: Shape ``(N, D)``.
        factors: Shape ``(N, K)``.
        held_out: Codes and factors to judge on; a random half of the rows by default.
        seed: Of that half, and of the bootstrap.

    Returns:
        ``each`` of each factor, over the rows held out.

    Raises:
        ValueError: If a factor does not vary in the rows, or as above.

    Examples:
        >>> factors = np.indices((3, 4, 20)).reshape(3, -1).T[:, :2]
        >>> round(explicitness(factors @ [[1, 1], [1, -1]], factors).value, 2)
        1.0
    """
    (z, v), (other, truth) = parted(codes, factors, held_out, seed)
    scale = z.std(0)
    centre, scale = z.mean(0), np.where(scale > 0, scale, 1.0)
    z, other = (z - centre) / scale, (other - centre) / scale
    guesses = [_guesses(z, column, other, k) for k, column in enumerate(v.T)]

    def areas(rows: Array, truth: Array) -> Array:
        return np.array([_area(g[rows], truth[:, k]) for k, g in enumerate(guesses)])

    return mean_of_parts("explicitness", areas, np.arange(len(other)), truth, NO_MATRIX, seed)


def _modular(information: Array) -> Array:
    squares = information**2
    best = squares.max(1)
    rest = (squares.sum(1) - best) / (squares.shape[1] - 1)
    knows = best > 0
    return np.where(knows, 1 - rest / np.where(knows, best, 1.0), 0.0)


def _guesses(z: Array, v: Array, other: Array, k: int) -> Array:
    """Probabilities of the values 0 .. of one factor, shape ``(rows, values)``."""
    from sklearn.linear_model import LogisticRegression

    known = np.unique(v)
    if len(known) < 2:
        raise ValueError(f"Factor {k} has one value in the rows; leave it out, or give more rows.")
    fitted = LogisticRegression(max_iter=1000).fit(z, v)
    guesses = np.zeros((len(other), int(known.max()) + 1))
    guesses[:, known] = fitted.predict_proba(other)
    return guesses


def _area(guesses: Array, truth: Array) -> float:
    """Mean area over the values that occur, each against the others."""
    areas = []
    for value in np.unique(truth):
        hit = truth == value
        if hit.all():
            continue
        column = guesses[:, value] if value < guesses.shape[1] else np.zeros(len(guesses))
        areas.append(placements(column[hit], column[~hit]).mean())
    return float(np.mean(areas)) if areas else np.nan
