r"""Codes and factors as arrays, and what a score that compares them is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deeplvm.results import Array, Estimate

BINS = 20
"""Bins of a code's range, as in Locatello et al. (2019)."""
NO_MATRIX: Array = np.zeros((0, 0))
"""Of a score that looks at the whole code."""
BOOTSTRAPS = 50
"""Resamples for a standard error: enough to know it to a tenth."""


@dataclass(frozen=True, eq=False)
class FactorScore(Estimate):
    r"""How far the D dimensions of a code are the K factors, in one of many ways; from 0 to 1.

    Attributes:
        value: Mean of :attr:`each`.
        stderr: Its standard error, by the bootstrap over rows.
        name: Of the score.
        each: Of each factor, shape ``(K,)``, or of each dimension, shape ``(D,)``.
        matrix: What it is computed from, of each dimension and factor, shape ``(D, K)``; empty
            where the whole code is looked at.
        rows: How many rows were compared.
    """

    name: str
    each: Array
    matrix: Array
    rows: int

    def __str__(self) -> str:
        return f"{self.name} {super().__str__()} ({self.rows:,} rows)"


def mean_of_parts(
    name: str,
    parts: Callable[[Array, Array], Array],
    codes: Array,
    factors: Array,
    matrix: Array,
    seed: int,
) -> FactorScore:
    """A score that is the mean of one number a factor, or a dimension."""
    each = parts(codes, factors)
    stderr = bootstrap_error(lambda z, v: float(parts(z, v).mean()), codes, factors, seed)
    return FactorScore(float(each.mean()), stderr, name, each, matrix, len(codes))


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
