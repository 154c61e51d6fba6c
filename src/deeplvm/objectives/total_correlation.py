"""The divergence in three parts: mutual information, total correlation, by dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence, density, elementwise
from deeplvm.objectives.groups import mean_particles, reconstruction, the_latent
from deeplvm.parallel.statistics import refuse_parts

Sampler = Literal["stratified", "weighted"]


@dataclass(frozen=True)
class DivergenceParts:
    r"""One latent's :math:`\log q(z|x) - \log p(z)` in three parts that sum to it exactly.

    Each has shape ``(batch,)``, in nats; their means over rows estimate the quantities named.

    Attributes:
        mutual_information: :math:`\log q(z|x) - \log q(z)`: :math:`I_q(x; z)`.
        total_correlation: :math:`\log q(z) - \sum_j \log q(z_j)`: how far the aggregate is from
            independent dimensions.
        by_dimension: :math:`\sum_j \log q(z_j) - \log p(z)`: the sum of
            :math:`KL(q(z_j) \| p(z_j))` where p factorises.
    """

    mutual_information: Tensor
    total_correlation: Tensor
    by_dimension: Tensor


def divergence_parts(
    evidence: Evidence, rows: int, *, name: str | None = None, sampler: Sampler = "stratified"
) -> DivergenceParts:
    r"""Mutual information, total correlation and divergence by dimension, from a minibatch.

    The aggregate :math:`q(z) = \frac1N \sum_n q(z|x_n)` is estimated for a draw z of row n from
    the B rows of the minibatch. ``"stratified"`` weighs q(z|x_n) itself by 1/N, each other row by
    :math:`(N-1)/(N(B-1))`: unbiased for q(z), and the aggregate itself if the minibatch is the
    data set. (The paper gives one other row a weight of its own; averaged over which, it is
    this.) ``"weighted"`` weighs all by :math:`1/(NB)`: biased, by :math:`\log N` at B = N. The
    logarithm of either estimate is biased.

    Isolating Sources of Disentanglement in VAEs (Chen et al., 2018),
    https://arxiv.org/abs/1802.04942

    Args:
        evidence: The ledger.
        rows: N, the number of rows of the data set.
        name: The latent, where there are several: one whose parents in q are all given. What it
            reads of p is its term, so p may be anything.
        sampler: How the aggregate is estimated.

    Raises:
        ValueError: If the latent does not factorise over its dimensions, has latent parents that
            are drawn as particles, or is not named where there are several.
    """
    name = the_latent(evidence, name, "divergence_parts")
    refuse_parts("The total correlation", "compares every row of a batch with every other")
    if sampler not in ("stratified", "weighted"):
        raise ValueError(f"sampler is 'stratified' or 'weighted', not {sampler!r}.")
    if rows < 1:
        raise ValueError(f"rows is the number of rows of the data set, N; found {rows}.")
    each = _scores(evidence, name)  # (*particles, n, m, dimensions)
    weight = _log_weights(each, rows, sampler)
    log_q = density(evidence.q[name])
    of_all = torch.logsumexp(weight + each.sum(-1), -1)
    of_each = torch.logsumexp(weight.unsqueeze(-1) + each, -2).sum(-1)
    return DivergenceParts(
        mean_particles(evidence, log_q - of_all),
        mean_particles(evidence, of_all - of_each),
        mean_particles(evidence, of_each - log_q - evidence.terms[name]),
    )


def beta_tc_elbo(
    evidence: Evidence,
    rows: int,
    beta: float = 6.0,
    *,
    mutual_information: float = 1.0,
    by_dimension: float = 1.0,
    name: str | None = None,
    sampler: Sampler = "stratified",
) -> Tensor:
    r"""ELBO whose total correlation is weighted, for dimensions that are independent of another.

    .. math:: E_q[\log p(x|z)] - \alpha\, I_q(x; z) - \beta\, KL\left(q(z) \| \prod_j
              q(z_j)\right) - \gamma \sum_j KL(q(z_j) \| p(z_j))

    With all three weights 1 it is the sampled ELBO, exactly. See :func:`divergence_parts` for the
    estimates; other latents keep their terms.

    Isolating Sources of Disentanglement in VAEs (Chen et al., 2018),
    https://arxiv.org/abs/1802.04942

    Args:
        evidence: The ledger.
        rows: N, the number of rows of the data set.
        beta: Weight of the total correlation.
        mutual_information: :math:`\alpha`, the weight of the mutual information.
        by_dimension: :math:`\gamma`, the weight of the divergences by dimension.
        name: The latent, where there are several.
        sampler: How the aggregate is estimated.

    Returns:
        One value per observation, shape ``(batch,)``. Not a bound on ``log p(x)``, unless all
        weights are 1: a minibatch's estimates of the parts may be negative.

    Raises:
        ValueError: As :func:`divergence_parts`.
    """
    name = the_latent(evidence, name, "beta_tc_elbo")
    parts = divergence_parts(evidence, rows, name=name, sampler=sampler)
    value = reconstruction(evidence) - evidence.weighted(
        name,
        mutual_information * parts.mutual_information
        + beta * parts.total_correlation
        + by_dimension * parts.by_dimension,
    )
    others = [
        evidence.weighted(other, evidence.latent_term(other))
        for other in evidence.latents
        if other != name
    ]
    return value + evidence.expectation(evidence.total(others)) if others else value


def _scores(evidence: Evidence, name: str) -> Tensor:
    r""":math:`\log q(z_{nj} | x_m)` of every draw under every row, ``(*particles, n, m, j)``."""
    site = evidence.q[name]
    if name in evidence.shared:
        raise ValueError(f"All rows share {name!r}: it has no aggregate over rows.")
    base = None if site.distribution is None else elementwise(site.distribution)
    if base is None:
        raise ValueError(
            f"{name!r} does not factorise over its dimensions, so its total correlation cannot be "
            f"computed from a minibatch; use a Gaussian with a diagonal covariance."
        )
    rows = site.batch_dims - 1  # where the rows are
    right = site.value.dim() - site.batch_dims
    if len(base.batch_shape) > right + 1:
        raise ValueError(
            f"q({name} | ...) depends on latents that were drawn as particles, so its aggregate "
            f"over rows is not the one of these draws; name a latent whose parents are all given."
        )
    batch = evidence.batch_shape[-1]
    scores = base.log_prob(site.value.unsqueeze(rows + 1))
    shape = (*site.value.shape[: rows + 1], batch, *site.value.shape[rows + 1 :])
    return scores.expand(shape).reshape(*shape[: rows + 2], -1)


def _log_weights(scores: Tensor, rows: int, sampler: Sampler) -> Tensor:
    """Log-weight of row m in the aggregate at a draw of row n, shape ``(n, m)``."""
    batch = scores.shape[-2]
    if batch == 1:  # nothing else is known of the aggregate
        return scores.new_zeros(1, 1)
    if sampler == "weighted":
        return scores.new_full((batch, batch), -math.log(rows * batch))
    if rows == 1:
        return scores.new_full((batch, batch), -math.log(batch))
    other = math.log((rows - 1) / (rows * (batch - 1)))
    own = torch.eye(batch, dtype=torch.bool, device=scores.device)
    return torch.where(own, -math.log(rows), other).to(scores.dtype)
