r"""Separated attribute predictability: one dimension predicts a factor, and no second does."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike

from deeplvm.evaluation.disentanglement.codes import Array, FactorScore, gap, mean_of_parts, parted


def attribute_predictability(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    unordered: Collection[int] = (),
    held_out: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> FactorScore:
    r"""The SAP score.

    Dimension j alone predicts an ordered factor k by a line, scored by
    :math:`R^2 = Cov(z_j, v_k)^2 / (Var\, z_j\, Var\, v_k)`, and an unordered one by a linear
    support-vector classifier (C = 0.01, classes balanced), scored by its accuracy on rows held
    out. The score is the mean over factors of the gap between the best dimension and the second.

    Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar,
    Sattigeri & Balakrishnan, 2018), https://arxiv.org/abs/1711.00848

    From 0 to 1. What misleads: only lines are seen, so that an even function of a factor, or an
    angle, scores 0; accuracies start at chance, so the gap of an unordered factor does not reach
    1; numbers of a factor without order are taken for quantities unless it is said; as of every
    gap, two dimensions that share a factor score 0.

    Args:
        codes: Shape ``(N, D)``.
        factors: Shape ``(N, K)``; ordered factors count by the numbers of their values.
        unordered: Which factors (0 .. K − 1) are classes without order.
        held_out: Codes and factors on which accuracies are measured. By default a random half of
            the rows trains and the other half is for the accuracies and :math:`R^2`.
        seed: Of that half, and of the bootstrap.

    Returns:
        ``each`` of each factor; ``matrix`` is how well dimension j alone predicts factor k:
        :math:`R^2` of an ordered factor, accuracy of an unordered one.

    Raises:
        ValueError: If there is no such factor, one does not vary, or as
            :func:`~deeplvm.evaluation.disentanglement.codes.paired`.

    Examples:
        >>> factors = np.indices((4, 5, 10)).reshape(3, -1).T[:, :2]
        >>> score = attribute_predictability(factors, factors)
        >>> bool(score.value > 0.9)
        True
    """
    (z, v), (other, truth) = parted(codes, factors, held_out, seed)
    classes = sorted(unordered)
    if any([not 0 <= k < v.shape[1] for k in classes]):
        raise ValueError(f"The factors are 0 .. {v.shape[1] - 1}; found unordered={classes}.")
    # 1 where dimension j's classifier is right about factor k, for each row held out
    right = (
        np.stack([_right(z, v[:, k], other, truth[:, k], k) for k in classes], 2).astype(float)
        if classes
        else np.zeros((len(other), z.shape[1], 0))
    )

    def scores(rows: Array, truth: Array) -> Array:
        found = _determination(other[rows], truth)
        found[:, classes] = right[rows].mean(0)
        return found

    everything, name = np.arange(len(other)), "separated attribute predictability"
    matrix = scores(everything, truth)
    return mean_of_parts(name, lambda r, v: gap(scores(r, v)), everything, truth, matrix, seed)


def _determination(z: Array, v: Array) -> Array:
    """Squared correlation of every code with every factor; 0 of one that does not vary."""
    z, v = z - z.mean(0), v - v.mean(0)
    spread = np.outer((z**2).sum(0), (v**2).sum(0))
    return np.divide((z.T @ v) ** 2, spread, out=np.zeros_like(spread), where=spread > 1e-12)


def _right(z: Array, v: Array, other: Array, truth: Array, k: int) -> Array:
    """Shape ``(rows, D)``."""
    from sklearn.svm import LinearSVC

    if len(np.unique(v)) < 2:
        raise ValueError(f"Factor {k} has one value in the rows; leave it out, or give more rows.")
    columns = []
    for column, theirs in zip(z.T, other.T, strict=True):
        machine = LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(column[:, None], v)
        columns.append(machine.predict(theirs[:, None]) == truth)
    return np.stack(columns, 1)
