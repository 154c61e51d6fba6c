r"""The β-VAE and FactorVAE scores: guess which factor was held, from codes of drawn rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.synthetic.factors import Factors
from deeplvm.evaluation.disentanglement.codes import NO_MATRIX, Array, FactorScore
from deeplvm.results import Estimate

Encode = Callable[[Tensor], Any]
"""From rows of shape ``(rows, *event)`` to codes of shape ``(rows, D)``."""


@dataclass(frozen=True, eq=False)
class HeldFactor(FactorScore):
    r"""How often the factor that was held is guessed from the code.

    Attributes:
        value: Accuracy on new groups of rows.
        stderr: Its standard error over those groups, the classifier held.
        name: Which score.
        each: Accuracy where factor k was held, shape ``(K,)``; NaN where none of the new groups
            held it.
        matrix: Of the training groups that held factor k, in how many dimension j varied least:
            shape ``(D, K)``; empty for the β-VAE score, which has no such votes.
        rows: How many new groups.
        chance: 1 / K.
        trained: Accuracy on the groups that the classifier was made from.
    """

    chance: float
    trained: float

    def __str__(self) -> str:
        shown = Estimate(self.value, self.stderr)
        return f"{self.name} {shown} (chance {self.chance:.2f}; {self.rows:,} groups)"


def beta_vae_score(
    encode: Encode,
    factors: Factors,
    *,
    group: int = 64,
    train: int = 500,
    test: int = 500,
    seed: int = 0,
) -> HeldFactor:
    r"""The β-VAE score: a linear classifier on :math:`\frac1L \sum_l |z_l - z'_l|`.

    A factor k is chosen at random, and pairs of rows that agree in :math:`v_k` and are otherwise
    drawn apart. Logistic regression guesses k from the mean absolute difference of their codes.

    beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et
    al., 2017), https://openreview.net/forum?id=Sy2fzU9gl

    From chance, 1 / K, to 1. What misleads: it is 1 for codes that are far from disentangled,
    since a linear classifier finds a factor in several dimensions too, and since with K − 1
    factors in the code the last is known by elimination; the classifier's penalty makes it depend
    on the scale of the code.

    Args:
        encode: Rows to codes, such as the posterior means.
        factors: The set.
        group: L, pairs a group.
        train: Groups for the classifier.
        test: New groups. Rows drawn and encoded: 2 × group × (train + test).
        seed: Of all draws; torch's own random state is not touched.

    Raises:
        ValueError: If there is one factor only, or a code is not finite or not a vector.

    Examples:
        >>> grid = Factors(("a", "b"), (4, 5), (2,), lambda v: v.double())
        >>> beta_vae_score(lambda x: x, grid, group=16, train=50, test=50).value
        1.0
    """
    from sklearn.linear_model import LogisticRegression

    _several(factors, train, test, least=1, group=group)
    generator = torch.Generator().manual_seed(seed)

    def differences(held: Array) -> Array:
        points = []
        for k in held:
            name = factors.names[k]
            first = factors.sample(group, generator)
            second = factors.sample(group, generator, fixed={name: first[:, k]})
            z = codes_of(encode, factors, torch.cat([first, second]))
            points.append(np.abs(z[:group] - z[group:]).mean(0))
        return np.stack(points)

    held, new = (_held(factors, count, generator) for count in (train, test))
    points = differences(held)
    fitted = LogisticRegression(max_iter=10_000).fit(points, held)
    trained = fitted.predict(points) == held
    return _result("β-VAE score", fitted.predict(differences(new)) == new, new, trained, NO_MATRIX)


def factor_vae_score(
    encode: Encode,
    factors: Factors,
    *,
    group: int = 64,
    train: int = 500,
    test: int = 500,
    rows: int = 5_000,
    least: float = 0.0,
    seed: int = 0,
) -> HeldFactor:
    r"""The FactorVAE score: the dimension that varies least votes for the factor that was held.

    A factor k is chosen at random and all rows of a group share one value of it. The vote is
    :math:`\arg\min_j Var(z_j) / s_j^2` within the group, with :math:`s_j` the dimension's standard
    deviation over the set; the classifier is the majority of the votes of each dimension.

    Disentangling by Factorising (Kim & Mnih, 2018), https://arxiv.org/abs/1802.05983

    From about 1 / K to 1. What misleads: a dimension that mixes two factors in unequal parts can
    still win every vote for the larger; a dimension that never changes has no variance to compare
    and is left out (``least`` leaves out more: an unused dimension whose variance is noise votes
    at random otherwise); factors that nobody encodes only cost their own 1 / K.

    Args:
        encode: Rows to codes, such as the posterior means.
        factors: The set.
        group: Rows a group, two or more.
        train: Groups whose votes make the classifier.
        test: New groups. Rows drawn and encoded: group × (train + test) + rows.
        rows: For the standard deviations over the set.
        least: Dimensions whose standard deviation is not above it are left out.
        seed: Of all draws; torch's own random state is not touched.

    Raises:
        ValueError: If there is one factor only, or a code is not finite or not a vector.

    Examples:
        >>> grid = Factors(("a", "b"), (4, 5), (2,), lambda v: v.double())
        >>> factor_vae_score(lambda x: x, grid, group=16, train=50, test=50).value
        1.0
        >>> print(factor_vae_score(lambda x: 0 * x, grid, group=4, train=50, test=500))
        FactorVAE score 0.0000 (chance 0.50; 500 groups)
    """
    _several(factors, train, test, least=2, group=group)
    generator = torch.Generator().manual_seed(seed)
    spread = codes_of(encode, factors, factors.sample(max(rows, 2), generator)).var(0, ddof=1)
    used = np.flatnonzero(np.sqrt(spread) > max(least, 1e-12))

    def least_moved(held: Array) -> Array:
        winners = []
        for k in held:
            value = int(torch.randint(factors.sizes[k], (), generator=generator))
            values = factors.sample(group, generator, fixed={factors.names[k]: value})
            within = codes_of(encode, factors, values).var(0, ddof=1)
            winners.append(used[np.argmin(within[used] / spread[used])])
        return np.array(winners)

    held, new = (_held(factors, count, generator) for count in (train, test))
    votes = np.zeros((len(spread), len(factors.names)), dtype=np.int64)
    name = "FactorVAE score"
    if not len(used):  # a constant code says nothing; the reference gives 0 too
        return _result(name, np.zeros(len(new), bool), new, np.zeros(len(held), bool), votes)
    np.add.at(votes, (least_moved(held), held), 1)
    says = votes.argmax(1)
    trained = np.array([votes.max(1).sum() / votes.sum()])
    return _result(name, says[least_moved(new)] == new, new, trained, votes)


def codes_of(encode: Encode, factors: Factors, values: Tensor) -> Array:
    """Codes of the rows with given factor values: shape ``(rows, D)``, float64.

    Raises:
        ValueError: If a code is no vector, or not finite.
    """
    codes = encode(factors.draw(values))
    array = np.asarray(codes.detach().cpu() if isinstance(codes, Tensor) else codes, np.float64)
    if array.ndim != 2 or len(array) != len(values):
        raise ValueError(
            f"encode gives one vector a row, shape ({len(values)}, dimensions); found "
            f"{array.shape}."
        )
    if not np.isfinite(array).all():
        raise ValueError("A code is not finite; evaluate an encoder that gives real numbers.")
    return array


def _several(factors: Factors, train: int, test: int, *, least: int, group: int) -> None:
    if len(factors.names) < 2:
        raise ValueError("Which factor was held can be guessed of two or more; there is one.")
    if train < 2 or test < 2 or group < least:
        raise ValueError(
            f"Give two or more groups to train and to test, of {least} or more rows; found "
            f"train={train}, test={test}, group={group}."
        )


def _held(factors: Factors, count: int, generator: torch.Generator) -> Array:
    """Which factor each group holds; the first few hold each once, so that none is unknown."""
    number = len(factors.names)
    drawn = torch.randint(number, (count,), generator=generator).numpy()
    drawn[: min(number, count)] = np.arange(min(number, count))
    return drawn


def _result(name: str, right: Array, held: Array, trained: Array, votes: Array) -> HeldFactor:
    kinds = int(held.max()) + 1 if not votes.size else votes.shape[1]
    by_factor = [right[held == k].mean() if (held == k).any() else math.nan for k in range(kinds)]
    value = float(right.mean())
    error = math.sqrt(value * (1 - value) / len(right))
    counts = (1 / kinds, float(trained.mean()))
    return HeldFactor(value, error, name, np.array(by_factor), votes, len(right), *counts)
