"""The distribution of a Gaussian draw bent by inverse autoregressive steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

_NONE = Size()

# (value, context) -> (m, s), each of the value's shape; element i depends on elements before i
# only.
AutoregressiveNetwork = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class InverseAutoregressiveNormal(Distribution):
    r"""A normal draw after inverse autoregressive steps, drawn and scored in one pass.

    .. math:: z_0 = \mu + \sigma_0\, \epsilon, \qquad
              z_t = \sigma_t\, z_{t-1} + (1 - \sigma_t)\, m_t, \qquad
              \sigma_t = \mathrm{sigmoid}(s_t)

    .. math:: \log q(z_T) = -\sum_i \Big(\tfrac12 \epsilon_i^2 + \tfrac12 \log 2\pi
              + \sum_{t=0}^T \log \sigma_{t,i}\Big)

    where :math:`(m_t, s_t)` of an element depend on earlier elements of :math:`z_{t-1}` and on the
    context. The order of the elements is reversed after each step. The sum over t starts at 0, the
    Gaussian's own scale.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016,
    algorithm 1), https://arxiv.org/abs/1606.04934

    Args:
        loc: mean of the first draw, shape ``(*batch, D)``.
        scale: its standard deviation, same shape.
        context: what enters every step, shape ``(*batch, C)``.
        networks: one a step.
        batch_shape: the batch shape, where it is larger than the parameters'.

    A draw costs one pass of each network; the density of a value drawn elsewhere D passes.
    """

    has_rsample = True
    arg_constraints = {"loc": constraints.real_vector}  # noqa: RUF012 - torch's own form
    support = constraints.real_vector

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        context: Tensor,
        networks: Sequence[AutoregressiveNetwork],
        batch_shape: Size | None = None,
    ) -> None:
        self.loc, self.scale, self.context = loc, scale, context
        self.networks = networks
        shape = loc.shape[:-1] if batch_shape is None else batch_shape
        super().__init__(shape, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> InverseAutoregressiveNormal:
        return InverseAutoregressiveNormal(
            self.loc, self.scale, self.context, self.networks, Size(batch_shape)
        )

    def rsample(self, sample_shape: Size = _NONE) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Size = _NONE) -> tuple[Tensor, Tensor]:
        """A draw ``(*sample, *batch, D)`` and its log-density ``(*sample, *batch)``, nats."""
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        volume = self.scale.log()
        z = self.loc + self.scale * noise
        for network in self.networks:
            m, s = network(z, self.context)
            z = m + torch.sigmoid(s) * (z - m)
            volume = (volume + torch.nn.functional.logsigmoid(s)).flip(-1)
            z = z.flip(-1)
        return z, self._log_prob(noise, volume)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, by inverting the steps one element after the other."""
        z, volume = value, torch.zeros_like(value)
        for network in reversed(list(self.networks)):
            z, volume = z.flip(-1), volume.flip(-1)
            before = torch.zeros_like(z)
            for _ in range(z.shape[-1]):  # each pass settles one more element
                m, s = network(before, self.context)
                before = m + (z - m) / torch.sigmoid(s)
            _, s = network(before, self.context)
            z, volume = before, volume + torch.nn.functional.logsigmoid(s)
        noise = (z - self.loc) / self.scale
        log_prob = self._log_prob(noise, volume + self.scale.log())
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def _log_prob(self, noise: Tensor, volume: Tensor) -> Tensor:
        constant = 0.5 * math.log(2 * math.pi)
        return -(0.5 * noise.square() + constant + volume).sum(-1)
