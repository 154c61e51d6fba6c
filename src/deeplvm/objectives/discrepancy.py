"""Maximum mean discrepancy, and the objective that holds the aggregate posterior at the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.trace import expand_to
from deeplvm.objectives.bounds import elbo
from deeplvm.objectives.groups import mean_particles, reconstruction, the_latent
from deeplvm.parallel.statistics import refuse_parts
from deeplvm.registry import NonNegative

#: Squared distances and a squared length to the similarity of each pair.
Kernel = Callable[[Tensor, float], Tensor]


def rbf(squared_distance: Tensor, scale: float) -> Tensor:
    r"""Gaussian kernel :math:`\exp(-\|a - b\|^2 / s)`, with :math:`s = 2 \sigma^2`."""
    return torch.exp(-squared_distance / scale)


def imq(squared_distance: Tensor, scale: float) -> Tensor:
    r"""Inverse multiquadratic kernel :math:`s / (s + \|a - b\|^2)`, of heavier tails.

    Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558
    """
    return scale / (scale + squared_distance)


def maximum_mean_discrepancy(
    first: Tensor, second: Tensor, kernel: Kernel = rbf, scale: float | None = None
) -> Tensor:
    r"""Unbiased estimate of the squared discrepancy of the laws of two samples.

    .. math:: \frac{\sum_{i \ne j} k(a_i, a_j)}{n (n-1)} + \frac{\sum_{i \ne j} k(b_i, b_j)}
              {m (m-1)} - \frac{2 \sum_{ij} k(a_i, b_j)}{n m}

    Zero in expectation if the laws are the same, so it is negative about every other time then.
    A Kernel Two-Sample Test (Gretton et al., 2012, lemma 6),
    https://jmlr.org/papers/v13/gretton12a.html

    Args:
        first: Independent draws, shape ``(n, dimensions)``.
        second: Independent draws, shape ``(m, dimensions)``.
        kernel: :func:`rbf`, :func:`imq`, or another function of squared distances.
        scale: Squared length of the kernel; ``2 * dimensions``, the mean squared distance of two
            draws of a standard normal, by default.

    Raises:
        ValueError: If a sample has fewer than two draws.

    >>> maximum_mean_discrepancy(torch.tensor([[0.0], [0.0]]), torch.tensor([[9.0], [9.0]]))
    tensor(2.)
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"A discrepancy needs two draws of each law, found {len(first)} and {len(second)}."
        )
    weights = [sample.new_full((len(sample),), 1.0 / len(sample)) for sample in (first, second)]
    groups = [torch.arange(len(sample), device=sample.device) for sample in (first, second)]
    scale = 2.0 * first.shape[-1] if scale is None else scale
    similar = _pairs(first, first, kernel, scale, weights[0], weights[0], groups[0], groups[0])
    others = _pairs(second, second, kernel, scale, weights[1], weights[1], groups[1], groups[1])
    across = kernel(_squared_distances(first, second), scale).mean()
    return similar + others - 2.0 * across


def fair_elbo(
    evidence: Evidence, weight: NonNegative = 100.0, latent: str = "z", group: str = "c"
) -> Tensor:
    r"""The ELBO, and codes of different groups held alike by their discrepancy.

    .. math:: E_q[\log p(x | z, c) + \log p(z) - \log q(z | x, c)] -
              \lambda \sum_k MMD^2(q(z | c = k), q(z | c \ne k))

    The Variational Fair Autoencoder (Louizos et al., 2016), https://arxiv.org/abs/1511.00830,
    section 2.3, with every pair of a batch in place of random features. A group with fewer than
    two rows in the batch, or outside it, is left out of the sum.

    Args:
        evidence: The ledger, in which the group is given.
        weight: :math:`\lambda`, nats a row.
        latent: The code.
        group: What the code shall not tell, whole numbers or their one-hot rows.

    Returns:
        One value per observation, shape ``(batch,)``. Not a bound on ``log p(x)``: an estimate of
        a discrepancy may be negative.

    Raises:
        ValueError: If q has no such code, or p no such group.
    """
    refuse_parts("The discrepancy of fair_elbo", "compares every row of a batch with every other")
    code = evidence.q[the_latent(evidence, latent, "fair_elbo")].value
    if group not in evidence.p:
        raise ValueError(
            f"fair_elbo holds {latent!r} alike over the values of {group!r}, and p has "
            f"{', '.join(evidence.p)}: say group=..., a name of p."
        )
    groups = evidence.p[group].value
    groups = groups.argmax(-1) if groups.dim() > 1 else groups
    similar = rbf(_squared_distances(code, code), 2.0 * code.shape[-1])  # (*particles, B, B)
    same = (groups[:, None] == groups).to(similar)
    rows, own = len(groups), same.sum(1)
    other = rows - own  # of each row's group, the rows outside it
    counted = ((own > 1) & (other > 1)).to(similar)
    apart = 1.0 - torch.eye(rows).to(similar)
    within = counted / (own * (own - 1)).clamp(min=1)
    outside = counted / (other * (other - 1)).clamp(min=1)
    across = counted / (own * other).clamp(min=1)
    # groups that have neither of two rows: all of them but the one, or the two, of these rows
    neither = (outside / own).sum() - outside[:, None] - (1.0 - same) * outside
    pairs = apart * (same * within[:, None] + neither) - 2.0 * (1.0 - same) * across[:, None]
    return elbo(evidence) - weight * (pairs * similar).sum((-2, -1)).mean()


