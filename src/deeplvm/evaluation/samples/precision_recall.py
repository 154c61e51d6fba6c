r"""Precision and recall, density and coverage: do draws look like data, and do they cover them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deeplvm.results import Estimate, Record, number

MEASURES = ("precision", "recall", "density", "coverage")
_PARTS = 10  # disjoint parts at most
_PARTITIONS = 5  # the spread between parts is averaged over so many ways to divide
_CHUNK = 1_000


@dataclass(frozen=True, eq=False)
class ManifoldEstimate(Record, also="coverage_if_equal"):
    r"""How two clouds of points overlap, by balls that reach to the k-th neighbour.

    With :math:`B_k(a)` the ball around a that reaches to its k-th nearest neighbour within its
    own cloud, data :math:`x_1 .. x_N` and samples :math:`y_1 .. y_M`:

    .. math:: \text{precision} &= \tfrac1M \textstyle\sum_j 1[y_j \in \bigcup_i B_k(x_i)] \\
              \text{recall} &= \tfrac1N \textstyle\sum_i 1[x_i \in \bigcup_j B_k(y_j)] \\
              \text{density} &= \tfrac1{kM} \textstyle\sum_j \sum_i 1[y_j \in B_k(x_i)] \\
              \text{coverage} &= \tfrac1N \textstyle\sum_i 1[\exists j: y_j \in B_k(x_i)]

    Errors are NaN where there are too few rows to divide.

    Attributes:
        precision: Share of the samples that lie where data are.
        recall: Share of the data that lie where samples are.
        density: How many balls of data a sample lies in, over k; 1 in expectation for two clouds
            of one continuous distribution, more where samples crowd in the midst of the data.
        coverage: Share of the data that have a sample within their own ball.
        neighbours: k.
        data_rows: N.
        sample_rows: M.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    neighbours: int
    data_rows: int
    sample_rows: int

    @property
    def coverage_if_equal(self) -> float:
        r"""Expected coverage if data and samples have one continuous distribution.

        A ball stays empty if the k nearest of all :math:`N + M - 1` others are data:
        :math:`1 - \prod_{j=1}^k (N - j) / (N + M - j)`, about :math:`1 - 2^{-k}` for N = M.
        """
        n, m = self.data_rows, self.sample_rows
        return 1 - math.prod([(n - j) / (n + m - j) for j in range(1, self.neighbours + 1)])

    def table(self) -> list[tuple[str, str]]:
        found = [(name, getattr(self, name)) for name in MEASURES]
        return [(name, number(each.value, each.stderr, (3, 6))) for name, each in found]

    def notes(self) -> list[str]:
        of = f"k = {self.neighbours}, {self.sample_rows:,} samples, {self.data_rows:,} data rows"
        return [f"± one standard error; {of}"]


def manifold_estimate(
    data: Tensor, samples: Tensor, *, neighbours: int = 5, seed: int = 0
) -> ManifoldEstimate:
    r"""Improved precision and recall, density and coverage of samples against data.

    Precision and recall hold up badly with outliers: one far row of data has a ball in which
    everything lies. Density and coverage use the data's balls only, and count. All four move with
    the number of rows, so compare them only at equal numbers, and beside those of fresh data.

    The standard error is the spread between disjoint parts of the rows, as much as parts of their
    size vary, divided by the root of their number; in trials it was right within a third. A ball
    holds a point on its border.

    Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al.,
    2019), https://arxiv.org/abs/1904.06991; Reliable Fidelity and Diversity Metrics for
    Generative Models (Naeem et al., 2020), https://arxiv.org/abs/2002.09797

    Args:
        data: Features of data, shape ``(N, features)``.
        samples: Features of samples, shape ``(M, features)``.
        neighbours: k.
        seed: Of the division into parts.

    Raises:
        ValueError: If a cloud has no more than ``neighbours`` rows.

    Examples:
        >>> x, y = torch.randn(2, 400, 3)
        >>> same = manifold_estimate(x, y)
        >>> abs(same.coverage.value - same.coverage_if_equal) < 0.1
        True
        >>> manifold_estimate(x, y + 20).precision.value
        0.0
    """
    check_clouds(data, samples, neighbours + 1)
    value = _measures(data.double(), samples.double(), neighbours).tolist()
    error = _errors(data.double(), samples.double(), neighbours, seed).tolist()
    return ManifoldEstimate(
        *[Estimate(*each) for each in zip(value, error, strict=True)],
        neighbours=neighbours,
        data_rows=len(data),
        sample_rows=len(samples),
    )


def check_clouds(
    data: Tensor, samples: Tensor, least: int, names: tuple[str, str] = ("data", "samples")
) -> None:
    """Two matrices of equally many features.

    Raises:
        ValueError: If they are not, or one has fewer than ``least`` rows.
    """
    for what, rows in zip(names, (data, samples), strict=True):
        if rows.dim() != 2:
            raise ValueError(
                f"The {what} must be features of shape (rows, features), found "
                f"{tuple(rows.shape)}; flatten rows, or map them by features_of."
            )
        if len(rows) < least:
            raise ValueError(f"Rows needed: at least {least}; the {what} have {len(rows)}.")
    if data.shape[1] != samples.shape[1]:
        raise ValueError(
            f"The {names[0]} have {data.shape[1]} features and the {names[1]} "
            f"{samples.shape[1]}; compare both in the same features."
        )


def _measures(data: Tensor, samples: Tensor, k: int) -> Tensor:
    """The four measures, shape ``(4,)``."""
    reach, sample_reach = _radii(data, k), _radii(samples, k)
    held = torch.zeros(
        len(samples), dtype=torch.int64
    )  # in how many balls of data each sample lies
    recalled, covered = 0, 0
    for index, distance in _distances(data, samples):  # (rows, M)
        within = distance <= reach[index, None]
        held += within.sum(0)
        covered += int(within.any(1).sum())
        recalled += int((distance <= sample_reach).any(1).sum())
    precision = float((held > 0).double().mean())
    n = len(data)
    return torch.tensor(
        [precision, recalled / n, float(held.double().mean()) / k, covered / n],
        dtype=torch.float64,
    )


def _radii(rows: Tensor, k: int) -> Tensor:
    """Distance to the k-th other row, shape ``(rows,)``."""
    parts = [
        # the nearest is the row itself
        distance.topk(k + 1, largest=False).values[:, -1]
        for _, distance in _distances(rows, rows)
    ]
    return torch.cat(parts)


def _distances(one: Tensor, other: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(one), _CHUNK):
        index = slice(start, start + _CHUNK)
        # by differences: a distance is the same in any chunk, so that ties stay ties
        yield index, torch.cdist(one[index], other, compute_mode="donot_use_mm_for_euclid_dist")


def _errors(data: Tensor, samples: Tensor, k: int, seed: int) -> Tensor:
    """Standard errors from disjoint parts, shape ``(4,)``."""
    least = min(len(data), len(samples))
    # parts of ten times k rows, so that their balls are about as local as those of all rows
    parts = min(_PARTS, least // (10 * k))
    if parts < 2:
        return torch.full((4,), math.nan)
    generator = torch.Generator().manual_seed(seed)
    variances = []
    for _ in range(_PARTITIONS):
        pairs = zip(
            torch.randperm(len(data), generator=generator).tensor_split(parts),
            torch.randperm(len(samples), generator=generator).tensor_split(parts),
            strict=True,
        )
        each = torch.stack([_measures(data[one], samples[two], k) for one, two in pairs])
        variances.append(each.var(0) / parts)
    return torch.stack(variances).mean(0).sqrt()
