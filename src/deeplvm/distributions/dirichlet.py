"""Dirichlet distribution that can be traced, with draws off the faces of the simplex."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, distributions
from torch.distributions import register_kl


class Dirichlet(distributions.Dirichlet):
    r"""Density :math:`\propto \prod_k x_k^{a_k - 1}` of shares that sum to one.

    The same law as torch's. Drawn as :math:`g_k / \sum_j g_j` from gamma variables, which are
    reparameterised implicitly, so that it can be traced, and kept off 0, where the density is
    zero or infinite.

    Implicit Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018),
    https://arxiv.org/abs/1805.08498

    Args:
        concentration: a > 0, shape ``(*batch, K)``.
    """

    def __init__(self, concentration: Tensor) -> None:
        super().__init__(concentration, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Dirichlet:
        return Dirichlet(self.concentration.expand(Size(batch_shape) + self.event_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        least = torch.finfo(self.concentration.dtype).tiny
        parts = torch._standard_gamma(self.concentration.expand(shape)).clamp_min(least)
        return (parts / parts.sum(-1, keepdim=True)).clamp_min(least)

    def log_prob(self, value: Tensor) -> Tensor:
        # in double precision: of large concentrations little is left of what is subtracted
        exponents = (self.concentration.double() - 1.0) * value.double().log()
        return (exponents.sum(-1) - self._log_normalizer()).to(value.dtype)

    def entropy(self) -> Tensor:
        wide = distributions.Dirichlet(self.concentration.double(), validate_args=False)
        return wide.entropy().to(self.concentration.dtype)

    def _log_normalizer(self) -> Tensor:
        wide = self.concentration.double()
        return torch.lgamma(wide).sum(-1) - torch.lgamma(wide.sum(-1))


@register_kl(Dirichlet, Dirichlet)
def _kl_dirichlets(q: Dirichlet, p: Dirichlet) -> Tensor:
    one, other = q.concentration.double(), p.concentration.double()
    expected = (one - other) * (torch.digamma(one) - torch.digamma(one.sum(-1, keepdim=True)))
    divergence = p._log_normalizer() - q._log_normalizer() + expected.sum(-1)
    return divergence.to(q.concentration.dtype)
