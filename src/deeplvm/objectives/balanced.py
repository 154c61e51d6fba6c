"""The bound of a graph with its few edges weighted like its many other pairs."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.objectives.bounds import elbo


def balanced_elbo(evidence: Evidence, *, divergence: bool = True) -> Tensor:
    r"""ELBO in which the edges of a graph weigh as much as all other pairs.

    .. math:: E_q[\textstyle\sum_{i < j} w\, a_{ij} \log \sigma(z_i^\top z_j)
              + (1 - a_{ij}) \log \sigma(-z_i^\top z_j)] - KL(q(z | x, a) \| p(z))

    The weighted cross-entropy of Variational Graph Auto-Encoders (Kipf & Welling, 2016),
    https://arxiv.org/abs/1611.07308, for names whose distribution has a ``balanced_log_prob``,
    such as :class:`~deeplvm.distributions.graph.InnerProductGraph`; divergences in closed form.

    Args:
        evidence: The ledger.
        divergence: Whether the divergence counts; without it, the plain autoencoder.

    Returns:
        One value per observation, shape ``(batch,)``. Not a bound on ``log p(x)``, as weights are
        no density: the ELBO of the same ledger is one.
    """
    weighted = {
        name: balanced(site.value)
        for name, site in evidence.p.items()
        if (balanced := getattr(site.distribution, "balanced_log_prob", None)) is not None
    }
    ledger = replace(evidence, terms=evidence.terms | weighted)
    return elbo(ledger if divergence else ledger.temper(0.0), "analytic")
