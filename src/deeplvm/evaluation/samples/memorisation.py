r"""Does a model copy its training rows: nearest neighbours, and a test of data-copying."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.evaluation.samples.precision_recall import check_clouds
from deeplvm.results import Estimate, Record

CLOSE = 0.05
"""A sample is close to the training rows if only this share of fresh rows is as close."""
_CELLS = 10  # at most
_PER_CELL = 50  # expected rows of the smaller cloud in a cell
_LEAST = 20  # rows of either in a cell that counts: the normal approximation is good from there on
_CLUSTERED = 2_000  # training rows that decide the cells
_RESAMPLED = 200
_CHUNK = 500


@dataclass(frozen=True, eq=False)
class Memorisation(Record, also="samples fresh_rows", without="nearest distance fresh_distance"):
    r"""How near to the training rows samples lie, against how near fresh rows lie.

    The error of ``ratio`` is by the bootstrap, that of ``close`` what it is without copying.

    Attributes:
        statistic: :math:`C_T`, a mean over cells of standardised rank sums; far below zero if
            samples are nearer to training rows than fresh rows are (copying), far above if they
            are further away (underfitting).
        p_value: Probability of so low a statistic, or a lower one, from a model without copying
            and without underfitting. An underfitted model is not found out by it: what some
            samples lose by being far off, others may gain by being copies; see ``close``.
        ratio: Median distance of samples over that of fresh rows; below 1 is nearer.
        close: Share of samples as near as the nearest 5 % of fresh rows; 0.05 is expected without
            copying, and copies show even among samples that are far off.
        exact: Share of samples that are equal to a training row.
        exact_fresh: Share of fresh rows that are; more than zero only in discrete data.
        cells: How many cells had enough rows to count.
        covered: Share of the fresh rows that lie in them.
        nearest: The training row nearest to each sample, shape ``(samples,)``.
        distance: Its distance, shape ``(samples,)``.
        fresh_distance: Distance of each fresh row to its nearest training row, shape ``(fresh,)``.
        train_rows: Training rows among which was searched.
    """

    statistic: float
    p_value: float
    ratio: Estimate
    close: Estimate
    exact: float
    exact_fresh: float
    cells: int
    covered: float
    nearest: Tensor
    distance: Tensor
    fresh_distance: Tensor
    train_rows: int

    @property
    def samples(self) -> int:
        """How many samples were drawn."""
        return len(self.distance)

    @property
    def fresh_rows(self) -> int:
        """How many fresh rows they are compared with."""
        return len(self.fresh_distance)

    def __str__(self) -> str:
        return (
            f"C_T {self.statistic:.2f}, p {self.p_value:.3g}; distance to the nearest of "
            f"{self.train_rows:,} training rows {self.ratio} times "
            f"that of fresh rows; {100 * self.close.value:.1f} % close "
            f"({100 * CLOSE:.0f} ± {100 * self.close.stderr:.1f} % without copying), "
            f"{100 * self.exact:.1f} % equal"
        )


def memorisation(
    samples: Tensor, train: Tensor, fresh: Tensor, *, cells: int | None = None, seed: int = 0
) -> Memorisation:
    r"""The three-sample test of data-copying, and the nearest training row of each sample.

    Training rows T are divided into cells by k-means. In a cell, the distances to T of its m
    samples and n fresh rows are ranked together; with U the pairs in which the sample is the
    further one,

    .. math:: Z = \frac{U - mn/2}{\sqrt{mn (m + n + 1) / 12}}, \qquad
              C_T = \sum_\pi P_n(\pi) Z_\pi / \sum_\pi P_n(\pi)

    over the cells with at least 20 of both, weighted by their share of fresh rows; ties get their
    mean rank, and the variance is corrected for them. A model that draws from the distribution of
    the data has :math:`Z_\pi \sim N(0, 1)`, so that :math:`C_T` is normal with the variance
    :math:`\sum P_n^2 / (\sum P_n)^2`, which gives ``p_value``. Within a cell rows are about as
    sparse as each other: a model that leaves a sparse region out is not taken for one that copies.

    A Non-Parametric Test to Detect Data-Copying in Generative Models (Meehan, Chaudhuri &
    Dasgupta, 2020), https://arxiv.org/abs/2004.05675

    Args:
        samples: Features of samples, shape ``(rows, features)``.
        train: Of the training rows: all of them, or copies of the others are not found.
        fresh: Of rows that the model has not seen.
        cells: How many; by default one for each 50 of the fewer of samples and fresh rows, at
            most 10.
        seed: Of the cells and the bootstrap.

    Raises:
        ValueError: If there are no rows, features do not agree, or ``cells`` is below 1.

    Examples:
        >>> train, fresh, samples = torch.randn(3, 400, 2)
        >>> memorisation(samples, train, fresh).p_value > 0.001
        True
        >>> memorisation(train + 0.001 * samples, train, fresh).p_value < 1e-6
        True
    """
    check_clouds(train, samples, 1, ("training rows", "samples"))
    check_clouds(train, fresh, 1, ("training rows", "fresh rows"))
    if cells is not None and cells < 1:
        raise ValueError(f"There must be at least one cell, found cells={cells}.")
    samples, train, fresh = samples.double(), train.double(), fresh.double()
    nearest, distance = nearest_rows(samples, train)
    _, beside = nearest_rows(fresh, train)
    wanted = cells or min(_CELLS, max(1, min(len(samples), len(fresh)) // _PER_CELL))
    statistic, scale, counted, covered = _data_copying(
        _cells(train, wanted, seed, samples, fresh), distance, beside
    )
    p_value = float(torch.special.ndtr(torch.tensor(statistic / scale, dtype=torch.float64)))
    middle = float(beside.median())
    ratio = float(distance.median()) / middle if middle > 0 else math.nan
    limit = float(beside.quantile(CLOSE, interpolation="higher"))
    many, few = len(samples), len(fresh)
    return Memorisation(
        statistic=statistic,
        p_value=p_value,
        ratio=Estimate(ratio, _ratio_stderr(distance, beside, seed) if middle > 0 else math.nan),
        # a share of the samples, below a limit that is itself a quantile of the fresh rows
        close=Estimate(
            float((distance <= limit).double().mean()),
            math.sqrt(CLOSE * (1 - CLOSE) * (1 / many + 1 / few)),
        ),
        exact=float((distance == 0).double().mean()),
        exact_fresh=float((beside == 0).double().mean()),
        cells=counted,
        covered=covered,
        nearest=nearest,
        distance=distance,
        fresh_distance=beside,
        train_rows=len(train),
    )


def nearest_rows(rows: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest training row of each row and its distance, each of shape ``(rows,)``."""
    centre = train.mean(0)
    moved = train - centre
    norms = moved.square().sum(1)
    # |r - t|² less |r|²: one product of matrices, exact enough to choose
    parts = [(norms - 2 * (part - centre) @ moved.T).argmin(1) for part in rows.split(_CHUNK)]
    nearest = torch.cat(parts)
    distance = torch.cat(
        [
            (part - train[index]).square().sum(1).sqrt()
            for part, index in zip(rows.split(_CHUNK), nearest.split(_CHUNK), strict=True)
        ]
    )
    return nearest, distance


