"""What wake-sleep ascends for its inference model: the posterior's own draws, and dreams."""

from __future__ import annotations

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence, density
from deeplvm.objectives.groups import full


def wake_phi(evidence: Evidence) -> Tensor:
    r"""Importance-weighted score of the draws, :math:`\sum_k \tilde w_k \log q(z_k | x)`.

    The normalised weights :math:`\tilde w_k \propto m_k\, p(x, z_k) / q(z_k|x)` are held fixed.
    Its gradient is a (biased, consistent) estimate of that of
    :math:`-KL(p(z|x) \| q(z|x))` for the parameters of q. The draws must carry no gradient; one
    particle teaches nothing, as its weight is 1 whatever it is. For the parameters of p, the
    objective of the same draws is :func:`~deeplvm.objectives.iwae`.

    Reweighted Wake-Sleep (Bornschein & Bengio, 2015), https://arxiv.org/abs/1406.2751

    Returns:
        One value per observation, shape ``(batch,)``. Not a bound on ``log p(x)``: minus a
        cross-entropy, to be ascended in the parameters of q alone.

    Raises:
        ValueError: If a gradient flows through the draws.
    """
    for name in evidence.latents:
        if evidence.q[name].value.requires_grad:
            raise ValueError(
                f"wake_phi scores draws that are held fixed, but a gradient flows through "
                f"{name!r}; draw it with draw={{{name!r}: Sampled()}}."
            )
    log_q = full(evidence, _log_q(evidence))
    if not evidence.particle_dims:
        return log_q
    weights = _normalised_weights(evidence)
    return (weights * log_q).sum(evidence.particle_dims)


def sleep(evidence: Evidence) -> Tensor:
    r"""Score of a dream's latents, :math:`\log q(z | x)` with :math:`x, z \sim p`.

    A dream is a row drawn from the model, latents and all, that is then given in full; see
    :func:`~deeplvm.learning.dream`. The gradient is that of
    :math:`-E_{p(x)} KL(p(z|x) \| q(z|x))`.

    The wake-sleep algorithm for unsupervised neural networks (Hinton et al., 1995),
    https://doi.org/10.1126/science.7761831; The Helmholtz machine (Dayan et al., 1995),
    https://doi.org/10.1162/neco.1995.7.5.889

    Returns:
        One value per observation, shape ``(batch,)``. Not a bound on ``log p(x)``: the rows are
        dreams.

    Raises:
        ValueError: If q drew a latent itself, so that the evidence is not one of a dream.
    """
    if evidence.latents:
        raise ValueError(
            f"sleep scores a dream, in which every latent is given, but q drew "
            f"{', '.join(evidence.latents)}; train with the phases of "
            f"deeplvm.learning.wake_sleep(model)."
        )
    scored = [
        density(evidence.q[name]) for name in evidence.q if evidence.q[name].log_prob is not None
    ]
    return evidence.expectation(evidence.total(scored))


def _log_q(evidence: Evidence) -> Tensor:
    total = torch.zeros(())
    for name in evidence.latents:
        total = total + density(evidence.q[name]) * evidence.scale(name)
    return total


@torch.no_grad()
def _normalised_weights(evidence: Evidence) -> Tensor:
    total = evidence.log_measure + evidence.log_weight
    return torch.exp(total - torch.logsumexp(total, evidence.particle_dims, keepdim=True))
