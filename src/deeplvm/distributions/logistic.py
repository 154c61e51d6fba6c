"""The logistic distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus


class Logistic(Distribution):
    r"""Density :math:`\sigma'((x - \mu) / s) / s`, the derivative of a sigmoid.

    Args:
        loc: The mean :math:`\mu`, shape ``(*batch,)``.
        scale: :math:`s`, broadcastable; the standard deviation is :math:`\pi s / \sqrt{3}`.

    Examples:
        >>> Logistic(torch.tensor(0.0), torch.tensor(1.0)).log_prob(torch.tensor([0.0, 1e4]))
        tensor([-1.3863e+00, -1.0000e+04])
    """

    has_rsample = True
    support = constraints.real
    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (math.pi**2 / 3)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Logistic:
        return Logistic(self.loc.expand(*batch_shape), self.scale.expand(*batch_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        uniform = torch.rand(
            self._extended_shape(Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device
        )
        tiny = torch.finfo(uniform.dtype).tiny
        return self.loc + self.scale * torch.logit(uniform.clamp(min=tiny))

    def log_prob(self, value: Tensor) -> Tensor:
        distance = ((value - self.loc) / self.scale).abs()
        return -distance - 2.0 * softplus(-distance) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).sigmoid()

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * torch.logit(value)

    def entropy(self) -> Tensor:
        return self.scale.log() + 2.0