def rank_sum_z(samples: Tensor, fresh: Tensor) -> float:
    r"""Mann and Whitney's U of two sets of numbers, standardised; below zero if samples are less.

    On a Test of Whether one of Two Random Variables is Stochastically Larger than the Other
    (Mann & Whitney, 1947), https://doi.org/10.1214/aoms/1177730491
    """
    m, n = len(samples), len(fresh)
    _, place, many = torch.cat([samples, fresh]).unique(return_inverse=True, return_counts=True)
    many = many.double()
    ranks = many.cumsum(0) - (many - 1) / 2  # the mean rank of those that are equal
    u = float(ranks[place[:m]].sum()) - m * (m + 1) / 2
    total = m + n
    ties = float((many**3 - many).sum()) / (total * (total - 1))
    variance = m * n / 12 * (total + 1 - ties)
    return (u - m * n / 2) / math.sqrt(variance) if variance > 0 else 0.0


def _cells(
    train: Tensor, wanted: int, seed: int, samples: Tensor, fresh: Tensor
) -> tuple[Tensor, Tensor]:
    """The cell of each sample and of each fresh row."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    generator = torch.Generator().manual_seed(seed)
    some = train[torch.randperm(len(train), generator=generator)[:_CLUSTERED]]
    means: Any = KMeans(min(wanted, len(some)), n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than cells
        means.fit(some.numpy())
    one, two = (torch.from_numpy(means.predict(rows.numpy())) for rows in (samples, fresh))
    return one, two


def _data_copying(
    cells: tuple[Tensor, Tensor], distance: Tensor, beside: Tensor
) -> tuple[float, float, int, float]:
    """C_T, its standard deviation without copying, the cells counted, their share of rows."""
    pairs = [(distance[cells[0] == cell], beside[cells[1] == cell]) for cell in cells[1].unique()]
    pairs = [pair for pair in pairs if min(len(pair[0]), len(pair[1])) >= _LEAST]
    covered = sum([len(fresh) for _, fresh in pairs]) / len(beside)
    if not pairs:  # too few rows for cells: one of all
        pairs, covered = [(distance, beside)], 1.0
    weights = torch.tensor([len(fresh) for _, fresh in pairs], dtype=torch.float64)
    weights /= weights.sum()
    z = torch.tensor([rank_sum_z(*pair) for pair in pairs], dtype=torch.float64)
    return float(weights @ z), float(weights.norm()), len(pairs), covered


def _ratio_stderr(distance: Tensor, beside: Tensor, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    medians: Sequence[Tensor] = [
        values[torch.randint(len(values), (_RESAMPLED, len(values)), generator=generator)]
        .median(1)
        .values
        for values in (distance, beside)
    ]
    ratios = medians[0] / medians[1]
    return float(ratios.std())
