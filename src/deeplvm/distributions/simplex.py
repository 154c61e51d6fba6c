"""Shares that sum to one: Dirichlet, and relaxed one-hot vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor, distributions
from torch.distributions import Distribution, constraints, register_kl


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


class Concrete(Distribution):
    r"""A point of the simplex near its corners, :math:`y = \mathrm{softmax}((\eta + g) / \tau)`.

    .. math:: \log p(y) = \log (K - 1)! + (K - 1) \log \tau
              + \sum_k ( \eta_k - (\tau + 1) \log y_k )
              - K \log \sum_k e^{\eta_k} y_k^{-\tau}

    with Gumbel noise g, a density by the first :math:`K - 1` elements. The largest element is the
    k-th with probability :math:`\mathrm{softmax}(\eta)_k`, at any temperature.

    An element below the smallest positive number is that number, in a draw and in its density;
    in float32 that happens when the logits, with their noise, differ by more than
    :math:`87 \tau`.

    Args:
        logits: :math:`\eta`, shape ``(*batch, classes)``.
        temperature: :math:`\tau`, a positive number.

    The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables (Maddison, Mnih
    & Teh, 2017), https://arxiv.org/abs/1611.00712

    Examples:
        >>> concrete = Concrete(torch.tensor([0.2, 0.3, 0.5]).log(), torch.tensor(0.7))
        >>> concrete.log_prob(torch.tensor([0.1, 0.6, 0.3]))
        tensor(0.4446)
    """

    has_rsample = True
    support = constraints.simplex
    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012

    def __init__(self, logits: Tensor, temperature: Tensor) -> None:
        self.logits, self.temperature = logits, temperature
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Concrete:
        return Concrete(self.logits.expand(*batch_shape, -1), self.temperature)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        logits = self.logits.expand(self._extended_shape(Size(sample_shape)))
        tiny = torch.finfo(logits.dtype).tiny
        gumbel = -torch.empty_like(logits).exponential_().clamp(min=tiny).log()
        return ((logits + gumbel) / self.temperature).softmax(-1).clamp(min=tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        classes = self.logits.shape[-1]
        log_value = value.clamp(min=torch.finfo(value.dtype).tiny).log()
        scores = self.logits - self.temperature * log_value
        constant = math.lgamma(classes) + (classes - 1) * self.temperature.log()
        return constant + (scores - log_value).sum(-1) - classes * scores.logsumexp(-1)
