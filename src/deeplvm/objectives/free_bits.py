"""Free bits: a minimum of divergence that costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from deeplvm.evidence import Evidence


def free_bits(
    evidence: Evidence,
    minimum: float | Mapping[str, float] = 0.5,
    *,
    groups: Literal["variable", "dimension"] = "variable",
) -> Tensor:
    r"""ELBO in which no group of latents gains by a divergence below a minimum.

    .. math:: E_M[E_q \log p(x|z)] - \sum_j \max(\lambda, E_M[KL(q(z_j|x) \| p(z_j))])

    The mean over the minibatch is inside the maximum: the whole batch shares the allowance.
    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016,
    appendix C.8), https://arxiv.org/abs/1606.04934

    Args:
        evidence: The ledger.
        minimum: :math:`\lambda` in nats per group, or by name of the latent.
        groups: Each latent variable a group, or each dimension of each (whose distributions must
            then factorise over dimensions and have a divergence in closed form).

    Returns:
        One value per observation, shape ``(batch,)``; its mean is the objective. At most the ELBO
        in expectation, so a lower bound on ``log p(x)``; ``minimum=0`` with non-negative
        divergences is the ELBO.
    """
    total = evidence.expectation(
        evidence.total([evidence.terms[name] for name in evidence.observed])
    )
    for name in evidence.latents:
        allowed = minimum if isinstance(minimum, int | float) else minimum.get(name, 0.0)
        if groups == "dimension":
            by_dimension = evidence.kl_by_dimension(name)
            event = evidence.q[name].value.dim() - evidence.q[name].batch_dims
            divergence = _mean_rows(
                evidence,
                by_dimension.movedim(tuple(range(-event, 0)), tuple(range(event)))
                if event
                else by_dimension,
                event,
            )
        else:
            each = evidence.divergence(name)
            divergence = _mean_rows(evidence, each, 0)
        floored = torch.clamp(divergence, min=allowed).sum()
        total = total - evidence.weighted(name, floored)
    return total


def _mean_rows(evidence: Evidence, values: Tensor, lead: int) -> Tensor:
    """Mean over particles and rows of ``(*lead, *particles, batch)``, shape ``lead``."""
    groups, rest = values.shape[:lead], values.shape[lead:]
    # what depends on no draw has no particle dimensions: they belong after the groups
    absent = (1,) * (len(evidence.batch_shape) - len(rest))
    full = values.reshape(*groups, *absent, *rest).expand(*groups, *evidence.batch_shape)
    if evidence.particle_dims and not isinstance(evidence.log_measure, float):
        full = evidence.log_measure.exp() * full
        return full.sum(tuple(range(lead, full.dim() - 1))).mean(-1)
    return full.mean(tuple(range(lead, full.dim())))
