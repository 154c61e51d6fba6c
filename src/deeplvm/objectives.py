r"""Objectives: functions of Evidence that return one bound per observation; higher is better.

Every one of them takes KL weights (:meth:`deeplvm.evidence.Evidence.temper`) and every way of
drawing latents, because it reads nothing but the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from deeplvm.evidence import Evidence, density

Form = Literal["sampled", "analytic", "entropy"]


def elbo(evidence: Evidence, form: Form = "sampled") -> Tensor:
    r"""Evidence lower bound :math:`E_q[\log p(x, z) - \log q(z | x)] \le \log p(x)`.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Args:
        evidence: The ledger.
        form: Three estimators of the same number. ``"sampled"``: the mean of the log-weights
            (algorithm 2 of the monograph). ``"analytic"``: divergences in closed form where the
            names and the distributions allow it, the sampled term elsewhere. ``"entropy"``: the
            mean of ``log p`` plus the entropy of each latent in closed form.

    Returns:
        One bound per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` in
        expectation.

    Raises:
        ValueError: If ``form="entropy"`` and an entropy has no closed form.
    """
    if form == "sampled":
        return evidence.expectation(evidence.log_weight)
    parts = [evidence.terms[name] for name in evidence.observed]
    for name in evidence.latents:
        if form == "analytic":
            term = -evidence.divergence(name)
        elif form == "entropy":
            log_p = density(evidence.p[name])
            scale = evidence.row_weight if name in evidence.shared else 1.0
            term = log_p * scale + evidence.entropy(name)
        else:
            raise ValueError(f"form is 'sampled', 'analytic' or 'entropy', not {form!r}.")
        parts.append(evidence.weighted(name, term))
    return evidence.expectation(evidence.total(parts))


def beta_elbo(evidence: Evidence, beta: float = 4.0) -> Tensor:
    r"""ELBO with its divergences weighted: :math:`E_q[\log p(x|z)] - \beta\, KL(q \| p)`.

    beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl

    Returns:
        One value per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` for
        ``beta >= 1`` (looser than the ELBO), not for ``beta < 1``.
    """
    return elbo(evidence.temper(beta))


def iwae(evidence: Evidence) -> Tensor:
    r"""Importance-weighted bound :math:`\log \sum_k m_k\, p(x, z_k) / q(z_k | x)`.

    Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

    Returns:
        One bound per observation, shape ``(batch,)``; tightens as particles grow, equals the
        sampled ELBO for one.
    """
    return evidence.log_expectation_exp(evidence.log_weight)


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
