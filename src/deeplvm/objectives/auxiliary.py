"""The ELBO, and what a computed name of p earns beside it."""

from __future__ import annotations

from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.trace import sum_right
from deeplvm.objectives.bounds import elbo
from deeplvm.registry import NonNegative


def auxiliary_elbo(evidence: Evidence, weight: NonNegative = 1.0, name: str = "a") -> Tensor:
    r"""The ELBO, and a name that p computes: :math:`E_q[\log p(x, z) - \log q(z | x) + \alpha a]`.

    The name is the logarithm of what else should be known of x from the latents
    (:class:`~deeplvm.conditionals.LogDensity`): its words in any order, or each of them without
    those before it. So latents are used that a decoder which sees the words before would ignore.
    What is modelled stays p(x, z), and what is measured its bound.

    A Hybrid Convolutional Variational Autoencoder for Text Generation (Semeniuta et al., 2017),
    https://arxiv.org/abs/1702.02390; Learning Discourse-level Diversity for Neural Dialog Models
    using Conditional Variational Autoencoders (Zhao et al., 2017),
    https://arxiv.org/abs/1703.10960

    Args:
        evidence: The ledger.
        weight: :math:`\alpha`.
        name: The computed name, of shape ``(*particles, batch)``, or with more to the right, which
            is summed.

    Returns:
        One value per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` in
        expectation where the name is the logarithm of a probability, looser than the ELBO.

    Raises:
        ValueError: If p computes no such name.
    """
    # of the terms alone, as an estimator may ask for it, there is nothing to compute it from
    site = evidence.p.get(name) if evidence.p else evidence.p[name]
    if site is None or site.log_prob is not None:
        raise ValueError(
            f"p computes no {name!r} for the auxiliary objective; add '{name} | z, x': "
            f"LogDensity(...) to p, or ascend the elbo."
        )
    total = sum_right(site.value, site.batch_dims).expand(evidence.batch_shape)
    earned = evidence.expectation(total)
    return elbo(evidence) + weight * earned