def info_vae(
    evidence: Evidence,
    alpha: float = 1.0,
    weight: float = 10.0,
    *,
    kernel: Literal["rbf", "imq"] | Kernel = "rbf",
    scale: float | None = None,
    name: str | None = None,
) -> Tensor:
    r"""InfoVAE: a lighter divergence, and the aggregate posterior held at the prior.

    .. math:: E_q[\log p(x|z)] - (1 - \alpha)\, KL(q(z|x) \| p(z)) - (\alpha + \lambda - 1)\,
              MMD^2(q(z), p(z))

    :math:`\alpha = 1` leaves the discrepancy alone (MMD-VAE), :math:`\alpha = 0, \lambda = 1` is
    the ELBO. The discrepancy is that of the minibatch and of as many fresh draws of p, an unbiased
    estimate: pairs within one row are left out, which would be draws of q(z|x) twice and not of
    q(z). One row alone has none. It costs the square of the draws in memory.

    InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao et al., 2019),
    https://arxiv.org/abs/1706.02262

    Args:
        evidence: The ledger.
        alpha: :math:`\alpha`; above 0 the latents keep more information about a row.
        weight: :math:`\lambda`.
        kernel: ``"rbf"``, ``"imq"``, or a function of squared distances and a scale.
        scale: Squared length of the kernel; twice the number of dimensions by default.
        name: The latent, where there are several; the others keep their divergences.

    Returns:
        One value per observation, shape ``(batch,)``, the discrepancy the same for all. Not a
        bound on ``log p(x)`` for ``alpha > 0``, where the divergence weighs less than 1, nor for
        ``alpha + weight < 1``; otherwise a lower one in expectation.

    Raises:
        ValueError: If the latent is no vector of real numbers, or is not named where there are
            several.
    """
    name = the_latent(evidence, name, "info_vae")
    refuse_parts("The discrepancy of info_vae", "compares every row of a batch with every other")
    discrepancy = _aggregate_discrepancy(evidence, name, _kernel(kernel), scale)
    value = reconstruction(evidence)
    for latent in evidence.latents:
        share = 1.0 - alpha if latent == name else 1.0
        divergence = share * mean_particles(evidence, evidence.kl(latent))
        value = value - evidence.weighted(latent, divergence)
    return value - evidence.weighted(name, (alpha + weight - 1.0) * discrepancy)


def _kernel(kernel: Literal["rbf", "imq"] | Kernel) -> Kernel:
    if callable(kernel):
        return kernel
    known: dict[str, Kernel] = {"rbf": rbf, "imq": imq}
    if kernel not in known:
        raise ValueError(f"kernel is 'rbf', 'imq' or a function, not {kernel!r}.")
    return known[kernel]


def _aggregate_discrepancy(
    evidence: Evidence, name: str, kernel: Kernel, scale: float | None
) -> Tensor:
    """MMD² of a latent's aggregate posterior and prior: pairs of draws of different rows."""
    site, prior = evidence.q[name], evidence.p[name].distribution
    if prior is None or not site.value.is_floating_point() or name in evidence.shared:
        raise ValueError(
            f"{name!r} is not a vector of real numbers of each row, which the discrepancy needs."
        )
    shape = evidence.batch_shape
    event = site.value.shape[site.batch_dims :]
    absent = (1,) * (len(shape) - site.batch_dims)
    ours = site.value.reshape(*absent, *site.value.shape).expand(*shape, *event)
    ours = ours.reshape(*shape, -1)
    right = site.value.dim() - site.batch_dims - len(prior.event_shape)
    leading = max(len(prior.batch_shape) - right, 0)
    theirs = expand_to(prior, shape, leading).sample().reshape(*shape, -1)
    scale = 2.0 * ours.shape[-1] if scale is None else scale
    row = torch.arange(shape[-1], device=ours.device).expand(shape).flatten()
    weight = _measure(evidence, ours)
    ours, theirs = ours.flatten(0, -2), theirs.flatten(0, -2)
    options = (kernel, scale, weight, weight, row, row)
    return (
        _pairs(ours, ours, *options)
        + _pairs(theirs, theirs, *options)
        - 2.0 * _pairs(ours, theirs, *options)
    )


def _measure(evidence: Evidence, like: Tensor) -> Tensor:
    """Weight of each draw in the mean over particles and rows, sums to 1, shape ``(draws,)``."""
    shape = evidence.batch_shape
    if isinstance(evidence.log_measure, Tensor):
        return (evidence.log_measure.exp().expand(shape) / shape[-1]).flatten()
    draws = like.shape[:-1].numel()
    return like.new_full((draws,), 1.0 / draws)


def _pairs(
    first: Tensor,
    second: Tensor,
    kernel: Kernel,
    scale: float,
    first_weight: Tensor,
    second_weight: Tensor,
    first_group: Tensor,
    second_group: Tensor,
) -> Tensor:
    """Mean similarity of the pairs whose two draws are of different groups; 0 if there is none."""
    apart = first_group[:, None] != second_group[None, :]
    weight = torch.where(apart, first_weight[:, None] * second_weight[None, :], 0.0)
    similarity = kernel(_squared_distances(first, second), scale)
    total = weight.sum()
    return (weight * similarity).sum() / torch.where(total > 0, total, 1.0)


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    r""":math:`\|a_i - b_j\|^2`, shape ``(..., n, m)``, without the differences in memory."""
    squares = first.square().sum(-1)[..., :, None] + second.square().sum(-1)[..., None, :]
    return (squares - 2.0 * first @ second.mT).clamp(min=0.0)
