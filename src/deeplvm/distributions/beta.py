"""Beta distribution whose draws stay inside (0, 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, register_kl

from deeplvm.distributions.gamma_functions import log_binomial


class Beta(Distribution):
    r"""Density :math:`x^{a - 1} (1 - x)^{b - 1} / B(a, b)` on (0, 1).

    Drawn as :math:`g_a / (g_a + g_b)` from two gamma variables, so that it can be traced, and
    kept off 0 and 1, where the density is zero or infinite.

    Args:
        concentration1: a > 0, shape ``(*batch,)``.
        concentration0: b > 0, broadcastable to a.
    """

    arg_constraints = {  # noqa: RUF012  (torch's own name)
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, concentration1: Tensor, concentration0: Tensor) -> None:
        both = torch.broadcast_tensors(concentration1, concentration0)
        self.concentration1, self.concentration0 = both
        super().__init__(self.concentration1.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def variance(self) -> Tensor:
        total = self.concentration1 + self.concentration0
        return self.mean * (self.concentration0 / total) / (total + 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Beta:
        shape = Size(batch_shape)
        return Beta(self.concentration1.expand(shape), self.concentration0.expand(shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        limits = torch.finfo(self.concentration1.dtype)
        up = torch._standard_gamma(self.concentration1.expand(shape)).clamp_min(limits.tiny)
        down = torch._standard_gamma(self.concentration0.expand(shape)).clamp_min(limits.tiny)
        return (up / (up + down)).clamp(limits.tiny, 1 - limits.eps)

    def log_prob(self, value: Tensor) -> Tensor:
        up, down = self.concentration1, self.concentration0
        total = up + down
        # n = a + b trials with a successes at a share of x, times ab / n, over x (1 - x)
        apart = up * (1 - value) - down * value
        trials = log_binomial(up, down, value, 1 - value, apart)
        return trials + (up * down / total).log() - value.log() - torch.log1p(-value)

    def entropy(self) -> Tensor:
        up, down = self.concentration1.double(), self.concentration0.double()
        both = (up + down - 2) * torch.digamma(up + down)
        each = (up - 1) * torch.digamma(up) + (down - 1) * torch.digamma(down)
        return (self._log_normalizer() - each + both).to(self.concentration1.dtype)

    def _log_normalizer(self) -> Tensor:
        # in double precision: of large concentrations little is left of what is subtracted
        up, down = self.concentration1.double(), self.concentration0.double()
        return torch.lgamma(up) + torch.lgamma(down) - torch.lgamma(up + down)


@register_kl(Beta, Beta)
def _kl_betas(q: Beta, p: Beta) -> Tensor:
    up, down = q.concentration1.double(), q.concentration0.double()
    expected = (
        (up - p.concentration1) * torch.digamma(up)
        + (down - p.concentration0) * torch.digamma(down)
        + (p.concentration1 - up + p.concentration0 - down) * torch.digamma(up + down)
    )
    divergence = p._log_normalizer() - q._log_normalizer() + expected
    return divergence.to(q.concentration1.dtype)
