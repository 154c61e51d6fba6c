r"""Distances between the features of draws and of data: Fréchet's, and the kernel distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deeplvm.evaluation.samples.precision_recall import check_clouds
from deeplvm.results import Estimate, number

_GROUPS = 10
_CHUNK = 1_000


@dataclass(frozen=True, eq=False)
class FrechetEstimate(Estimate):
    r"""Fréchet distance between Gaussians fitted to two clouds of features.

    Attributes:
        value: :math:`d^2` at the moments of these rows. It is too large: by a term that falls
            like 1/N, so that numbers from different N cannot be compared.
        stderr: Standard error, by a jackknife over ten groups of rows.
        extrapolated: The distance at infinitely many rows (FID∞), on a line in 1/N; NaN where
            there are fewer than four times as many rows as features, for then it is no line. It
            may fall below zero, by chance.
        extrapolated_stderr: Its standard error.
        data_rows: Rows of data.
        sample_rows: Rows of samples.
        dimensions: Number of features.
    """

    extrapolated: float
    extrapolated_stderr: float
    data_rows: int
    sample_rows: int
    dimensions: int

    def __str__(self) -> str:
        at = f"at {self.data_rows:,} and {self.sample_rows:,} rows"
        beyond = (
            f"too few rows for {self.dimensions} features to extrapolate"
            if math.isnan(self.extrapolated)
            else f"{number(self.extrapolated, self.extrapolated_stderr)} at infinitely many"
        )
        return f"Fréchet distance {number(self.value, self.stderr)} {at}, {beyond}"


@dataclass(frozen=True, eq=False)
class KernelEstimate(Estimate):
    """Squared maximum mean discrepancy with a cubic kernel (the kernel distance, KID).

    Attributes:
        value: Unbiased at any number of rows; may fall below zero, by chance.
        stderr: Standard error.
        rows: Rows of each cloud.
        dimensions: Number of features.
    """

    rows: int
    dimensions: int

    def __str__(self) -> str:
        return f"kernel distance {number(self.value, self.stderr)}, {self.rows:,} rows of each"


def gaussian_frechet(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> Tensor:
    r"""Squared Fréchet (2-Wasserstein) distance of two Gaussians.

    .. math:: d^2 = \|\mu_1 - \mu_2\|^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2)
              - 2 \|\Sigma_1^{1/2} \Sigma_2^{1/2}\|_*

    The sum of the singular values :math:`\|\cdot\|_*` is
    :math:`\operatorname{tr} (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}`, without the root of
    a product that rounding makes asymmetric or indefinite. Singular covariances go too.

    The Fréchet distance between multivariate normal distributions (Dowson & Landau, 1982),
    https://doi.org/10.1016/0047-259X(82)90077-X

    Args:
        mean: Shape ``(features,)``.
        covariance: Symmetric, shape ``(features, features)``.
        other_mean: As ``mean``.
        other_covariance: As ``covariance``.

    Examples:
        >>> eye = torch.eye(2)
        >>> round(float(gaussian_frechet(torch.zeros(2), eye, torch.ones(2), 4 * eye)), 6)
        4.0
    """
    common = torch.linalg.svdvals(_root(covariance) @ _root(other_covariance)).sum()
    spread = covariance.trace() + other_covariance.trace()
    return (mean - other_mean).square().sum() + spread - 2 * common


def frechet_distance(data: Tensor, samples: Tensor, *, seed: int = 0) -> FrechetEstimate:
    r"""Fréchet distance of samples from data, in features.

    The moments are estimated, and the distance is convex in them: it is too large by about c / N,
    even for two clouds of one distribution. The line in 1/N is taken to its end as by Chong and
    Forsyth; here it goes through N rows and through 9 N / 10 rows, each tenth left out once.

    GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017),
    https://arxiv.org/abs/1706.08500; Effectively Unbiased FID and Inception Score and Where to
    Find Them (Chong & Forsyth, 2020), https://arxiv.org/abs/1911.07023

    Args:
        data: Features of data, shape ``(N, features)``.
        samples: Features of samples, shape ``(M, features)``.
        seed: Of the division into tenths.

    Raises:
        ValueError: If a cloud has fewer than two rows.
    """
    check_clouds(data, samples, 2)
    data, samples = data.double(), samples.double()
    value = float(_distance(data, samples))
    rows, dimensions = min(len(data), len(samples)), data.shape[1]
    counts = (len(data), len(samples), dimensions)
    if rows < 2 * _GROUPS:
        return FrechetEstimate(value, math.nan, math.nan, math.nan, *counts)
    generator = torch.Generator().manual_seed(seed)
    one = torch.randperm(len(data), generator=generator) % _GROUPS
    two = torch.randperm(len(samples), generator=generator) % _GROUPS
    without = torch.stack(
        [_distance(data[one != group], samples[two != group]) for group in range(_GROUPS)]
    )
    # the line through (1/N, all) and (1/N · 10/9, without), at 0
    extrapolated = value - (_GROUPS - 1) * (float(without.mean()) - value)
    stderr = math.sqrt((_GROUPS - 1) * float(without.var(correction=0)))
    if rows < 4 * dimensions:
        return FrechetEstimate(value, stderr, math.nan, math.nan, *counts)
    return FrechetEstimate(value, stderr, extrapolated, stderr, *counts)


def kernel_distance(data: Tensor, samples: Tensor) -> KernelEstimate:
    r"""Kernel distance of samples from data, in features.

    .. math:: \text{MMD}^2 = E[k(x, x')] + E[k(y, y')] - 2 E[k(x, y)],
              \qquad k(a, b) = (a^\top b / d + 1)^3

    The unbiased estimate is the mean of :math:`h_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j)
    - k(x_j, y_i)` over all pairs :math:`i \ne j`. Bińkowski et al. average it over subsets of
    1,000 rows; all pairs have the same expectation and less variance. Its variance is that of a
    U-statistic of order two, :math:`\frac{4 (n-2)}{n (n-1)} \zeta_1 + \frac{2}{n (n-1)} \zeta_2`,
    :math:`\zeta_1 = \operatorname{Var} E[h \mid i]`, :math:`\zeta_2 = \operatorname{Var} h`; for
    two equal distributions the first term is zero, but never estimated below it, so that there
    the error is told too large, by up to a half where there are few features.

    Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401

    Args:
        data: Features of data, shape ``(rows, features)``.
        samples: Features of samples, as many rows.

    Raises:
        ValueError: If there are fewer than five rows, or not as many of both.

    Examples:
        >>> x, y = torch.randn(2, 300, 4)
        >>> near, far = kernel_distance(x, y), kernel_distance(x, y + 1)
        >>> abs(near.value) < 4 * near.stderr, far.value > 5 * far.stderr
        (True, True)
    """
    check_clouds(data, samples, 5)
    if len(data) != len(samples):
        raise ValueError(
            f"There are {len(data)} rows of data and {len(samples)} samples; give as many of both."
        )
    x, y = data.double(), samples.double()
    n = len(x)
    sums, squares = [], 0.0
    for start in range(0, n, _CHUNK):
        index = slice(start, start + _CHUNK)
        h = _cubic(x[index], x) + _cubic(y[index], y) - _cubic(x[index], y) - _cubic(y[index], x)
        h[torch.arange(len(h)), torch.arange(start, start + len(h))] = 0.0
        sums.append(h.sum(1))
        squares += float(h.square().sum())
    means = torch.cat(sums) / (n - 1)  # of h over the partners of each row
    value = float(means.mean())
    zeta_2 = max(squares / (n * (n - 1)) - value**2, 0.0)
    # E[s²] of these means is (n-2) / (n-1)² · ((n-4) ζ1 + ζ2)
    zeta_1 = max((float(means.var()) * (n - 1) ** 2 / (n - 2) - zeta_2) / (n - 4), 0.0)
    variance = (4 * (n - 2) * zeta_1 + 2 * zeta_2) / (n * (n - 1))
    return KernelEstimate(value, math.sqrt(variance), n, x.shape[1])


def _distance(one: Tensor, two: Tensor) -> Tensor:
    return gaussian_frechet(one.mean(0), _covariance(one), two.mean(0), _covariance(two))


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _cubic(one: Tensor, other: Tensor) -> Tensor:
    linear = one @ other.T / one.shape[1] + 1
    return linear * linear * linear  # a power of tensors takes ten times as long
