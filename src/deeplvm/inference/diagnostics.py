r"""Have chains met, and how many independent draws are theirs worth: :math:`\hat R` and ESS.

Rank-normalization, folding, and localization: An improved R-hat for assessing convergence of MCMC
(Vehtari, Gelman, Simpson, Carpenter & Bürkner, 2021), https://arxiv.org/abs/1903.08008
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST = 4  # draws in half a chain below which its variance and autocorrelation say nothing


def rank_normalised_split_rhat(draws: Tensor) -> Tensor:
    r"""Split :math:`\hat R` of ranks, the larger of that of the draws and of their folded form.

    Chains are cut in half; :math:`\hat R = \sqrt{\hat{var}^+ / W}` compares the variance of all
    draws with that inside the halves, after ranks have been turned into normal scores, so that
    heavy tails do no harm. Folded, :math:`|x - median|`, it sees chains that differ in scale.
    Chains that have met give 1; above 1.01 they have not.

    Args:
        draws: Shape ``(chains, draws, *elements)``.

    Returns:
        One number an element, shape ``elements``; NaN where no draw differs from another.

    Raises:
        ValueError: If there are fewer than eight draws in a chain.

    Examples:
        >>> draws = torch.randn(4, 1000, 2, generator=torch.Generator().manual_seed(0))
        >>> apart = draws + torch.arange(4.0)[:, None, None] * torch.tensor([0.0, 1.0])
        >>> [round(each, 2) for each in rank_normalised_split_rhat(apart).tolist()]
        [1.0, 1.51]
    """
    halves = _split(draws)
    pooled = halves.flatten(0, 1)
    folded = (halves - pooled.quantile(0.5, 0)).abs()
    return torch.maximum(rhat(normal_scores(halves)), rhat(normal_scores(folded)))


def bulk_effective_size(draws: Tensor) -> Tensor:
    r"""How many independent draws give as good a mean of the rank-normalised element.

    Args:
        draws: Shape ``(chains, draws, *elements)``.

    Returns:
        Shape ``elements``; NaN where no draw differs from another.

    Raises:
        ValueError: If there are fewer than eight draws in a chain.

    Examples:
        >>> draws = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
        >>> 3500 < float(bulk_effective_size(draws)) < 4500
        True
    """
    return effective_size(normal_scores(_split(draws)))


def tail_effective_size(draws: Tensor) -> Tensor:
    r"""The same for the quantiles of 5 % and 95 %, the smaller of the two.

    Args:
        draws: Shape ``(chains, draws, *elements)``.

    Returns:
        Shape ``elements``; NaN where no draw differs from another.

    Raises:
        ValueError: If there are fewer than eight draws in a chain.
    """
    halves = _split(draws)
    pooled = halves.flatten(0, 1)
    sizes = [
        effective_size((halves <= pooled.quantile(level, 0)).to(halves.dtype))
        for level in (0.05, 0.95)
    ]
    return torch.minimum(*sizes)


def effective_size(draws: Tensor) -> Tensor:
    r"""Effective number of draws for the mean, :math:`S / \hat\tau`, of all chains together.

    .. math:: \hat\rho_t = 1 - \frac{W - \overline{s_m^2 \rho_{t,m}}}{\hat{var}^+}, \qquad
              \hat\tau = -1 + 2 \sum_{k < m} (\hat\rho_{2k} + \hat\rho_{2k+1}) + \hat\rho_{2m}

    The sums of pairs are cut at the first negative one, at :math:`m`, and made to fall (Geyer's
    initial monotone sequence). Antithetic draws count more than independent ones, at most
    :math:`S \log_{10} S`.

    Practical Markov Chain Monte Carlo (Geyer, 1992), https://doi.org/10.1214/ss/1177011137

    Args:
        draws: Shape ``(chains, draws, *elements)``, of chains that were split where they should
            be.

    Returns:
        Shape ``elements``; NaN where no draw differs from another.
    """
    chains, length = draws.shape[:2]
    covariance = _autocovariance(draws)  # (chains, draws, *elements)
    within = covariance[:, 0].mean(0) * length / (length - 1)
    total = covariance[:, 0].mean(0)
    if chains > 1:
        total = total + draws.mean(1).var(0)
    rho = 1.0 - (within - covariance.mean(0)) / total
    rho[0] = 1.0
    pairs = rho[0 : 2 * (length // 2) : 2] + rho[1 : 2 * (length // 2) : 2]
    pairs = pairs[: max(1, (length - 3) // 2)]
    kept = torch.cumprod((pairs > 0).to(pairs.dtype), 0)
    first = kept.sum(0).long().clamp(max=len(pairs) - 1)
    after = rho[::2].gather(0, first.unsqueeze(0)).squeeze(0).clamp(min=0.0)
    after = torch.where(kept.bool().all(0), 0.0, after)
    # where the variance is zero, pairs are NaN and so is the answer
    tau = -1.0 + 2.0 * (kept * torch.cummin(pairs, 0).values).sum(0) + after
    count = chains * length
    size = count / tau.clamp(min=1.0 / math.log10(count))
    return torch.where(total > 0, size, math.nan)


def normal_scores(draws: Tensor) -> Tensor:
    r""":math:`\Phi^{-1}((r - 3/8) / (S + 1/4))` of the ranks r among all draws of an element.

    Equal draws share the mean of their ranks.

    Args:
        draws: Shape ``(chains, draws, *elements)``; so is the result.
    """
    pooled = draws.flatten(0, 1).movedim(0, -1).contiguous()  # (*elements, S)
    ordered = pooled.sort(-1).values
    below = torch.searchsorted(ordered, pooled)
    upto = torch.searchsorted(ordered, pooled, right=True)
    ranks = 0.5 * (below + upto + 1).to(torch.float64)
    scores = torch.special.ndtri((ranks - 0.375) / (pooled.shape[-1] + 0.25))
    return scores.movedim(-1, 0).reshape(draws.shape)


def _split(draws: Tensor) -> Tensor:
    """Both halves of each chain as chains, ``(2 chains, draws // 2, *elements)``, in float64."""
    half = draws.shape[1] // 2
    if half < _LEAST:
        raise ValueError(
            f"R-hat and effective sizes need at least {2 * _LEAST} draws in a chain, found "
            f"{draws.shape[1]}; draw more."
        )
    # of an odd number the one in the middle is left out
    return torch.cat([draws[:, :half], draws[:, -half:]]).double()


def rhat(chains: Tensor) -> Tensor:
    r""":math:`\hat R` of ``(chains, draws, *elements)`` as they are, shape ``elements``.

    Inference from Iterative Simulation Using Multiple Sequences (Gelman & Rubin, 1992),
    https://doi.org/10.1214/ss/1177011136
    """
    length = chains.shape[1]
    within = chains.var(1).mean(0)
    between = chains.mean(1).var(0)
    return ((length - 1) / length + between / within).sqrt()


def _autocovariance(draws: Tensor) -> Tensor:
    """Biased autocovariances of each chain at all lags, by the fast Fourier transform."""
    length = draws.shape[1]
    size = 2 ** math.ceil(math.log2(2 * length))
    spectrum = torch.fft.rfft(draws - draws.mean(1, keepdim=True), size, 1)
    power = torch.fft.irfft(spectrum.abs().square(), size, 1)[:, :length]
    return power / length


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
