r"""Pareto :math:`\hat k`: how heavy the tail of the importance weights is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOO_HEAVY = 0.7
"""Above this the estimate converges too slowly to be trusted at any affordable number of draws."""

_FEWEST = 5  # exceedances; with fewer the fit says nothing (as in the authors' own code)


def tail_length(particles: int, most: int = 1_000) -> int:
    r"""How many of the largest weights are the tail: :math:`\min(K / 5, 3 \sqrt K)` or ``most``.

    >>> tail_length(5_000)
    213
    """
    return min(most, math.ceil(min(particles / 5, 3 * math.sqrt(particles))))


def pareto_k(log_weights: Tensor, *, precision: float | None = None) -> Tensor:
    r"""Shape :math:`\hat k` of a generalised Pareto distribution fitted to the largest weights.

    Moments of order above :math:`1/k` do not exist: from 0.5 the variance of the weights is
    infinite, and above 0.7 the estimate is unreliable. Pareto Smoothed Importance Sampling
    (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646. The fit is that of A New and
    Efficient Estimation Method for the Generalized Pareto Distribution (Zhang & Stephens, 2009),
    https://doi.org/10.1198/tech.2009.08017, drawn a little towards 0.5 as in the former.

    Args:
        log_weights: The ``M + 1`` largest log-weights of each row in falling order, shape
            ``(M + 1, rows)``; the last is the threshold.
        precision: Relative precision to which they were computed; that of their type if left out.

    Returns:
        Shape ``(rows,)``, float64; NaN where there is no tail to fit: fewer than five weights
        above the threshold, or constant weights.

    Examples:
        >>> uniform = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
        >>> weights = uniform ** -0.9  # P(w > t) = t ** (-1 / 0.9): k is 0.9
        >>> print(f"{float(pareto_k(weights.log().sort(0, descending=True)[0][:190])):.1f}")
        0.9
    """
    ordered = log_weights.double()
    undefined = torch.full(ordered.shape[1:], math.nan, dtype=torch.float64, device=ordered.device)
    count = ordered.shape[0] - 1
    if count < _FEWEST:
        return undefined
    # rounding is no tail: a spread of some units in the last place of the log-weights
    eps = torch.finfo(log_weights.dtype).eps if precision is None else precision
    noise = 100 * eps * ordered[0].abs().clamp(min=1.0)
    known = ((ordered[0] - ordered[-1]) > noise) & torch.isfinite(ordered[0])
    scaled = (ordered - torch.where(known, ordered[0], 0.0)).exp()
    excess = (scaled[:-1] - scaled[-1]).flip(0)  # rising, (M, rows)
    excess = torch.where(known, excess, 1.0).clamp(min=torch.finfo(torch.float64).tiny)

    grid = 30 + int(math.sqrt(count))
    steps = torch.arange(1, grid + 1, dtype=torch.float64, device=ordered.device)
    quartile = excess[int(count / 4 + 0.5) - 1]
    theta = (1 - (grid / (steps - 0.5)).sqrt())[:, None] / (3 * quartile) + 1 / excess[-1]
    # one grid point at a time: (M, rows) and not (grid, M, rows) in memory
    shape = torch.stack([torch.log1p(-each * excess).mean(0) for each in theta])
    profile = count * (torch.log(-theta / shape) - shape - 1)
    weight = torch.softmax(torch.nan_to_num(profile, nan=-math.inf), 0)
    best = (theta * weight).sum(0)
    fitted = torch.log1p(-best * excess).mean(0)
    regularised = (count * fitted + 10 * 0.5) / (count + 10)
    return torch.where(known, regularised, undefined)
