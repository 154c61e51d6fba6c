"""Real values between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import constraints, register_kl

from deeplvm.distributions.elements import Elements
from deeplvm.distributions.gamma_functions import log_binomial


class Beta(Elements):
    r"""Density :math:`x^{a - 1} (1 - x)^{b - 1} / B(a, b)` on (0, 1).

    Drawn as :math:`g_a / (g_a + g_b)` from two gamma variables, so that it can be traced, and
    kept off 0 and 1, where the density is zero or infinite.

    Args:
        concentration1: a > 0, shape ``(*batch,)``.
        concentration0: b > 0, broadcastable to a.
    """

    names = ("concentration1", "concentration0")
    support = constraints.unit_interval
    has_rsample = True
    concentration1: Tensor
    concentration0: Tensor

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def variance(self) -> Tensor:
        total = self.concentration1 + self.concentration0
        return self.mean * (self.concentration0 / total) / (total + 1)

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


class ContinuousBernoulli(Elements):
    r"""Density :math:`p(x) = e^{\eta x} \, \eta / (e^\eta - 1)` on [0, 1].

    The normaliser is what a Bernoulli likelihood on grey values lacks. Torch's class works with
    :math:`\lambda = \sigma(\eta)`, which it must clamp near 0 and 1 and interpolates in a wide
    band around 1/2; in the logit everything is smooth, and exact to rounding for every
    :math:`\eta`.

    Args:
        logits: :math:`\eta`, shape ``(*batch,)``.

    The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem &
    Cunningham, 2019), https://arxiv.org/abs/1907.06845

    Examples:
        >>> ContinuousBernoulli(torch.tensor([0.0, 1e4])).log_prob(torch.tensor([0.3, 1.0]))
        tensor([0.0000, 9.2103])
    """

    names = ("logits",)
    support = constraints.unit_interval
    has_rsample = True
    logits: Tensor

    @property
    def mean(self) -> Tensor:
        r""":math:`1 / (1 - e^{-\eta}) - 1 / \eta`."""
        logits = self.logits
        near = logits.abs() < 0.1
        far = torch.where(near, 1.0, logits)
        square = torch.where(near, logits, 0.0).square()
        # Taylor: 1/2 + eta/12 - eta^3/720 + eta^5/30240 - eta^7/1209600
        series = 1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600))
        exact = torch.reciprocal(-torch.expm1(-far)) - torch.reciprocal(far)
        return torch.where(near, 0.5 + logits * series, exact)

    @property
    def variance(self) -> Tensor:
        r""":math:`1 / \eta^2 - 1 / (4 \sinh^2(\eta / 2))`."""
        logits = self.logits
        near = logits.abs() < 0.1
        far = torch.where(near, 1.0, logits).abs()
        square = torch.where(near, logits, 0.0).square()
        series = 1 / 12 - square * (1 / 240 - square * (1 / 6048 - square / 172800))
        exact = far.square().reciprocal() - torch.exp(-far) / torch.expm1(-far).square()
        return torch.where(near, series, exact)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.logits.dtype)
        near, far, series = self._near_zero()
        # far from 0 count from the likely end: eta x - log(...) would cancel for large eta
        from_end = torch.where(far > 0, 1 - value, value)
        exact = -far.abs() * from_end - _log_width(far.abs())
        return torch.where(near, value * self.logits - series, exact)

    def log_normalizer(self) -> Tensor:
        r""":math:`\log \int_0^1 e^{\eta x} dx = \eta_+ + \log((1 - e^{-|\eta|}) / |\eta|)`."""
        near, far, series = self._near_zero()
        return torch.where(near, series, far.clamp_min(0) + _log_width(far.abs()))

    def _near_zero(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the logit is near 0; logits that are not; the log-normaliser's series there."""
        logits = self.logits
        near = logits.abs() < 0.1
        small = torch.where(near, logits, 0.0)
        square = small.square()
        # Taylor: eta/2 + eta^2/24 - eta^4/2880 + eta^6/181440
        series = 0.5 * small + square * (1 / 24 - square * (1 / 2880 - square / 181440))
        return near, torch.where(near, 1.0, logits), series

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def cdf(self, value: Tensor) -> Tensor:
        r""":math:`(e^{\eta x} - 1) / (e^\eta - 1)`."""
        logits = self.logits
        near = logits.abs() < 1e-3
        far = torch.where(near, 1.0, logits)
        steep = far.abs()
        # with |eta|: F(x) = e^{-a (1 - x)} (1 - e^{-a x}) / (1 - e^{-a}), and its mirror image
        place = torch.where(far > 0, value, 1 - value)
        rising = torch.exp(-steep * (1 - place)) * torch.expm1(-steep * place)
        rising = rising / torch.expm1(-steep)
        exact = torch.where(far > 0, rising, 1 - rising)
        series = value - 0.5 * logits * value * (1 - value)
        return torch.where(near, series, exact)

    def icdf(self, value: Tensor) -> Tensor:
        r""":math:`\log(1 + u (e^\eta - 1)) / \eta`."""
        logits = self.logits
        near = logits.abs() < 1e-3
        far = torch.where(near, 1.0, logits)
        steep = far.abs()
        place = torch.where(far > 0, value, 1 - value)
        rising = 1 + torch.log1p((1 - place) * torch.expm1(-steep)) / steep
        exact = torch.where(far > 0, rising, 1 - rising).clamp(0, 1)
        bend = value * (1 - value)
        series = value + logits * bend * (0.5 + logits * (1 - 2 * value) / 6)
        return torch.where(near, series, exact)

    def entropy(self) -> Tensor:
        return self.log_normalizer() - self.logits * self.mean


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _kl_continuous_bernoullis(q: ContinuousBernoulli, p: ContinuousBernoulli) -> Tensor:
    return (q.logits - p.logits) * q.mean - q.log_normalizer() + p.log_normalizer()


def _log_width(steep: Tensor) -> Tensor:
    r""":math:`\log((1 - e^{-a}) / a)`, a > 0."""
    return torch.log(-torch.expm1(-steep)) - steep.log()
